"""The Engine on real sessions of a tiny model; only what needs a failing GPU uses a runner made here."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import glomedge
from glomedge.engine import engine, golden, loading, providers
from glomedge.engine.backends import onnxrt
from glomedge.engine.runner import OutOfMemoryError, RawOutput, Runner, SessionRequest
from glomedge.errors import EngineError, ModelError, ProviderUnavailableError, SelfTestError, UsageError
from glomedge.model.file import ModelFile, read_model_file, sealed
from glomedge.model.spec import Golden
from helpers import builders

RUNTIMES = ["cpu", pytest.param("openvino", marks=pytest.mark.openvino)]


def crops(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Random crops of different mean colours, so that every answer differs."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 216, (count, 1, 1, 3))
    return (base + rng.integers(-40, 40, (count, 224, 224, 3))).astype(np.uint8)


def sigmoid(logit: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return 1.0 / (1.0 + np.exp(-logit))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def require(provider: str) -> None:
    reason = providers.named(provider).unusable()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("provider", RUNTIMES)
@pytest.mark.parametrize("count", [1, 7, 32, 37])
def test_infer_agrees_with_a_reference_written_without_onnx(
    tiny_model: Path, cache: Path, provider: str, count: int
) -> None:
    require(provider)
    images = crops(count)
    with loading.load(tiny_model, provider, cache_dir=cache) as model:
        output = model.infer(images)
    expected = builders.tiny_logit(images)
    assert np.ptp(expected) > 0.5 or count == 1
    assert output.activation is not None
    np.testing.assert_allclose(output.activation.mean(axis=(1, 2)), expected, atol=1e-4)
    np.testing.assert_allclose(output.probability, sigmoid(expected), atol=1e-5)
    assert output.probability.dtype == output.activation.dtype == np.float32


@pytest.mark.parametrize("max_batch", [1, 4, 9, 64])
def test_batches_longer_than_the_session_takes_are_split(tiny_model: Path, max_batch: int) -> None:
    images = crops(9)
    with loading.load(tiny_model, "cpu", max_batch=max_batch) as model:
        np.testing.assert_allclose(model.infer(images).probability, sigmoid(builders.tiny_logit(images)), atol=1e-5)


@pytest.mark.parametrize("provider", RUNTIMES)
def test_infer_may_be_called_from_several_threads(tiny_model: Path, cache: Path, provider: str) -> None:
    require(provider)
    batches = [crops(3, seed) for seed in range(24)]
    with (
        loading.load(tiny_model, provider, concurrency=4, threads=4, cache_dir=cache) as model,
        ThreadPoolExecutor(8) as pool,
    ):
        outputs = list(pool.map(model.infer, batches))
    for images, output in zip(batches, outputs, strict=True):
        np.testing.assert_allclose(output.probability, sigmoid(builders.tiny_logit(images)), atol=1e-5)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 224, 224, 3), np.float32),
        np.zeros((224, 224, 3), np.uint8),
        np.zeros((0, 224, 224, 3), np.uint8),
        np.zeros((1, 3, 224, 224), np.uint8),
    ],
)
def test_infer_refuses_other_shapes_and_types(tiny_model: Path, images: Any) -> None:
    with loading.load(tiny_model, "cpu") as model, pytest.raises(UsageError, match=r"uint8 \[N, 224, 224, 3\]"):
        model.infer(images)


def test_a_closed_engine_says_so(tiny_model: Path) -> None:
    with loading.load(tiny_model, "cpu") as model:
        pass
    model.close()
    with pytest.raises(EngineError, match="closed"):
        model.infer(crops(1))


def test_engine_has_at_most_five_public_methods() -> None:
    methods = [name for name, value in vars(engine.Engine).items() if callable(value) and not name.startswith("_")]
    assert sorted(methods) == ["close", "infer", "predict"]


def test_runtime_records_what_runs(tiny_model: Path) -> None:
    with loading.load(tiny_model, "cpu", threads=4, concurrency=2) as model:
        assert model.provider == "cpu"
        assert model.runtime.options["intra_op_num_threads"] == "2"
        assert model.runtime.options["allow_spinning"] == "0"
        assert "onnxruntime" in model.runtime.versions
        assert model.spec.golden.probability == pytest.approx(0.541, abs=0.01)


def test_external_data_is_refused(tmp_path: Path) -> None:
    graph = builders.tiny_graph()
    spec = builders.tiny_spec(graph.SerializeToString())
    from onnx import TensorProto

    tensor = graph.graph.initializer[1]
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "weights.bin"
    path = tmp_path / "external.onnx"
    path.write_bytes(sealed(graph.SerializeToString(), spec))
    with pytest.raises(ModelError, match=r"1 tensors outside the file \(first: 'weights'\)"):
        loading.load(path, "cpu")


def test_operators_of_a_custom_library_are_refused(tmp_path: Path) -> None:
    graph = builders.tiny_graph()
    spec = builders.tiny_spec(graph.SerializeToString())
    graph.graph.node[0].domain = "evil.ops"
    path = tmp_path / "custom.onnx"
    path.write_bytes(sealed(graph.SerializeToString(), spec))
    with pytest.raises(ModelError, match=r"evil\.ops"):
        loading.load(path, "cpu")


def test_other_weights_than_the_golden_test_saw_are_refused(tmp_path: Path, tiny_model: Path) -> None:
    spec = read_model_file(tiny_model).spec
    path = tmp_path / "retrained.onnx"
    path.write_bytes(sealed(builders.tiny_graph(bias=-3.9).SerializeToString(), spec))
    with pytest.raises(SelfTestError, match=r"gives probability 0\.56\d+ on provider cpu, but gave 0\.54"):
        loading.load(path, "cpu")
    with loading.load(path, "cpu", self_test=False) as model:
        assert model.infer(spec.golden.pixels()[np.newaxis]).probability[0] == pytest.approx(0.5656, abs=1e-3)


def wrapped(wrap: Callable[[Runner, SessionRequest], Runner]) -> providers.Provider:
    """A table entry that opens the CPU and wraps its runner."""
    cpu = providers.named("cpu")
    return providers.Provider("wrapped", cpu.install, cpu.unusable, lambda request: wrap(cpu.open(request), request))


class SmallDevice:
    """A real CPU session that claims to run out of memory above a batch size, as a GPU would."""

    def __init__(self, inner: Runner, capacity: int, batch_sizes: tuple[int, ...] = ()) -> None:
        self.inputs, self.outputs, self.opened = inner.inputs, inner.outputs, inner.opened
        self.batch_sizes = batch_sizes
        self.asked: list[int] = []
        self._inner, self._capacity = inner, capacity

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        self.asked.append(len(images_nhwc))
        if len(images_nhwc) > self._capacity:
            raise OutOfMemoryError(f"Out of memory at a batch of {len(images_nhwc)}.")
        return self._inner.run(images_nhwc)

    def forget(self) -> bool:
        return self._inner.forget()

    def close(self) -> None:
        self._inner.close()


def load_small(
    monkeypatch: pytest.MonkeyPatch, path: Path, capacity: int, sizes: tuple[int, ...] = ()
) -> tuple[engine.Engine, SmallDevice]:
    made: list[SmallDevice] = []

    def wrap(inner: Runner, request: SessionRequest) -> Runner:
        made.append(SmallDevice(inner, capacity, sizes))
        return made[0]

    monkeypatch.setitem(providers.PROVIDERS, "wrapped", wrapped(wrap))
    model = loading.load(path, "wrapped", max_batch=32)
    made[0].asked.clear()
    return model, made[0]


def test_out_of_memory_halves_the_batch_and_remembers(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    model, device = load_small(monkeypatch, tiny_model, capacity=5)
    images = crops(20)
    np.testing.assert_allclose(model.infer(images).probability, sigmoid(builders.tiny_logit(images)), atol=1e-5)
    assert device.asked == [20, 10, 5, 5, 5, 5]
    device.asked.clear()
    model.infer(images)
    assert device.asked == [5, 5, 5, 5]


def test_out_of_memory_at_one_crop_is_an_engine_error(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    model, device = load_small(monkeypatch, tiny_model, capacity=1)
    device._capacity = 0
    with pytest.raises(EngineError, match="smaller batch is not possible"):
        model.infer(crops(4))
    assert device.asked == [4, 2, 1]


def test_fixed_sizes_are_padded_and_step_down(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    model, device = load_small(monkeypatch, tiny_model, capacity=32, sizes=(1, 8, 32))
    device._capacity = 8
    images = crops(19)
    np.testing.assert_allclose(model.infer(images).probability, sigmoid(builders.tiny_logit(images)), atol=1e-5)
    # 19 padded to 32 does not fit; the next smaller size does, and the last 3 are padded to it.
    assert device.asked == [32, 8, 8, 8]
    device.asked.clear()
    # One size from then on, even for one crop: another would start the search for kernels anew.
    assert [model.infer(images[:count]).probability.shape for count in (1, 9)] == [(1,), (9,)]
    assert device.asked == [8, 8, 8]


def test_a_size_that_does_not_fit_is_found_by_the_self_test(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    model, device = load_small(monkeypatch, tiny_model, capacity=8, sizes=(1, 8, 32))
    assert model.infer(crops(9)).probability.shape == (9,)
    assert device.asked == [8, 8]


class LostSession:
    """What onnxruntime's session does when its GPU falls off the bus."""

    def run(self, names: Any, feeds: Any) -> Any:
        raise RuntimeError("CUDA failure 999: unknown error; GPU=0")

    def get_inputs(self) -> list[Any]:
        return []

    get_outputs = get_inputs


