"""The colour steps of ``glomedge.imaging.enhance`` as ONNX nodes, to the byte.

Every value is a whole number, or one divided by a power of two, of at most 24 bits: float32 holds it exactly, whatever
the order of sums and with or without fused multiply-add. Where a quotient is not exact it lies far enough from the
next rounding; tests run every colour through.
"""

from __future__ import annotations

import numpy as np

from glomedge_export.enhancement.builder import Value

Planes = tuple[Value, Value, Value]


def split(pixels: Value) -> Planes:
    """``[H, W, 3]`` to three flat planes of H * W values; a last axis of length 1 would make runtimes slow."""
    graph = pixels.graph
    one_each = graph.constant([1, 1, 1], "int64")
    parts = graph.node_of_many("Split", pixels, one_each, dtypes=[pixels.dtype] * 3, axis=2)
    first, second, third = (part.reshape([-1]) for part in parts)
    return first, second, third


def join(planes: Planes, side_px: int) -> Value:
    """Inverse of ``split`` for a square image."""
    columns = [plane.reshape([-1, 1]) for plane in planes]
    flat = planes[0].graph.node("Concat", *columns, dtype=planes[0].dtype, axis=1)
    return flat.reshape([side_px, side_px, 3])


def negative(plane: Value) -> Value:
    """``(x * 255) mod 256``: 0 stays 0, anything else is 256 - x."""
    return 256.0 - plane - plane.equals(0.0).cast("float32") * 256.0


def equalise(planes: Planes, *, pixel_count: int, swapped: bool = False) -> Planes:
    """Equalise the histogram of Y in OpenCV's 8-bit YUV (BT.601, fixed point of 14 bits).

    Args:
        planes: of the image.
        pixel_count: how many pixels each has.
        swapped: read the planes as blue, green, red; the result is red, green, blue all the same.
    """
    red, green, blue = reversed(planes) if swapped else planes
    luma = ((4899.0 * red + 9617.0 * green + 1868.0 * blue + 8192.0) / 2.0**14).floor()
    # U and V less their 128.
    u = ((((blue - luma) * 8061.0 + 8192.0) / 2.0**14).floor()).clip(-128.0, 127.0)
    v = ((((red - luma) * 14369.0 + 8192.0) / 2.0**14).floor()).clip(-128.0, 127.0)
    level = _equalised(luma, pixel_count)
    return (
        (level + ((v * 18678.0 + 8192.0) / 2.0**14).floor()).clip(0.0, 255.0),
        (level + ((u * -6472.0 - v * 9519.0 + 8192.0) / 2.0**14).floor()).clip(0.0, 255.0),
        (level + ((u * 33292.0 + 8192.0) / 2.0**14).floor()).clip(0.0, 255.0),
    )


def _equalised(luma: Value, pixel_count: int) -> Value:
    """``cv2.equalizeHist``: the cumulative histogram above the lowest level, stretched to 255."""
    graph = luma.graph
    index = luma.cast("int32")
    ones = graph.node(
        "Expand", graph.constant([1.0], "float32"), graph.constant([pixel_count], "int64"), dtype="float32"
    )
    counts = graph.node(
        "ScatterElements",
        graph.constant(np.zeros(256), "float32"),
        index,
        ones,
        dtype="float32",
        axis=0,
        reduction="add",
    )
    lowest = luma.smallest()
    at_lowest = counts.gather(lowest.cast("int64"), 0)
    up_to = graph.node("CumSum", counts, graph.constant(0, "int64"), dtype="float32")
    others = float(pixel_count) - at_lowest
    table = ((up_to - at_lowest) * (255.0 / others.maximum(1.0))).round_half_even().clip(0.0, 255.0)
    # One level only: OpenCV leaves the plane as it is.
    table = others.equals(0.0).choose(lowest, table)
    return graph.node("GatherElements", table, index, dtype="float32", axis=0)


def saturate(planes: Planes, factor: float) -> Planes:
    """Pillow's ``ImageEnhance.Color``: a blend with luma in float32, clipped, truncated."""
    red, green, blue = planes
    luma = ((19595.0 * red + 38470.0 * green + 7471.0 * blue + 32768.0) / 2.0**16).floor()
    first, second, third = ((luma + (plane - luma) * factor).clip(0.0, 255.0).floor() for plane in planes)
    return first, second, third


def shift_hue(planes: Planes, steps: int) -> Planes:
    """Hue shifted by ``steps`` of two degrees: OpenCV's 8-bit HSV there, glomedge's exact way back."""
    red, green, blue = planes
    value = red.maximum(green).maximum(blue)
    span = value - red.minimum(green).minimum(blue)
    # OpenCV multiplies by rounded reciprocals of 12 fractional bits.
    saturation = (span * (1044480.0 / value.maximum(1.0)).round_half_even() / 4096.0 + 0.5).floor()
    sector = red - green + span * 4.0
    for plane, own in ((green, blue - red + span * 2.0), (red, green - blue)):
        # The first of red, green, blue that is the largest decides; so red is put in last.
        sector = sector + plane.equals(value).cast("float32") * (own - sector)
    hue = (sector * (122880.0 / span.maximum(1.0)).round_half_even() / 4096.0 + 0.5).floor() + float(steps)
    hue = hue - (hue / 180.0).floor() * 180.0
    chroma = (saturation * value / 255.0).round_half_even()
    first, second, third = (_channel(value, chroma, hue, own_hue) for own_hue in (0.0, 60.0, 120.0))
    return first, second, third


def _channel(value: Value, chroma: Value, hue: Value, own_hue: float) -> Value:
    """Full within 60 degrees (30 steps) of its own hue, empty beyond 120, linear between: in thirtieths of chroma."""
    share = (60.0 - ((hue - own_hue).absolute() - 90.0).absolute()).clip(0.0, 30.0)
    # A little above 1/30, as in glomedge.imaging.enhance: exact ties round up.
    return value - (share * chroma * ((1.0 + 5e-5) / 30.0)).round_half_even()
