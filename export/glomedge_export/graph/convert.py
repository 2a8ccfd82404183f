"""Keras -> ONNX: the backbone by tf2onnx, front and head built here, so that names, layout and types are ours.

    images uint8 [N, 224, 224, 3] RGB -> Cast -> Transpose -> Sub means -> Conv ... ResNet50V2 ... Relu [N, 2048, 7, 7]
      -> Conv 1x1 (the dense layer) -> activation float32 [N, 7, 7] -> mean -> logit -> / temperature -> Sigmoid
      -> probability float32 [N, 1]

Global average pooling and the dense layer are both linear, so applying the dense layer to each of the 49 positions
first and averaging afterwards is exact; that is class activation mapping (Zhou et al., CVPR 2016) with the bias kept.
"""

from __future__ import annotations

import gc
import logging
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from glomedge.errors import GateError, ModelError
from glomedge.model.spec import MAP_SIZE, SIZE_PX, InputScaling
from glomedge_export.graph import surgery
from glomedge_export.graph.surgery import Step

OPSET = 17
IR_VERSION = 8
FEATURES = 2048
# keras.applications.resnet.preprocess_input: ImageNet means, here in RGB order.
IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)


@dataclass(frozen=True)
class Converted:
    """The float32 inference graph and how it was made.

    Attributes:
        model: input ``images``, outputs ``probability`` and ``activation``.
        steps: operator counts before and after each step of the surgery.
        input_scaling: what is applied between ``images`` and the first convolution.
    """

    model: onnx.ModelProto
    steps: tuple[Step, ...]
    input_scaling: InputScaling


def convert_backbone(backbone: Any) -> onnx.ModelProto:
    """The Keras ResNet50V2 as ONNX: float32 NCHW ``[N, 3, 224, 224]`` -> NCHW ``[N, 2048, 7, 7]``, named by layer.

    Raises:
        ModelError: tf2onnx gave something else than one input and one feature map.
    """
    import tf2onnx

    from glomedge_export.frameworks import tf

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    signature = [tf.TensorSpec((None, SIZE_PX, SIZE_PX, 3), tf.float32, name="scaled")]
    model, _ = tf2onnx.convert.from_keras(backbone, opset=OPSET, input_signature=signature, inputs_as_nchw=["scaled"])
    if len(model.graph.input) != 1 or len(model.graph.output) != 1:
        raise ModelError(
            f"tf2onnx gave {len(model.graph.input)} inputs and {len(model.graph.output)} outputs, not one of each. "
            "Install the versions in constraints.txt."
        )
    # tf2onnx leaves its graphs in reference cycles: 4 GB of this network that Python would keep until the very end.
    gc.collect()
    return name_by_layer(_features_nchw(model), [layer.name for layer in backbone.layers])