def test_a_lost_device_is_an_error_and_never_another_provider(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path
) -> None:
    def wrap(inner: Runner, request: SessionRequest) -> Runner:
        assert isinstance(inner, onnxrt.OrtRunner)
        return inner

    monkeypatch.setitem(providers.PROVIDERS, "wrapped", wrapped(wrap))
    model = loading.load(tiny_model, "wrapped", allow_fallback=True)
    assert isinstance(model._runner, onnxrt.OrtRunner)
    model._runner._session = LostSession()
    with pytest.raises(EngineError, match=r"CUDA failure 999.*nothing was computed elsewhere"):
        model.infer(crops(2))
    assert model.provider == "wrapped"


def test_a_file_replaced_while_loading_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())

    def wrap(inner: Runner, request: SessionRequest) -> Runner:
        other = tmp_path / "other.onnx"
        other.write_bytes(path.read_bytes())
        other.replace(path)
        return inner

    monkeypatch.setitem(providers.PROVIDERS, "wrapped", wrapped(wrap))
    with pytest.raises(ModelError, match="replaced while it was being loaded"):
        loading.load(path, "wrapped")


def test_a_file_that_was_read_is_read_again_only_where_it_has_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())
    known = read_model_file(path)
    reads: list[Path] = []

    def counted(where: Path) -> ModelFile:
        reads.append(where)
        return read_model_file(where)

    monkeypatch.setattr(loading, "read_model_file", counted)
    with loading.load(known, "cpu") as model:
        assert model.file is known
    assert reads == []
    damaged = bytearray(tiny_model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match="has changed since glomedge exported it"):
        loading.load(known, "cpu")
    assert reads == [path]
    path.unlink()
    with pytest.raises(ModelError, match="There is no model"):
        loading.load(known, "cpu")


