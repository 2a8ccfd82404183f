"""What each runtime keeps in the engine cache: used again, rebuilt when damaged, removed when it answers wrongly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine import loading, providers
from glomedge.engine.backends import onnxrt
from glomedge.engine.cache import PASSPORT, Entry, WorkingCopy, secure_root
from glomedge.engine.runner import Opened, SessionRequest
from glomedge.errors import ModelError, OutputError, SelfTestError
from glomedge.model.file import read_model_file, sealed
from glomedge.model.spec import BatchProfile, Recipe
from helpers import builders
from helpers.engine_caches import KEY, flip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return secure_root(tmp_path / "cache")


@pytest.mark.openvino
def test_without_a_writable_home_openvino_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    if (reason := providers.named("openvino").unusable()) is not None:
        pytest.skip(reason)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("glomedge.engine.cache.default_root", lambda: blocked / "cache")
    with loading.load(tiny_model, "openvino") as model:
        assert "compiled model not cached" in model.runtime.notes[0]
        assert model.provider == "openvino"
    with pytest.raises(OutputError, match="--cache-dir"):
        loading.load(tiny_model, "openvino", cache_dir=blocked / "cache")


@pytest.mark.openvino
def test_openvino_builds_once_and_rebuilds_what_was_damaged(tiny_model: Path, tmp_path: Path) -> None:
    if (reason := providers.named("openvino").unusable()) is not None:
        pytest.skip(reason)
    cache = tmp_path / "cache"

    def notes() -> str:
        with loading.load(tiny_model, "openvino", cache_dir=cache) as model:
            return "; ".join(model.runtime.notes)

    assert "engine built" in notes()
    assert "taken from the cache" in notes()
    blob = next(cache.rglob("*.blob"))
    blob.chmod(0o600)
    flip(blob)
    assert "has changed; rebuilt" in notes()
    assert "taken from the cache" in notes()


def test_the_cpus_optimised_graph_is_kept_checked_and_gives_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = tmp_path / "cache"
    images = np.random.default_rng(3).integers(0, 256, (5, 224, 224, 3), np.uint8)

    def run() -> tuple[str, npt.NDArray[np.float32]]:
        with loading.load(tiny_model, "cpu", cache_dir=cache, strict_placement=True) as model:
            return "; ".join(model.runtime.notes), model.infer(images).probability

    first, second = run(), run()
    assert first[0] == "optimised graph cached"
    assert second[0] == "optimised graph taken from the cache"
    flip(next(cache.rglob("optimised.onnx")))
    third = run()
    assert third[0] == "optimised graph cached again: optimised.onnx has changed"
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[1], third[1])


def test_without_a_writable_home_the_cpu_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("glomedge.engine.cache.default_root", lambda: blocked / "cache")
    with loading.load(tiny_model, "cpu") as model:
        assert "optimised graph not cached" in model.runtime.notes[0]
    with pytest.raises(OutputError, match="--cache-dir"):
        loading.load(tiny_model, "cpu", cache_dir=blocked / "cache")


def test_a_copy_that_onnxruntime_cannot_read_is_dropped_and_the_model_runs(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    """Such as one cut short by a full disk before its hash was taken: the passport agrees, the graph does not load."""
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = tmp_path / "cache"
    notes = []
    for step in range(3):
        if step == 1:
            copy = next(cache.rglob("optimised.onnx"))
            copy.write_bytes(copy.read_bytes()[:100])
            passport = json.loads((copy.parent / PASSPORT).read_text())
            passport["files"][copy.name] = hashlib.sha256(copy.read_bytes()).hexdigest()
            (copy.parent / PASSPORT).write_text(json.dumps(passport))
        with loading.load(tiny_model, "cpu", cache_dir=cache) as model:
            notes.append(model.runtime.notes[0])
    assert notes[0] == notes[2] == "optimised graph cached"
    assert notes[1].startswith("optimised graph not cached: onnxruntime")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"bias": -3.0}, SelfTestError, "gives probability"),
        ({"input_name": "pictures"}, ModelError, "input name"),
    ],
)
def test_an_engine_that_answers_wrongly_leaves_the_cache_although_its_passport_agrees(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[ModelError],
    words: str,
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    key = onnxrt._graph_key(SessionRequest(read_model_file(tiny_model), 1, 1, BatchProfile()))
    with Entry(cache, key) as entry:
        (entry.folder / "optimised.onnx").write_bytes(builders.tiny_graph(**changes).SerializeToString())
        assert entry.commit()
    with pytest.raises(error, match=f"{words}.*came from the cache and was removed from it. Start again"):
        loading.load(tiny_model, "cpu", cache_dir=cache)
    assert list(cache.iterdir()) == []
    notes = []
    for _ in range(2):
        with loading.load(tiny_model, "cpu", cache_dir=cache) as model:
            notes.append(model.runtime.notes[0])
    assert notes == ["optimised graph cached", "optimised graph taken from the cache"]


def test_an_engine_built_just_now_that_answers_wrongly_is_not_kept_either(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    path = tmp_path / "retrained.onnx"
    path.write_bytes(sealed(builders.tiny_graph(bias=-3.0).SerializeToString(), read_model_file(tiny_model).spec))
    with pytest.raises(SelfTestError) as caught:
        loading.load(path, "cpu", cache_dir=cache)
    assert "cache" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_pixels_that_moved_are_not_the_engines_fault(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    path = tmp_path / "edited.onnx"
    spec = read_model_file(tiny_model).spec.model_copy(update={"recipe": Recipe.named("plain")})
    path.write_bytes(sealed(builders.tiny_graph().SerializeToString(), spec))
    with pytest.raises(SelfTestError, match="preprocessing"):
        loading.load(path, "cpu", cache_dir=cache)
    assert len(list(cache.iterdir())) == 1


def test_the_cache_of_such_a_runtime_is_kept_when_the_session_is_gone(root: Path, tiny_model: Path) -> None:
    """The order matters: the plugin writes its files while its session is destroyed."""
    import weakref

    request = SessionRequest(read_model_file(tiny_model), 1, 1, BatchProfile())
    session = onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request))
    copy = WorkingCopy(root, KEY)
    weakref.finalize(session, lambda: (copy.folder / "fused_node").write_bytes(b"kernels"))
    opened = Opened("fp32", {}, {})
    runner = onnxrt.OrtRunner(session, opened, on_closed=copy.keep)
    del session
    assert not (root / KEY.digest()).exists()
    runner.close()
    assert (root / KEY.digest() / "fused_node").read_bytes() == b"kernels"
