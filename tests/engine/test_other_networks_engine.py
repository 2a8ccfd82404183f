"""The engine on networks of other sides and maps: every runner, the self-test, and the Python interface."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import glomedge
from glomedge.engine import golden, loading
from glomedge.engine.backends import nvidia_options, onnxrt
from glomedge.engine.backends.fixed_batch import FixedBatchRunner
from glomedge.engine.backends.gpu_memory import DeviceRunner
from glomedge.engine.runner import Opened, Runner, SessionRequest, check_contract
from glomedge.engine.views import predict_views
from glomedge.errors import SelfTestError, UsageError
from glomedge.model.file import read_model_file, sealed
from glomedge.model.spec import BatchProfile
from helpers.builders import tiny_graph, tiny_logit
from helpers.needs import needs_openvino
from helpers.other_networks import NETWORKS, Network


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


@pytest.fixture
def path(tmp_path: Path, network: Network) -> Path:
    network.build(tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def enhanced(network: Network, count: int) -> npt.NDArray[np.uint8]:
    rng = np.random.default_rng(3)
    base = rng.integers(40, 216, (count, 1, 1, 3))
    return (base + rng.integers(-40, 40, (count, network.side_px, network.side_px, 3))).astype(np.uint8)


def check(
    network: Network,
    images: npt.NDArray[np.uint8],
    probability: npt.NDArray[np.float32],
    maps: npt.NDArray[np.float32] | None,
) -> None:
    logit = tiny_logit(images)
    np.testing.assert_allclose(probability.reshape(-1), 1 / (1 + np.exp(-logit)), atol=1e-5)
    if not network.with_map:
        assert maps is None
        return
    assert maps is not None
    assert maps.shape == (len(images), network.cells, network.cells)
    np.testing.assert_allclose(maps.mean(axis=(1, 2)), logit, atol=1e-4)


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_every_runtime_answers(path: Path, network: Network, provider: str, tmp_path: Path) -> None:
    if provider == "openvino":
        needs_openvino()
    images = enhanced(network, 5)
    with loading.load(path, provider, max_batch=2, cache_dir=tmp_path / "cache") as model:
        assert model.runtime.provider == provider
        output = model.infer(images)
    check(network, images, output.probability, output.activation)


def in_half_precision(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Weights and convolution in float16, as fp16 files have them."""
    for tensor in graph.graph.initializer:
        if tensor.name in ("weights", "bias"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    at = next(i for i, node in enumerate(graph.graph.node) if node.op_type == "Conv")
    conv = graph.graph.node[at]
    conv.input[0], conv.output[0] = "centred.half", "map.half"
    graph.graph.node.insert(at, helper.make_node("Cast", ["centred"], ["centred.half"], to=TensorProto.FLOAT16))
    graph.graph.node.insert(at + 2, helper.make_node("Cast", ["map.half"], ["map"], to=TensorProto.FLOAT))
    return graph


def in_integers(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The cells' mean colours as uint8 with a scale and a zero point, as int8 files have their activations."""
    conv = next(node for node in graph.graph.node if node.op_type == "Conv")
    conv.input[0] = "centred.again"
    at = list(graph.graph.node).index(conv)
    scale = [numpy_helper.from_array(np.array(1.0, np.float32), "scale")]
    graph.graph.initializer.extend([*scale, numpy_helper.from_array(np.array(128, np.uint8), "zero")])
    for offset, (kind, source, target) in enumerate(
        (("QuantizeLinear", "centred", "centred.int"), ("DequantizeLinear", "centred.int", "centred.again"))
    ):
        graph.graph.node.insert(at + offset, helper.make_node(kind, [source, "scale", "zero"], [target]))
    return graph


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
@pytest.mark.parametrize(("precision", "lowered"), [("fp16", in_half_precision), ("int8", in_integers)])
def test_files_of_every_precision(
    tmp_path: Path,
    network: Network,
    provider: str,
    precision: str,
    lowered: Callable[[onnx.ModelProto], onnx.ModelProto],
) -> None:
    if provider == "openvino":
        needs_openvino()
    spec = network.build(tmp_path / "fp32.onnx")
    graph = lowered(tiny_graph(side_px=network.side_px, cells=network.cells, with_map=network.with_map))
    path = tmp_path / f"{precision}.onnx"
    golden_too = spec.golden.model_copy(update={"probability_tolerance": 0.05})
    path.write_bytes(
        sealed(graph.SerializeToString(), spec.model_copy(update={"precision": precision, "golden": golden_too}))
    )
    images = enhanced(network, 5)
    with loading.load(path, provider, max_batch=2, cache_dir=tmp_path / "cache") as model:
        assert model.runtime.precision == precision
        output = model.infer(images)
    expected = 1 / (1 + np.exp(-tiny_logit(images)))
    np.testing.assert_allclose(output.probability, expected, atol=0.02)
    assert (None if output.activation is None else output.activation.shape[1:]) == network.map_shape


def request_for(path: Path, largest: int) -> SessionRequest:
    profile = BatchProfile(min=largest, opt=largest, max=largest)
    return SessionRequest(file=read_model_file(path), threads=1, concurrency=1, profile=profile, fixed_batch=True)


def device_runner(request: SessionRequest) -> Runner:
    """The runner of the GPU providers, bound to host memory of a CPU session."""
    session = onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request))
    return DeviceRunner(session, Opened("fp32", {}, {}), (), device="cpu")


