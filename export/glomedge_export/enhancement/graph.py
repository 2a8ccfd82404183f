"""A recipe as an ONNX graph: uint8 ``[H, W, 3]`` of any size to uint8 ``[side, side, 3]``, as ``glomedge.enhance``.

Standard operators (ai.onnx) of opset 16 and later, float32 pixels. It must never be lowered to float16 or int8.
"""

from __future__ import annotations

import onnx
from onnx import helper

from glomedge.imaging.enhance import hue_steps
from glomedge.model.spec import Recipe
from glomedge_export.enhancement import colours
from glomedge_export.enhancement.builder import GraphBuilder, Value, value_info
from glomedge_export.enhancement.resizing import Axis, resize_linear, shrink_by_area

INPUT, OUTPUT = "crop", "image"
OPSET, IR_VERSION = 17, 8


def enhancement_graph(recipe: Recipe) -> onnx.ModelProto:
    """The recipe as a file of its own: ``crop`` uint8 ``[H, W, 3]``, RGB -> ``image`` uint8 ``[side, side, 3]``.

    Raises:
        UsageError: the recipe's hue is not a multiple of two degrees.
    """
    builder = GraphBuilder("")
    crop = builder.input(INPUT, "uint8")
    result = builder.finish(enhanced(crop, recipe), OUTPUT)
    side_px = recipe.size_px
    graph = helper.make_graph(
        builder.nodes,
        f"enhancement {recipe.name}",
        [value_info(crop, ["height", "width", 3])],
        [value_info(result, [side_px, side_px, 3])],
        builder.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "glomedge"
    return model


def enhanced(crop: Value, recipe: Recipe) -> Value:
    """The nodes from one crop, uint8 ``[H, W, 3]``, to its image, uint8 ``[side, side, 3]``."""
    builder, side_px = crop.graph, recipe.size_px
    with builder.stage("resize"):
        resized = _resized(crop, side_px, linear_only=recipe.name == "published")
    planes = colours.split(resized)
    if recipe.name == "published":
        first, second, third = (colours.negative(plane) for plane in planes)
        with builder.stage("equalise"):
            planes = colours.equalise((first, second, third), pixel_count=side_px**2, swapped=True)
        first, second, third = (colours.negative(plane) for plane in planes)
        planes = (first, second, third)
    elif recipe.equalise:
        with builder.stage("equalise"):
            planes = colours.equalise(planes, pixel_count=side_px**2)
    if recipe.saturation_factor != 1.0:
        with builder.stage("saturate"):
            planes = colours.saturate(planes, recipe.saturation_factor)
    steps = hue_steps(recipe.hue_degrees)
    if steps and recipe.name != "published":
        with builder.stage("hue"):
            planes = colours.shift_hue(planes, steps)
    first, second, third = (plane.cast("uint8") for plane in planes)
    return colours.join((first, second, third), side_px)


def _resized(crop: Value, side_px: int, *, linear_only: bool) -> Value:
    """As ``glomedge.imaging.enhance`` resizes: float32 ``[side, side, 3]`` of whole numbers."""
    builder = crop.graph
    height, width = (
        builder.node("Shape", crop, dtype="int64").gather(builder.constant(axis, "int64"), 0) for axis in (0, 1)
    )
    side = builder.constant(side_px, "int64")

    def to_side(pixels: Value, rows_px: Value, columns_px: Value) -> tuple[Value, Axis, Axis]:
        return pixels, Axis(0, rows_px, side), Axis(1, columns_px, side)

    if linear_only:
        # At exactly twice the side OpenCV takes the mean of 2 x 2 pixels, whatever it was asked for.
        twice = height.equals(2 * side_px).both(width.equals(2 * side_px))
        same = height.equals(side_px).both(width.equals(side_px))
        return builder.branch(
            same,
            lambda: crop.cast("float32"),
            lambda: builder.branch(
                twice,
                lambda: shrink_by_area(*to_side(crop, height, width)),
                lambda: resize_linear(*to_side(crop, height, width)),
            ),
        )
    small_height, small_width = height.minimum(side), width.minimum(side)
    shrinks, grows = height.maximum(width).above(side_px), small_height.minimum(small_width).below(side_px)
    shrunk = builder.branch(
        shrinks,
        lambda: shrink_by_area(crop, Axis(0, height, small_height), Axis(1, width, small_width)),
        lambda: crop.cast("float32"),
    )
    return builder.branch(grows, lambda: resize_linear(*to_side(shrunk, small_height, small_width)), lambda: shrunk)
