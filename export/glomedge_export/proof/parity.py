"""Two runs of one model, compared on the answers that matter: crops, biopsies, maps.

The reference is Keras for the float32 file, and the float32 graph for the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import GateError
from glomedge.model.spec import MAP_SIZE, GateLimits, Parity

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]
BATCH = 8


@dataclass(frozen=True)
class Crops:
    """Enhanced crops to compare on, none of them seen by calibration.

    Attributes:
        images_nhwc: uint8 ``[N, 224, 224, 3]`` RGB.
        labels: int ``[N]``, 1 for globally sclerotic.
        cases: biopsy of each crop, ``N`` of them.
        names: of each crop.
        source: where they come from, in words.
    """

    images_nhwc: Images
    labels: npt.NDArray[np.int64]
    cases: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.images_nhwc)


@dataclass(frozen=True)
class Answers:
    """What a model said.

    Attributes:
        probability: float32 ``[N]``.
        activation: float32 ``[N, 7, 7]``; None where the runner gives no map (Keras).
        logit: float64 ``[N]`` before temperature, measured apart from the map; None where not measured.
    """

    probability: Floats
    activation: Floats | None = None
    logit: npt.NDArray[np.float64] | None = None


def nothing(_what: str, _done: int, _of: int) -> None:
    """Progress that is not shown."""


def keras_answers(
    model: Any, images_nhwc: Images, temperature: float = 1.0, *, batch: int = 32, progress: Progress = nothing
) -> Answers:
    """Keras' own ``predict``: probability from the model itself, logit from its pooled features.

    With a temperature other than 1 the reference probability is sigmoid(logit / temperature).
    """
    import keras

    from glomedge_export.network.network import inference_parts

    parts = inference_parts(model)
    heads = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    # With the pooled features as a second output, one pass over the crops gives both.
    both = keras.Model(model.inputs, [model.output, heads[0].input])
    probabilities, pooled = [], []
    for start in range(0, len(images_nhwc), batch):
        p, features = both.predict(np.asarray(images_nhwc[start : start + batch], np.float32), verbose=0)
        probabilities.append(p.reshape(-1))
        pooled.append(features)
        progress("Keras", min(start + batch, len(images_nhwc)), len(images_nhwc))
    logit = np.concatenate(pooled).astype(np.float64) @ parts.kernel.astype(np.float64)[:, 0] + float(parts.bias[0])
    probability = np.concatenate(probabilities).astype(np.float32)
    if temperature != 1.0:
        probability = (1.0 / (1.0 + np.exp(-logit / temperature))).astype(np.float32)
    return Answers(probability, None, logit)


class OnnxRunner:
    """One ONNX file on onnxruntime's CPU provider.

    Args:
        model: serialised ModelProto.
        literal: run QuantizeLinear and DequantizeLinear as written, fused into no integer kernel. That is how a
            file for another runtime is judged here: the pairs round exactly, the arithmetic between is float32,
            and the answer does not depend on which int8 instructions this processor has.
        fuse: let onnxruntime rewrite the graph; without, every node runs as it stands.
    """

    def __init__(self, model: bytes, *, literal: bool = False, fuse: bool = True) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if not fuse:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if literal:
            # Float fusions stay on (they only change the order of sums); no pair becomes an integer kernel.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.name = f"onnxruntime {ort.__version__} CPU" + (", quantisation as written" if literal else "")

    def __call__(self, images_nhwc: Images) -> tuple[Floats, Floats]:
        """``[N, 224, 224, 3]`` -> probability ``[N]``, activation ``[N, 7, 7]``."""
        probability, activation = self._session.run(["probability", "activation"], {"images": images_nhwc})
        return probability.reshape(-1), activation


class OpenvinoRunner:
    """One ONNX file on the OpenVINO CPU plugin, float32 where the file says float32 (no bf16)."""

    def __init__(self, model: bytes) -> None:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        )
        self._request = compiled.create_infer_request()
        self.name = f"openvino {openvino.__version__.split('-')[0]} CPU"

    def __call__(self, images_nhwc: Images) -> tuple[Floats, Floats]:
        """``[N, 224, 224, 3]`` -> probability ``[N]``, activation ``[N, 7, 7]``."""
        self._request.infer({"images": images_nhwc})
        probability = self._request.get_tensor("probability").data.copy()
        return probability.reshape(-1), self._request.get_tensor("activation").data.copy()


Runner = OnnxRunner | OpenvinoRunner


def onnx_answers(
    run: Callable[[Images], tuple[Floats, Floats]],
    images_nhwc: Images,
    *,
    batch: int = BATCH,
    what: str = "ONNX",
    progress: Progress = nothing,
) -> Answers:
    """Run all crops through one runner."""
    parts = []
    for start in range(0, len(images_nhwc), batch):
        parts.append(run(np.ascontiguousarray(images_nhwc[start : start + batch])))
        progress(what, min(start + batch, len(images_nhwc)), len(images_nhwc))
    return Answers(np.concatenate([p for p, _ in parts]), np.concatenate([a for _, a in parts]))


def auroc(labels: npt.NDArray[np.int64], scores: npt.NDArray[Any]) -> float | None:
    """Area under the ROC curve by ranks (Mann-Whitney U, ties count half); None with one class only."""
    positive, negative = scores[labels == 1], scores[labels != 1]
    if not len(positive) or not len(negative):
        return None
    ranks = _ranks(np.concatenate([positive, negative]))
    u = ranks[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(u / (len(positive) * len(negative)))


def _ranks(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Ranks from 1, ties share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[inverse]


def map_rank_correlations(reference: Floats, candidate: Floats) -> npt.NDArray[np.float64]:
    """Spearman's rank correlation of each crop's 7 x 7 map, ``[N]``; 1 where the reference map is flat."""
    correlations = np.ones(len(reference))
    for index, (a, b) in enumerate(zip(reference, candidate, strict=True)):
        x, y = _ranks(a.reshape(-1)), _ranks(b.reshape(-1))
        x, y = x - x.mean(), y - y.mean()
        scale = math.sqrt(float(x @ x) * float(y @ y))
        if float(x @ x) > 0.0:
            correlations[index] = float(x @ y) / scale if scale > 0.0 else 0.0
    return correlations


def biopsy_shift(
    cases: Sequence[str], reference: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]
) -> tuple[float, int, int]:
    """Per-biopsy answer: largest shift of %GS in points, Remuzzi grades changed, number of biopsies."""
    from glomedge.cases.summary import remuzzi_grade

    counts: dict[str, list[int]] = {}
    for case, a, b in zip(cases, reference, candidate, strict=True):
        entry = counts.setdefault(case, [0, 0, 0])
        entry[0] += int(a)
        entry[1] += int(b)
        entry[2] += 1
    shift = max((100.0 * abs(a - b) / n for a, b, n in counts.values()), default=0.0)
    changed = sum(remuzzi_grade(a, n) != remuzzi_grade(b, n) for a, b, n in counts.values())
    return shift, changed, len(counts)


def check_finite(answers: Answers, what: str) -> None:
    """Raises GateError where an answer is NaN or Inf."""
    bad = ~np.isfinite(answers.probability)
    if answers.activation is not None:
        bad |= ~np.isfinite(answers.activation).all(axis=(1, 2))
    if bad.any():
        raise GateError(
            f"{what} is refused: {int(bad.sum())} of {len(bad)} answers are NaN or Inf. Nothing was written. "
            "Choose --precision fp32, or train the model anew."
        )


def compare(
    reference: Answers,
    candidate: Answers,
    crops: Crops,
    *,
    threshold: float,
    limits: GateLimits,
    reference_name: str,
    temperature: float = 1.0,
) -> Parity:
    """Measure everything the gates look at.

    Args:
        reference: what the reference said on ``crops``.
        candidate: what the file said on ``crops``; with its activation map.
        crops: the crops, with labels and biopsies.
        threshold: label 1 where probability is at or above it.
        limits: kept beside the figures.
        reference_name: in words.
        temperature: probability is sigmoid(mean of activation / temperature).

    Raises:
        GateError: the candidate is NaN or Inf anywhere.
    """
    check_finite(candidate, "The exported file")
    difference = np.abs(candidate.probability.astype(np.float64) - reference.probability.astype(np.float64))
    calls = reference.probability >= threshold, candidate.probability >= threshold
    shift, changed, cases = biopsy_shift(crops.cases, *calls)
    correlation = None
    logit_difference = None
    if candidate.activation is not None:
        assert candidate.activation.shape[1:] == (MAP_SIZE, MAP_SIZE)
        mean = candidate.activation.astype(np.float64).mean(axis=(1, 2))
        if reference.logit is not None:
            logit_difference = float(np.max(np.abs(mean - reference.logit) / np.maximum(np.abs(reference.logit), 1.0)))
        else:
            # The file against itself: its map must average to the logit behind its own probability.
            logit_difference = float(np.max(_logit_error(candidate.probability, mean, temperature)))
        if reference.activation is not None:
            correlation = float(map_rank_correlations(reference.activation, candidate.activation).min())
    return Parity(
        reference=reference_name,
        crops=len(crops),
        cases=cases,
        source=crops.source,
        max_probability_difference=float(difference.max()),
        mean_probability_difference=float(difference.mean()),
        probability_spread=float(np.ptp(reference.probability)),
        flips=int(np.count_nonzero(calls[0] != calls[1])),
        max_logit_relative_difference=logit_difference,
        auroc_reference=auroc(crops.labels, reference.probability),
        auroc=auroc(crops.labels, candidate.probability),
        max_percent_gs_shift=shift,
        grades_changed=changed,
        min_map_rank_correlation=correlation,
        limits=limits,
    )


def _logit_error(
    probability: Floats, mean_activation: npt.NDArray[np.float64], temperature: float
) -> npt.NDArray[np.float64]:
    """|sigmoid(mean activation / temperature) - probability|: comparable where the sigmoid saturates as well."""
    return np.abs(1.0 / (1.0 + np.exp(-mean_activation / temperature)) - probability.astype(np.float64))
