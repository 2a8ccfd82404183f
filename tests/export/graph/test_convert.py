"""Front, head and naming, against naive NumPy arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import helper

from glomedge.errors import GateError
from glomedge.model.scaling import NAMED, Scaling
from glomedge.model.spec import Affine, InputScaling
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import convert, ends, surgery
from glomedge_export.graph.names import name_by_known_layers

ort = import_onnxruntime()

Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def session(model: onnx.ModelProto, disabled: list[str] | None = None) -> Any:
    return ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


@pytest.mark.parametrize("scaling", ["resnet", "resnet_v2"])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_assembled_network_against_naive_arithmetic(
    backbone: onnx.ModelProto,
    tiny_head: Head,
    crops_nhwc: npt.NDArray[np.uint8],
    scaling: InputScaling,
    temperature: float,
) -> None:
    kernel, bias = tiny_head
    pixels = crops_nhwc.astype(np.float32)
    if scaling == "resnet":
        scaled = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68], np.float32)
    else:
        scaled = pixels / 127.5 - 1.0
    # The plain conversion still has the Pad that onnxruntime before 1.32 merges wrongly.
    plain = session(backbone, ["Pad_Fusion"])
    features = plain.run(None, {"scaled": np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))})[0]
    logit = features.mean((2, 3)).astype(np.float64) @ kernel + bias
    model = convert.assemble(backbone, scaling, kernel, bias, temperature).model
    probability, activation = session(model).run(["probability", "activation"], {"images": crops_nhwc})
    assert probability.shape == (8, 1)
    assert activation.shape == (8, 7, 7)
    assert probability.dtype == activation.dtype == np.float32
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit / temperature)), atol=1e-6)
    np.testing.assert_allclose(activation.mean((1, 2))[:, None], logit, rtol=1e-4, atol=1e-4)
    position = features[:, :, 2, 5] @ kernel[:, 0] + bias
    np.testing.assert_allclose(activation[:, 2, 5], position, rtol=1e-4, atol=1e-4)


def test_contract_of_the_file(backbone: onnx.ModelProto, tiny_head: Head) -> None:
    converted = convert.assemble(backbone, "resnet", *tiny_head)
    model = converted.model
    assert [(i.name, i.type.tensor_type.elem_type) for i in model.graph.input] == [("images", onnx.TensorProto.UINT8)]
    assert [o.name for o in model.graph.output] == ["probability", "activation"]
    assert model.opset_import[0].version == convert.OPSET
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert [step.name for step in converted.steps][:1] == ["uint8 front"]
    assert converted.steps[-1].after == surgery.op_counts(model)
    # Only what is exact is absorbed: the mean is still subtracted before the zero-padded convolution.
    assert surgery.op_counts(model)["Sub"] == 1


def test_folding_the_means_into_the_bias_would_be_wrong(
    backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: npt.NDArray[np.uint8]
) -> None:
    """The trap that keeps the subtraction in the graph."""
    right = convert.assemble(backbone, "resnet", *tiny_head).model
    folded = surgery.copy(right)
    known = surgery.constants(folded)
    weight, mean = known["conv1.weight"], known["images.mean"].reshape(-1)
    surgery.add_constant(folded, "conv1.bias", -np.einsum("ocij,c->o", weight, mean))
    surgery.add_constant(folded, "images.mean", np.zeros((1, 3, 1, 1), np.float32))
    next(node for node in folded.graph.node if node.name == "conv1_conv").input.append("conv1.bias")
    inside = [session(m).run(["probability"], {"images": crops_nhwc})[0] for m in (right, folded)]
    assert np.abs(inside[0] - inside[1]).max() > 1e-4


def test_names_follow_keras_layers() -> None:
    node = helper.make_node
    model = helper.make_model(
        helper.make_graph(
            [
                node(
                    "Conv", ["scaled", "r_1/conv2_block1_1_conv_1/convolution/merged_input:0"], ["Conv__7:0"], "Conv__7"
                ),
                node("MaxPool", ["Conv__7:0"], ["r_1/max_pooling2d_9_1/MaxPool2d:0"], "p", kernel_shape=[1, 1]),
                node("Relu", ["r_1/max_pooling2d_9_1/MaxPool2d:0"], ["r_1/post_relu_1/Relu:0"], "r_1/post_relu_1/Relu"),
                node("Relu", ["r_1/post_relu_1/Relu:0"], ["features"], "last"),
            ],
            "g",
            [helper.make_tensor_value_info("scaled", 1, ["N", 3, 4, 4])],
            [helper.make_tensor_value_info("features", 1, ["N", 3, 4, 4])],
            [
                onnx.numpy_helper.from_array(
                    np.zeros((3, 3, 1, 1), np.float32), "r_1/conv2_block1_1_conv_1/convolution/merged_input:0"
                )
            ],
        )
    )
    named = name_by_known_layers(model, ["conv2_block1_1_conv", "max_pooling2d_9", "post_relu"])
    assert [n.name for n in named.graph.node] == ["conv2_block1_1_conv", "shortcut_pool1", "post_relu", "relu"]
    assert [t.name for t in named.graph.initializer] == ["conv2_block1_1_conv.weight"]
    assert named.graph.output[0].name == "features"


def test_check_refuses_a_graph_that_breaks_the_contract(backbone: onnx.ModelProto, tiny_head: Head) -> None:
    model = convert.assemble(backbone, "resnet", *tiny_head).model
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    with pytest.raises(GateError, match="defect of the export"):
        convert.check(model)


@pytest.mark.parametrize("scaling", [*NAMED, "affine"])
def test_front_before_a_network_that_begins_otherwise(scaling: InputScaling, crops_nhwc: npt.NDArray[np.uint8]) -> None:
    """Where no convolution can take the factors, the scaling is spelt out."""
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Identity", ["scaled"], ["features"])],
            "g",
            [helper.make_tensor_value_info("scaled", 1, ["N", 3, 224, 224])],
            [helper.make_tensor_value_info("features", 1, ["N", 3, 224, 224])],
        ),
        opset_imports=[helper.make_opsetid("", convert.OPSET)],
        ir_version=convert.IR_VERSION,
    )
    affine = NAMED.get(scaling) or Affine(channel_order="BGR", scale=(0.0, 2.0, -0.5), offset=(7.0, 1.0, 0.0))
    chosen = Scaling(scaling, affine)
    (features,) = session(ends.attach_front(model, chosen)).run(None, {"images": crops_nhwc})
    pixels = crops_nhwc.astype(np.float64)
    pixels = pixels[..., ::-1] if affine.channel_order == "BGR" else pixels
    expected = pixels * np.array(affine.scale) + np.array(affine.offset)
    np.testing.assert_allclose(features.transpose(0, 2, 3, 1), expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(chosen.applied(crops_nhwc.astype(np.float32)), expected, rtol=1e-5, atol=1e-4)
