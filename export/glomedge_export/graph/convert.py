"""Keras -> ONNX: the backbone by tf2onnx, front and head built in ``ends.py``, so that names and types are ours.

    images uint8 [N, 224, 224, 3] RGB -> Cast -> Transpose -> Sub means -> Conv ... ResNet50V2 ... Relu [N, 2048, 7, 7]
      -> Conv 1x1 (the dense layer) -> activation float32 [N, 7, 7] -> mean -> logit -> / temperature -> Sigmoid
      -> probability float32 [N, 1]

That is our own network, whose parts Keras hands out by name. ``foreign.py`` converts any other.

Global average pooling and the dense layer are both linear, so applying the dense layer to each of the 49 positions
first and averaging afterwards is exact; that is class activation mapping (Zhou et al., CVPR 2016) with the bias kept.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from glomedge.errors import GateError, ModelError
from glomedge.model.scaling import Scaling
from glomedge.model.spec import MAP_SIZE, SIZE_PX, InputScaling
from glomedge_export.graph import folding, surgery
from glomedge_export.graph.ends import attach_front, attach_head, tensor_info
from glomedge_export.graph.names import name_by_known_layers
from glomedge_export.graph.surgery import Step

OPSET = 17
IR_VERSION = 8
FEATURES = 2048


@dataclass(frozen=True)
class Converted:
    """The float32 inference graph and how it was made.

    Attributes:
        model: input ``images``, outputs ``probability`` and, where the map is exact, ``activation``.
        steps: operator counts before and after each step of the surgery.
        scaling: what is applied between ``images`` and the network.
        side_px: height and width of the input.
        map_cells: height and width of ``activation``; None where there is no exact map.
        backbone: the network by its name in ``keras.applications``, or ``other``.
    """

    model: onnx.ModelProto
    steps: tuple[Step, ...]
    scaling: Scaling
    side_px: int
    map_cells: int | None
    backbone: str

    @property
    def input_scaling(self) -> InputScaling:
        """The scaling's name, as in the spec."""
        return self.scaling.name


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
    return name_by_known_layers(_features_nchw(model), [layer.name for layer in backbone.layers])


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
    model.graph.input.append(tensor_info("scaled", TensorProto.FLOAT, ["N", 3, SIZE_PX, SIZE_PX]))
    model.graph.output.append(tensor_info("features", TensorProto.FLOAT, ["N", FEATURES, MAP_SIZE, MAP_SIZE]))
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.ir_version = IR_VERSION
    return surgery.prune(model)


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
    input_scaling: InputScaling | Scaling,
    kernel: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    temperature: float = 1.0,
) -> Converted:
    """Front + backbone + head of an exact map, cleaned up (``convert`` without TensorFlow).

    Args:
        backbone: ``scaled`` ``[N, 3, side, side]`` -> ``features`` ``[N, C, cells, cells]``.
        input_scaling: of the pixels.
        kernel: ``[C, 1]`` of the dense layer.
        bias: ``[1]`` of the dense layer.
        temperature: probability is sigmoid(logit / temperature).
    """
    scaling = input_scaling if isinstance(input_scaling, Scaling) else Scaling.named(input_scaling)
    return finish(backbone, scaling, lambda model: attach_head(model, kernel, bias, temperature), "resnet50v2")


def finish(
    backbone: onnx.ModelProto,
    scaling: Scaling,
    head: Callable[[onnx.ModelProto], onnx.ModelProto],
    name: str,
) -> Converted:
    """Both ends put on a body, the steps of the surgery, and the check.

    Args:
        backbone: with input ``scaled``.
        scaling: of the pixels.
        head: puts the outputs behind it (``ends.attach_head``, ``ends.attach_logits``).
        name: of the network.
    """
    result, steps = surgery.apply(
        backbone,
        [
            ("uint8 front", lambda m: attach_front(m, scaling)),
            ("head", head),
            ("constant folding", surgery.fold_constants),
            ("BatchNormalization from Mul + Add", surgery.batchnorm_from_mul_add),
            ("BatchNormalization as factor and summand", folding.plain_batchnorm),
            ("BatchNormalization into convolutions", folding.batchnorm_into_convolutions),
            ("zero padding into max-pools that see nothing negative", folding.padding_into_pools),
            ("border maximum for the padded max-pool", surgery.border_max),
        ],
    )
    result.graph.name = "glomedge"
    result.producer_name = "glomedge"
    result.doc_string = ""
    check(result)
    sizes = interface(result)
    return Converted(result, steps, scaling, sizes["images"][1], sizes.get("activation", (0, None))[1], name)


def interface(model: onnx.ModelProto) -> dict[str, tuple[Any, ...]]:
    """Shapes of the inputs and outputs by name: ints, or the name of a dynamic dimension."""
    shapes = surgery.static_shapes(model)
    return {info.name: shapes[info.name] for info in [*model.graph.input, *model.graph.output]}


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
    shapes = surgery.static_shapes(inferred)
    side_px = shapes.get("images", ("N", 0))[1]
    promised: dict[str, tuple[int, tuple[int | str, ...]]] = {
        "images": (TensorProto.UINT8, ("N", side_px, side_px, 3)),
        "probability": (TensorProto.FLOAT, ("N", 1)),
    }
    outputs = [output.name for output in inferred.graph.output]
    if "activation" in outputs:
        cells = shapes["activation"][1]
        promised["activation"] = (TensorProto.FLOAT, ("N", cells, cells))
    for info in [*inferred.graph.input, *inferred.graph.output]:
        got = (info.type.tensor_type.elem_type, shapes[info.name])
        if promised.pop(info.name, None) != got or not all(got[1]):
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
