"""Enhancement and network in one graph: decoded crops of one size in, the model's outputs out."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import helper

from glomedge.errors import ModelError
from glomedge.model.spec import Recipe
from glomedge_export.enhancement.builder import GraphBuilder, value_info
from glomedge_export.enhancement.graph import enhanced

CROPS = "crops"


def merged_graph(model: onnx.ModelProto, recipe: Recipe) -> onnx.ModelProto:
    """``crops`` uint8 ``[N, height, width, 3]`` -> the outputs of ``model``, whose nodes stay as they are.

    Crops are enhanced one by one, so that memory does not grow with the batch, and the network takes them together.
    Not ``onnx.compose.merge_models``: it copies metadata, the seal among it, and renames too little.

    Args:
        model: input ``images`` uint8 ``[N, side, side, 3]``, in its final precision, without spec and seal.
        recipe: what comes first.

    Raises:
        ModelError: the model has a value named ``crops``.
    """
    taken = set(_names(model.graph))
    if CROPS in taken:
        raise ModelError(
            f"A layer of this model is named {CROPS!r}, as the merged file's input is. Rename the layer, or use "
            "--with-preprocessing, which writes two files."
        )
    prefix = "enhance/"
    while any(name.startswith(prefix) for name in taken):
        prefix = f"_{prefix}"
    (images,) = model.graph.input
    builder = GraphBuilder(prefix)
    crops = builder.input(CROPS, "uint8")
    builder.finish(builder.each(lambda crop: enhanced(crop, recipe), crops), images.name)
    batch = images.type.tensor_type.shape.dim[0]
    merged = onnx.ModelProto()
    merged.CopyFrom(model)
    merged.graph.CopyFrom(
        helper.make_graph(
            [*builder.nodes, *model.graph.node],
            f"enhancement {recipe.name} and {model.graph.name}",
            [value_info(crops, [batch.dim_param or batch.dim_value, "height", "width", 3])],
            list(model.graph.output),
            [*builder.initializers, *model.graph.initializer],
            value_info=[*model.graph.value_info, images],
        )
    )
    return merged


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Of every node, value and initialiser, in the bodies of its nodes too."""
    for node in graph.node:
        yield from (node.name, *node.input, *node.output)
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                yield from _names(body)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (value.name for value in (*graph.input, *graph.output))