def _features_nchw(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop the last NCHW -> NHWC ``Transpose`` and the doubtful shapes; name input and output."""
    model = surgery.copy(model)
    last = next(node for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    if last.op_type != "Transpose" or list(surgery.attribute(last, "perm")) != [0, 2, 3, 1]:
        raise ModelError(
            f"tf2onnx ended the backbone with {last.op_type}, not the expected Transpose. "
            "Install the versions in constraints.txt."
        )
    source = model.graph.input[0].name
    for node in model.graph.node:
        node.input[:] = ["scaled" if name == source else name for name in node.input]
        node.output[:] = ["features" if name == last.input[0] else name for name in node.output]
    surgery.replace_nodes(model, [node for node in model.graph.node if node.output[0] != last.output[0]])
    for node in model.graph.node:
        node.input[:] = ["features" if name == last.input[0] else name for name in node.input]
    del model.graph.input[:], model.graph.output[:]
    model.graph.input.append(_tensor("scaled", TensorProto.FLOAT, ["N", 3, SIZE_PX, SIZE_PX]))
    model.graph.output.append(_tensor("features", TensorProto.FLOAT, ["N", FEATURES, MAP_SIZE, MAP_SIZE]))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    return surgery.prune(model)


def name_by_layer(model: onnx.ModelProto, layer_names: list[str]) -> onnx.ModelProto:
    """Name nodes and tensors after their Keras layers (``conv3_block1_2_conv``), for messages a person reads.

    Names that tf2onnx made up (``Conv__243``) are traced through the weights; the nameless stride pools of the
    shortcuts are numbered, because Keras numbers them differently in every process.
    """
    model = surgery.copy(model)
    layers = set(layer_names)
    renamed: dict[str, str] = {}
    taken: set[str] = set()

    def unique(base: str) -> str:
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}.{count}"
        taken.add(name)
        return name

    pools = 0
    for node in model.graph.node:
        # A convolution that swallowed its BatchNormalization is known by its weight, anything else by its result.
        mentions = [*node.input[1:], node.name] if node.op_type == "Conv" else [node.output[0], node.name]
        base = _layer_of(mentions, layers)
        if node.op_type == "MaxPool" and (base is None or base.startswith("max_pooling2d")):
            pools += 1
            base = f"shortcut_pool{pools}"
        base = unique(base or node.op_type.lower())
        node.name = base
        renamed.update({output: base for output in node.output if output != "features"})
        for position, name in enumerate(node.input[1:], 1):
            if name in {tensor.name for tensor in model.graph.initializer} and name not in renamed:
                renamed[name] = unique(f"{base}.{('input', 'weight', 'bias')[min(position, 2)]}")
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return model


def _layer_of(names: list[str], layers: set[str]) -> str | None:
    """The Keras layer that one of these tf2onnx names mentions (``x/conv2_block1_1_conv_1/...``)."""
    for name in names:
        for part in name.split("/"):
            for candidate in (part, re.sub(r"(_\d+)$", "", part)):
                if candidate in layers:
                    return candidate
    return None


def _tensor(name: str, dtype: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def attach_front(model: onnx.ModelProto, input_scaling: InputScaling) -> onnx.ModelProto:
    """Put uint8 RGB NHWC input and ``preprocess_input`` before a backbone whose input is ``scaled``.

    What is exact is absorbed into the weights of the first convolution: the RGB -> BGR flip (a permutation) and the
    division by 127.5. The subtraction stays: folded into the bias it would be wrong at the zero-padded border.
    """
    model = surgery.copy(model)
    known = surgery.constants(model)
    first = [node for node in model.graph.node if "scaled" in node.input]
    if len(first) != 1 or first[0].op_type != "Conv":
        raise ModelError("The backbone does not begin with one convolution. Export a model trained by glomedge.")
    weight = known[first[0].input[1]]
    if input_scaling == "resnet":
        weight, mean = weight[:, ::-1], np.asarray(IMAGENET_MEAN_RGB, np.float32)
    else:
        weight, mean = weight / np.float32(127.5), np.full(3, 127.5, np.float32)
    surgery.add_constant(model, first[0].input[1], weight.astype(np.float32))
    surgery.add_constant(model, "images.mean", mean.reshape(1, 3, 1, 1))
    front = [
        # Cast first: TensorRT takes a uint8 input into a Cast and into nothing else.
        helper.make_node("Cast", ["images"], ["images.float"], name="images.float", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["images.float"], ["images.nchw"], name="images.nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Sub", ["images.nchw", "images.mean"], ["scaled"], name="scaled"),
    ]
    surgery.replace_nodes(model, [*front, *model.graph.node])
    del model.graph.input[:]
    model.graph.input.append(_tensor("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 3]))
    return model


def attach_head(
    model: onnx.ModelProto, kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], temperature: float
) -> onnx.ModelProto:
    """Put the dense layer as a 1x1 convolution behind ``features``, and the two outputs behind that.

    Args:
        model: backbone with output ``features`` ``[N, 2048, 7, 7]``.
        kernel: ``[2048, 1]`` of the dense layer.
        bias: ``[1]`` of the dense layer.
        temperature: probability is sigmoid(logit / temperature).
    """
    model = surgery.copy(model)
    surgery.add_constant(model, "head.weight", kernel.reshape(1, FEATURES, 1, 1).astype(np.float32))
    surgery.add_constant(model, "head.bias", bias.reshape(1).astype(np.float32))
    surgery.add_constant(model, "head.axis", np.asarray([1], np.int64))
    nodes = [
        helper.make_node("Conv", ["features", "head.weight", "head.bias"], ["head"], name="head", kernel_shape=[1, 1]),
        helper.make_node("Squeeze", ["head", "head.axis"], ["activation"], name="activation"),
        helper.make_node("ReduceMean", ["head"], ["logit.map"], name="logit.map", axes=[2, 3], keepdims=0),
    ]
    logit = "logit.map"
    if temperature != 1.0:
        surgery.add_constant(model, "temperature", np.asarray(temperature, np.float32))
        nodes.append(helper.make_node("Div", [logit, "temperature"], ["logit.calibrated"], name="logit.calibrated"))
        logit = "logit.calibrated"
    nodes.append(helper.make_node("Sigmoid", [logit], ["probability"], name="probability"))
    surgery.replace_nodes(model, [*model.graph.node, *nodes])
    del model.graph.output[:]
    model.graph.output.append(_tensor("probability", TensorProto.FLOAT, ["N", 1]))
    model.graph.output.append(_tensor("activation", TensorProto.FLOAT, ["N", MAP_SIZE, MAP_SIZE]))
    return model


def convert(model: Any, temperature: float = 1.0) -> Converted:
    """The float32 inference graph of a Keras model of this network.

    Args:
        model: keras.Model as ``network.build`` or ``network.load_model`` gives.
        temperature: fitted on the validation split; 1 where none was.

    Raises:
        ModelError: not this network, or tf2onnx gave something unexpected.
        GateError: the graph does not pass the ONNX checker.
    """
    from glomedge_export.network.network import inference_parts

    parts = inference_parts(model)
    return assemble(convert_backbone(parts.backbone), parts.input_scaling, parts.kernel, parts.bias, temperature)


def assemble(
    backbone: onnx.ModelProto,
    input_scaling: InputScaling,
    kernel: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    temperature: float = 1.0,
) -> Converted:
    """Front + backbone + head, cleaned up (``convert`` without TensorFlow)."""
    result, steps = surgery.apply(
        backbone,
        [
            ("uint8 front", lambda m: attach_front(m, input_scaling)),
            ("heatmap head", lambda m: attach_head(m, kernel, bias, temperature)),
            ("constant folding", surgery.fold_constants),
            ("BatchNormalization from Mul + Add", surgery.batchnorm_from_mul_add),
            ("border maximum for the padded max-pool", surgery.border_max),
        ],
    )
    result.graph.name = "glomedge"
    result.producer_name = "glomedge"
    result.doc_string = ""
    return Converted(check(result), steps, input_scaling)


def check(model: onnx.ModelProto) -> onnx.ModelProto:
    """The ONNX checker with full shape inference, and the interface of the contract. Returns the model.

    Raises:
        GateError: the checker refuses it, or inputs, outputs or a tensor's shape are not as promised.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateError(
            f"The ONNX checker refuses the exported graph: {str(error).splitlines()[0]} "
            "This is a defect of the export: report it with the versions that glomedge doctor prints."
        ) from error
    promised = {
        "images": (TensorProto.UINT8, ("N", SIZE_PX, SIZE_PX, 3)),
        "probability": (TensorProto.FLOAT, ("N", 1)),
        "activation": (TensorProto.FLOAT, ("N", MAP_SIZE, MAP_SIZE)),
    }
    shapes = surgery.static_shapes(inferred)
    for info in [*inferred.graph.input, *inferred.graph.output]:
        got = (info.type.tensor_type.elem_type, shapes[info.name])
        if promised.pop(info.name, None) != got:
            raise GateError(
                f"The exported graph has {info.name!r} as {got}. This is a defect of the export: report it."
            )
    unknown = [name for node in inferred.graph.node for name in node.output if name not in shapes]
    if promised or unknown:
        raise GateError(
            f"The exported graph does not contain {sorted(promised)} or has tensors without a shape {unknown[:3]}. "
            "This is a defect of the export: report it."
        )
    return model