def test_bound_buffers_have_the_shapes_of_the_graph(path: Path, network: Network) -> None:
    runner = device_runner(request_for(path, 4))
    check_contract(runner, read_model_file(path).spec, path)
    images = enhanced(network, 4)
    check(network, images, *runner.run(images))
    runner.close()


def test_a_fixed_batch_is_split_and_padded(path: Path, network: Network) -> None:
    runner = FixedBatchRunner("card", device_runner, request_for(path, 4))
    images = enhanced(network, 6)
    check(network, images, *runner.run(images))
    runner.close()


def test_tensorrt_profiles_have_the_side_of_the_model(path: Path, network: Network) -> None:
    shapes = nvidia_options.profile_shapes(request_for(path, 4))
    assert set(shapes) == {f"images:4x{network.side_px}x{network.side_px}x3"}


def test_crops_are_answered_from_paths_and_pixels(path: Path, network: Network) -> None:
    crops = [golden.draw_crop(seed)[:, : 500 + 10 * seed] for seed in range(3)]
    with glomedge.load(path, "cpu") as model:
        answers = model.predict(crops)
    for crop, answer in zip(crops, answers, strict=True):
        assert answer.status.startswith(("ok", "flagged"))
        assert answer.probability == pytest.approx(network.probability(crop), abs=1e-5)
        assert (None if answer.activation is None else answer.activation.shape) == network.map_shape


def test_eight_views(path: Path, network: Network) -> None:
    images = enhanced(network, 2)
    with loading.load(path, "cpu") as model:
        probability, spread, maps = predict_views(model, images, 8)
    check(network, images, probability, maps)  # the stand-in's answer is the mean over all pixels: of every view alike
    assert spread is not None
    assert spread.max() < 1e-5


def test_crops_of_another_side_are_refused_with_the_side_that_is_wanted(path: Path, network: Network) -> None:
    wrong = np.zeros((1, network.side_px + 1, network.side_px + 1, 3), np.uint8)
    with loading.load(path, "cpu") as model, pytest.raises(UsageError, match=rf"\[N, {network.side_px}, ") as caught:
        model.infer(wrong)
    assert "engine.spec.recipe" in str(caught.value)


def test_the_self_test_refuses_other_weights(tmp_path: Path, network: Network) -> None:
    spec = network.build(tmp_path / "model.onnx")
    other = tiny_graph(side_px=network.side_px, cells=network.cells, with_map=network.with_map, bias=-3.0)
    path = tmp_path / "other.onnx"
    path.write_bytes(sealed(other.SerializeToString(), spec))
    with pytest.raises(SelfTestError, match="gives probability"):
        loading.load(path, "cpu")


@pytest.mark.parametrize("side_px", [32, 96, 224, 299, 1024])
def test_the_golden_crop_is_three_by_two_of_any_side(side_px: int) -> None:
    crop = golden.draw_crop(4, side_px)
    assert crop.shape == (2 * side_px, 3 * side_px, 3)
    # The same picture: each pixel is the drawing's nearest.
    whole = golden.draw_crop(4)
    for row, column in ((0, 0), (side_px, side_px), (2 * side_px - 1, 3 * side_px - 1)):
        at = row * 224 // side_px, column * 224 // side_px
        assert tuple(crop[row, column]) == tuple(whole[at])
