"""NVIDIA's own parser and builder on our files, without a GPU."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.errors import GateError
from glomedge.model.spec import BatchProfile
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import convert, float16, surgery
from glomedge_export.graph.lower import LoweringInputs, lower
from glomedge_export.proof import handed_over, tensorrt

pytestmark = pytest.mark.tensorrt
Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@pytest.fixture(autouse=True)
def _parser() -> None:
    pytest.importorskip("tensorrt_rtx", reason="NVIDIA's parser is not installed: pip install tensorrt-rtx")


@pytest.fixture
def fp32(backbone: onnx.ModelProto, tiny_head: Head) -> onnx.ModelProto:
    return convert.assemble(backbone, "resnet", *tiny_head, 1.3).model


def int8(fp32: onnx.ModelProto, target: str, crops: npt.NDArray[np.uint8]) -> onnx.ModelProto:
    calibration = CalibrationCrops(crops, tuple(f"{i}.png" for i in range(len(crops))), 2)
    return lower(fp32, "int8", target, LoweringInputs(crops, calibration, "minmax")).model  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_parser_and_builder_take_the_file(fp32: onnx.ModelProto, crops_nhwc: npt.NDArray[np.uint8], kind: str) -> None:
    model = {
        "fp32": lambda: fp32,
        "fp16": lambda: float16.to_fp16(fp32),
        "int8": lambda: int8(fp32, "tensorrt", crops_nhwc),
    }[kind]()
    found, engine = tensorrt.check(model.SerializeToString(), BatchProfile(min=1, opt=4, max=8))
    tensorrt.enforce(found)
    assert found.unsupported == ()
    assert (found.subgraphs, found.nodes_elsewhere, found.strongly_typed) == (1, 0, True)
    assert found.nodes >= 20
    assert found.layers >= 15
    assert engine is not None
    assert found.engine_bytes == len(engine) > 10_000


def test_what_onnxruntime_makes_of_the_file_is_judged_and_not_the_file(
    monkeypatch: pytest.MonkeyPatch, fp32: onnx.ModelProto, crops_nhwc: npt.NDArray[np.uint8]
) -> None:
    """With the pass that the engine switches off for TensorRT, float biases become int32 DequantizeLinear."""
    data = int8(fp32, "tensorrt", crops_nhwc).SerializeToString()
    monkeypatch.setattr(handed_over, "DISABLED_FOR_PARSER", ("Pad_Fusion",))
    found, engine = tensorrt.check(data, BatchProfile())
    assert engine is None
    assert (found.subgraphs, found.nodes_elsewhere) != (1, 0)
    with pytest.raises(GateError, match="must have type FP8, FP4, Int4, Int8, or UInt8"):
        tensorrt.enforce(found)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"subgraphs": 2}, "in 2 parts, with 0 of 30 nodes left"),
        ({"nodes_elsewhere": 3}, "with 3 of 30 nodes left to CUDA or the CPU"),
        ({"strongly_typed": False}, "in types of its own choice"),
    ],
)
def test_a_graph_that_would_be_split_or_retyped_is_refused(changes: dict[str, Any], words: str) -> None:
    whole = tensorrt.TensorRtCheck("1.7", "1.32", 30, 1, 0, True, (), 20, 1, None, 0.1, 0.1, ())
    tensorrt.enforce(whole)
    with pytest.raises(GateError, match=words):
        tensorrt.enforce(dataclasses.replace(whole, **changes))


def test_half_precision_is_handed_over_without_casts_for_the_cpu(fp32: onnx.ModelProto) -> None:
    half = float16.to_fp16(fp32)
    kinds = [
        sorted(node.op_type for node in graph.graph.node)
        for graph in (half, onnx.load_model_from_string(handed_over.handed_over(half.SerializeToString())))
    ]
    assert kinds[0] == kinds[1]


def test_uint8_activations_are_refused_in_our_words_first(
    fp32: onnx.ModelProto, crops_nhwc: npt.NDArray[np.uint8]
) -> None:
    model = int8(fp32, "onnxruntime", crops_nhwc)
    with pytest.raises(GateError, match=r"symmetric signed int8.*--target tensorrt"):
        tensorrt.check(model.SerializeToString(), BatchProfile())


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (("QuantizeLinear", ["x", "scale"], {}), "uses uint8"),
        (("QuantizeLinear", ["x", "scale", "unsigned"], {}), "uses uint8"),
        (("QuantizeLinear", ["x", "scale", "shifted"], {}), "zero point other than 0"),
        (("DynamicQuantizeLinear", ["x"], {}), "an integer operator"),
        (("QuantizeLinear", ["x", "scale", "signed"], {}), None),
        (("QuantizeLinear", ["x", "scale"], {"output_dtype": onnx.TensorProto.INT8}), None),
    ],
)
def test_every_form_of_unsigned_quantisation_is_known(
    node: tuple[str, list[str], dict[str, int]], words: str | None
) -> None:
    operator, inputs, attributes = node
    values = {"scale": np.float32(0.1), "unsigned": np.uint8(0), "shifted": np.int8(3), "signed": np.int8(0)}
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node(operator, inputs, ["y"], name="odd", **attributes)],
            "one",
            [],
            [],
            [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        )
    )
    if words is None:
        tensorrt.refuse_unsigned_activations(model)
    else:
        with pytest.raises(GateError, match=f"'odd' .*{words}"):
            tensorrt.refuse_unsigned_activations(model)


@pytest.mark.parametrize(
    ("operator", "domain", "words"),
    [
        # onnxruntime's own, which NVIDIA's parser does not know; and one that nobody knows.
        ("QuickGelu", "com.microsoft", r"TensorRT-RTX .* refuses the file: relu_a \(QuickGelu\)"),
        ("NoSuchOperator", "somewhere", "onnxruntime .* cannot read the file .*NoSuchOperator"),
    ],
)
def test_an_operator_that_does_not_run_is_named(fp32: onnx.ModelProto, operator: str, domain: str, words: str) -> None:
    odd = surgery.copy(fp32)
    node = next(n for n in odd.graph.node if n.name == "relu_a")
    node.op_type, node.domain = operator, domain
    odd.opset_import.append(onnx.helper.make_opsetid(domain, 1))
    with pytest.raises(GateError, match=words):
        tensorrt.enforce(tensorrt.check(odd.SerializeToString(), BatchProfile())[0])


def test_engine_and_passport(tmp_path: Path, fp32: onnx.ModelProto) -> None:
    from helpers.export_specs import example_spec

    found, engine = tensorrt.check(fp32.SerializeToString(), BatchProfile(min=1, opt=2, max=4))
    assert engine is not None
    spec = example_spec()
    paths = tensorrt.write_engine(tmp_path / "model.onnx", engine, spec, "a" * 64, found)
    assert [path.name for path in paths] == ["model.rtx.engine", "model.rtx.engine.json"]
    passport = json.loads(paths[1].read_text())
    assert paths[0].read_bytes() == engine
    assert passport["weights_sha256"] == spec.weights_sha256
    assert passport["model_sha256"] == "a" * 64
    assert passport["precision"] == spec.precision
    assert passport["batch_profile"] == spec.batch_profile.model_dump()
    assert passport["tensorrt_rtx"] == found.version
    assert "Research use only" in passport["notice"]
