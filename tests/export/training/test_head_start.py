"""The last layer's start: what it computes, and that it is the regression it says it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytest.importorskip("sklearn", reason="needs scikit-learn: pip install 'glomedge[export]'")

from glomedge.cases.decision import cross_entropy
from glomedge_export.network import network
from glomedge_export.training import head_start
from helpers.small_network import shrink

pytestmark = pytest.mark.keras


def drawn(n: int, rng: np.random.Generator) -> tuple[head_start.Features, np.ndarray]:
    """Features of very different scales, some dead, of which three tell the label."""
    labels = rng.integers(0, 2, n)
    features = rng.normal(size=(n, 40))
    features[:, :3] += 1.5 * labels[:, None]
    features *= np.logspace(-3, 3, 40)
    features[:, 20:25] = 0.0
    return features.astype(np.float32), labels.astype(np.int64)


def regression(penalty: float, train: head_start.Features, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Logits of scikit-learn's regression on features over their root mean square, nothing folded or centred."""
    from sklearn.linear_model import LogisticRegression

    rms = np.sqrt((train.astype(np.float64) ** 2).mean(0))
    rms[rms == 0.0] = np.inf
    share = labels.mean()
    strength = 1 / (penalty * len(train) * share * (1 - share) * 0.3 / 0.7)
    fitted = LogisticRegression(C=strength, max_iter=20000, tol=1e-8).fit(train / rms, labels)
    return lambda features: np.asarray(fitted.decision_function(features / rms))


def test_the_folded_layer_is_the_scaled_regression() -> None:
    rng = np.random.default_rng(3)
    train, train_labels = drawn(200, rng)
    validation, validation_labels = drawn(100, rng)
    head = head_start.fit_head(train, train_labels, validation, validation_labels)
    logits = validation @ head.kernel[:, 0] + head.bias[0]
    expected = regression(head.penalty, train, train_labels)(validation)
    assert np.allclose(logits, expected, rtol=5e-3, atol=5e-3)


def test_the_penalty_is_the_one_of_least_validation_cross_entropy() -> None:
    rng = np.random.default_rng(4)
    train, train_labels = drawn(60, rng)
    validation, validation_labels = drawn(100, rng)
    losses = {}
    for penalty in head_start.PENALTIES:
        losses[penalty] = cross_entropy(regression(penalty, train, train_labels)(validation), validation_labels)
    head = head_start.fit_head(train, train_labels, validation, validation_labels)
    assert head.penalty == min(losses, key=losses.__getitem__)
    assert len({round(loss, 3) for loss in losses.values()}) > 1


def test_dead_channels_get_no_weight() -> None:
    rng = np.random.default_rng(5)
    train, train_labels = drawn(80, rng)
    validation, validation_labels = drawn(40, rng)
    head = head_start.fit_head(train, train_labels, validation, validation_labels)
    assert np.isfinite(head.kernel).all()
    assert not head.kernel[20:25].any()


def test_start_head_changes_the_last_layer_alone_and_keeps_the_order_of_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    rng = np.random.default_rng(6)
    model = network.assemble("resnet_v2", seed=1)
    before = [np.asarray(variable) for variable in network.backbone_of(model).variables]
    crops = rng.integers(0, 256, (14, 224, 224, 3)).astype(np.uint8)
    crops[::2] //= 2
    labels = (np.arange(14) % 2).astype(np.int64)
    train, validation = np.array([9, 0, 5, 2, 12, 3, 8, 1]), np.array([13, 4, 7, 6])
    head = head_start.start_head(model, crops, labels, train, validation)
    kernel, bias = model.get_layer("probability").get_weights()
    assert np.array_equal(kernel, head.kernel)
    assert np.array_equal(bias, head.bias)
    assert all(
        np.array_equal(old, np.asarray(new))
        for old, new in zip(before, network.backbone_of(model).variables, strict=True)
    )
    pooled = head_start.PooledFeatures(model)
    one_by_one = np.concatenate([pooled(crops, np.array([i])) for i in train])
    assert np.allclose(pooled(crops, train, batch_size=3), one_by_one, rtol=1e-4, atol=1e-4)
    assert not np.allclose(pooled(crops, train, augmented=True), one_by_one, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [(8, False), (8, True), (4, False)]), ({"max_crops": 6, "augmented": False}, [(6, False), (4, False)])],
)
def test_which_crops_the_layer_is_fitted_to(
    options: dict[str, Any], expected: list[tuple[int, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    labels = (np.arange(14) % 2).astype(np.int64)

    class Pooled:
        def __init__(self, model: Any) -> None:
            pass

        def __call__(self, crops: Any, indices: Any, on_part: Any, *, augmented: bool) -> head_start.Features:
            seen.append((len(indices), augmented))
            on_part(len(indices), len(indices))
            features = np.random.default_rng(len(seen)).normal(size=(len(indices), 2048))
            features[:, 0] += 9 * labels[indices]
            return features.astype(np.float32)

    monkeypatch.setattr(head_start, "PooledFeatures", Pooled)
    progress: list[tuple[int, int]] = []
    head_start.start_head(
        network.assemble("resnet_v2", seed=1),
        np.zeros((14, 1), np.uint8),
        labels,
        np.array([9, 0, 5, 2, 12, 3, 8, 1]),
        np.array([13, 4, 7, 6]),
        lambda done, total: progress.append((done, total)),
        **options,
    )
    assert seen == expected
    total = sum(count for count, _ in expected)
    assert progress[-1] == (total, total)
