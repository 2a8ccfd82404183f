"""OpenCV's resizing of 8-bit images (``imgproc/src/resize.cpp``) as ONNX nodes, to the byte.

Pixels are whole numbers of float32, ``[H, W, 3]``. Coordinates and weights are computed in float64 exactly as OpenCV
does, along one axis, so that every rounding of a coordinate is the same too. Products and sums are nodes of their own
in OpenCV's order: a convolution or a matrix product would leave order and precision to the runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

from glomedge_export.enhancement.builder import Value


@dataclass(frozen=True)
class Axis:
    """One axis to be resized.

    Attributes:
        number: 0 for rows, 1 for columns.
        source_px: its length, an int64 scalar.
        target_px: its length afterwards, an int64 scalar.
    """

    number: int
    source_px: Value
    target_px: Value

    @property
    def scale(self) -> Value:
        """Source pixels for one target pixel, float64: OpenCV inverts the inverse, which is not always n / m."""
        return 1.0 / (self.target_px.cast("float64") / self.source_px.cast("float64"))

    def positions(self) -> Value:
        """0, 1, ... of the target as float64."""
        graph = self.source_px.graph
        ends = (graph.constant(0, "int64"), self.target_px, graph.constant(1, "int64"))
        return graph.node("Range", *ends, dtype="int64").cast("float64")

    def spread(self, along: Value) -> Value:
        """A vector of the target's length, in the shape that goes with ``[H, W, 3]``.

        Of columns ``[W, 3]``: runtimes multiply whole rows at once then, not three numbers at a time.
        """
        if self.number == 0:
            return along.unsqueeze(1, 2)
        graph = self.source_px.graph
        return along.unsqueeze(1) * graph.constant([[1, 1, 1]], along.dtype)


def shrink_by_area(pixels: Value, rows: Axis, columns: Axis) -> Value:
    """``INTER_AREA`` where no axis grows: the mean of the covered source pixels, columns before rows."""
    graph = pixels.graph
    # Where both factors are whole OpenCV adds whole numbers and divides once; else it adds weighted float32 numbers.
    whole = rows.scale.equals(rows.scale.floor()).both(columns.scale.equals(columns.scale.floor()))
    summed = pixels
    for axis in (columns, rows):
        summed = _weighted_sum(summed, axis, whole)
    area = rows.scale.floor() * columns.scale.floor()
    mean = summed * whole.choose(1.0 / area.cast("float32"), graph.constant(1.0, "float32"))
    # 2 x 2 has a path of its own in OpenCV, which rounds halves up; everything else rounds halves to even.
    halves = rows.scale.equals(2.0).both(columns.scale.equals(2.0))
    return graph.branch(halves, lambda: (mean + 0.5).floor(), mean.round_half_even)


def _weighted_sum(pixels: Value, axis: Axis, whole: Value) -> Value:
    """Along one axis; the weights of a target pixel add up to 1, or are all 1 where ``whole``."""
    graph = pixels.graph
    scale, last_px = axis.scale, axis.source_px.cast("float64") - 1.0
    begin = axis.positions() * scale
    end = begin + scale
    width = scale.minimum(axis.source_px.cast("float64") - begin)
    # Whole source pixels are [inner, outer); a part of one may lie before them and another behind.
    outer = end.floor().minimum(last_px)
    inner = begin.ceil().minimum(outer)
    before, behind = inner - begin, end - outer
    starts_before, ends_behind = before.above(1e-3), behind.above(1e-3)
    first = inner - starts_before.cast("float64")
    count = outer + ends_behind.cast("float64") - first
    zero = graph.constant(0.0, "float64")

    taps_of = (graph.constant(0, "int64"), count.largest().cast("int64"), graph.constant(1, "int64"))
    taps = graph.node("Range", *taps_of, dtype="int64").cast("float64").unsqueeze(1)
    source = first.unsqueeze(0) + taps
    share = source.below(outer).choose(1.0, ends_behind.choose(behind.minimum(1.0).minimum(width), zero))
    share = source.below(inner).choose(before, share)
    weight = (share / width).cast("float32")
    weight = whole.choose(weight.above(0.0).cast("float32"), weight)
    weight = source.above(outer).choose(0.0, weight)
    index = source.minimum(last_px).cast("int64")
    # One row a tap: [taps, H, 1, 1] or [taps, W, 3].
    weight = weight.unsqueeze(2, 3) if axis.number == 0 else weight.unsqueeze(2) * graph.constant([1, 1, 1], "float32")

    def add_tap(total: Value, tap_index: Value, tap_weight: Value) -> Value:
        tap = pixels.gather(tap_index, axis.number).cast("float32")
        return total + tap * tap_weight

    one_px = pixels.gather(index.gather(graph.constant(0, "int64"), 0), axis.number).cast("float32")
    return graph.fold(add_tap, one_px * 0.0, (index, weight))


def resize_linear(pixels: Value, rows: Axis, columns: Axis) -> Value:
    """``INTER_LINEAR`` in OpenCV's fixed point: weights of 11 bits, shifts in place of one rounding."""
    weight_0, weight_1, row_0, row_1 = _two_rows(rows)
    upper, lower = (_row_of(pixels.gather(row, 0), columns) for row in (row_0, row_1))
    blended = _product_shifted(upper, rows.spread(weight_0)) + _product_shifted(lower, rows.spread(weight_1))
    return ((blended + 2.0) / 4.0).floor()


def _row_of(pixels: Value, columns: Axis) -> Value:
    """Columns interpolated, times 2048 / 16, cut to whole numbers: at most 32,640."""
    scale, last_px = columns.scale, columns.source_px.cast("float64") - 1.0
    at = _centre(columns, scale)
    left = at.floor()
    fraction = at - left
    outside = left.below(0.0).cast("float32") + left.cast("float64").above(last_px - 1.0).cast("float32")
    fraction = outside.above(0.0).choose(0.0, fraction)
    index = left.cast("float64").maximum(0.0).minimum(last_px)
    beside = (index + 1.0).minimum(last_px)
    total: Value | None = None
    for weight, column in (((1.0 - fraction) * 2048.0, index), (fraction * 2048.0, beside)):
        taken = pixels.gather(column.cast("int64"), 1).cast("float32")
        term = taken * columns.spread(weight.round_half_even())
        total = term if total is None else total + term
    assert total is not None
    return (total / 16.0).floor()


def _two_rows(rows: Axis) -> tuple[Value, Value, Value, Value]:
    """Weights of the upper and the lower row, and their indices. Outside the image the weights stay: rows repeat."""
    at, last_px = _centre(rows, rows.scale), rows.source_px.cast("float64") - 1.0
    upper = at.floor()
    fraction = at - upper
    first, second = (
        row.maximum(0.0).minimum(last_px).cast("int64") for row in (upper.cast("float64"), upper.cast("float64") + 1.0)
    )
    return ((1.0 - fraction) * 2048.0).round_half_even(), (fraction * 2048.0).round_half_even(), first, second


def _centre(axis: Axis, scale: Value) -> Value:
    """Where the centre of each target pixel lies in the source; OpenCV keeps it as float32."""
    return ((axis.positions() + 0.5) * scale - 0.5).cast("float32")


def _product_shifted(row: Value, weight: Value) -> Value:
    """``row * weight >> 16``, row below 2^15, weight at most 2^11: in two halves, as float32 holds 24 bits."""
    high = (row / 256.0).floor()
    low = row - high * 256.0
    return ((high * weight + (low * weight / 256.0).floor()) / 256.0).floor()