@pytest.mark.parametrize("arguments", [{"threads": 0}, {"concurrency": 0}, {"max_batch": 0}, {"batch_size": 0}])
def test_arguments_out_of_range(tiny_model: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        loading.load(tiny_model, "cpu", **arguments)  # type: ignore[arg-type]  # a table of keyword arguments


def test_bf16_is_refused_where_the_processor_has_none(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, cache: Path
) -> None:
    require("openvino")
    monkeypatch.setattr("glomedge.engine.backends.openvino_runtime.has_native_bf16", lambda: False)
    with pytest.raises(ProviderUnavailableError, match="no bfloat16"):
        loading.load(tiny_model, "openvino", bf16=True, cache_dir=cache)


def test_predict_answers_each_item_by_itself(tmp_path: Path, tiny_model: Path) -> None:
    pixels = golden.draw_crop(1)
    good = tmp_path / "good.png"
    cv2.imwrite(str(good), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    torn = tmp_path / "torn.png"
    torn.write_bytes(good.read_bytes()[:2000])
    with glomedge.load(tiny_model, "cpu") as model:
        answers = model.predict([good, pixels, torn, tmp_path / "gone.png", np.zeros((5, 5), np.uint8)])
        alone = model.infer(glomedge.enhance(pixels, model.spec.recipe)[np.newaxis])
    assert [answer.status.split(":")[0] for answer in answers[2:]] == ["error"] * 3
    assert answers[2].status == "error:truncated"
    assert answers[3].status == "error:vanished"
    assert answers[4].status == "error:format"
    assert alone.activation is not None
    for answer in answers[:2]:
        assert answer.probability == pytest.approx(float(alone.probability[0]), abs=1e-6)
        assert answer.label == int(alone.probability[0] >= 0.5)
        assert answer.class_name == model.spec.class_names[int(answer.label)]
        assert answer.activation is not None
        np.testing.assert_allclose(answer.activation, alone.activation[0], atol=1e-5)
    assert all(answer.probability is None and answer.message for answer in answers[2:])


def test_predict_of_nothing_and_of_more_than_a_chunk(tiny_model: Path) -> None:
    with glomedge.load(tiny_model, "cpu") as model:
        assert model.predict([]) == []
        pixels = [golden.draw_crop(seed % 3) for seed in range(35)]
        answers = model.predict(pixels)
    assert len(answers) == 35
    assert answers[0].probability == pytest.approx(answers[33].probability, abs=1e-6)
    assert answers[0].probability != answers[1].probability


def test_numbers_that_are_not_finite_become_an_error(tmp_path: Path) -> None:
    graph = builders.tiny_graph(bias=math.nan).SerializeToString()
    sound = builders.tiny_spec(builders.tiny_graph().SerializeToString())
    path = tmp_path / "poisoned.onnx"
    path.write_bytes(sealed(graph, sound))
    with pytest.raises(SelfTestError, match="probability nan"):
        loading.load(path, "cpu")
    with loading.load(path, "cpu", self_test=False) as model:
        answer = model.predict([golden.draw_crop(0)])[0]
        assert np.isnan(model.infer(crops(1)).probability).all()
    assert (answer.status, answer.probability, answer.label) == ("error:nonfinite", None, None)


def test_damaged_golden_pixels_are_a_model_error(tmp_path: Path) -> None:
    graph = builders.tiny_graph().SerializeToString()
    bad = Golden(seed=0, pixels_zlib_base64="AAAA", probability=0.5, pixel_tolerance=1, probability_tolerance=0.1)
    path = tmp_path / "bad.onnx"
    path.write_bytes(sealed(graph, builders.tiny_spec(graph, golden=bad)))
    with pytest.raises(ModelError, match="self-test inside the model is damaged"):
        loading.load(path, "cpu")
