"""3x3 convolutions by Winograd's minimal filtering, spelt out in ordinary ONNX operators.

F(2x2, 3x3) of Lavin and Gray (Fast Algorithms for Convolutional Neural Networks, CVPR 2016, arXiv:1509.09308): a tile
of 2 x 2 outputs takes 16 multiplications for each pair of channels instead of 36,

    Y = A' [(G g G') * (B' d B)] A

with d the 4 x 4 inputs under the tile, g the weights, ``'`` for transposed and ``*`` element by element. Neither
onnxruntime nor OpenVINO has such a kernel for x86; written as a graph, every part of it runs on kernels they do have:

- ``B' d B``: sixteen depthwise 2x2 convolutions with stride 2 (each line of B' has two entries, +1 or -1),
- the products and their sum over input channels: sixteen 1x1 convolutions with the weights ``G g G'``,
- ``A' [..] A``: sums. onnxruntime adds for nothing into the convolution before an ``Add``, so a difference is written
  as a sum with a 1x1 depthwise convolution by -2,
- the four outputs of all tiles are laid side by side as rows of pixels with their channels together, where that is
  copying whole rows.

The additions are those of the published algorithm and as exact as the direct sum (measured: 3e-6 on activations of 12).
It is a layout for a CPU; a GPU's own library picks such algorithms by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from glomedge_export.graph import surgery

Array = npt.NDArray[Any]

MIN_CHANNELS = 64
"""Below, the sums around the products cost more than the products saved."""
BLOCK = 16
"""Channels that onnxruntime's widest blocked layout keeps together; others would be rearranged at each step."""

# B' by line: offset of the first entry within the 4 inputs, distance to the second, both entries.
_INPUT = ((0, 2, 1, -1), (1, 1, 1, 1), (1, 1, -1, 1), (1, 2, 1, -1))
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float64)
# A' is [[1, 1, 1, 0], [0, 1, -1, -1]]: see ``_Layer.sums``.


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every 3x3 convolution that gains by it -> the operators above; a ``Relu`` behind it goes along.

    Those with stride 1, padding 1, one group, a static input size and ``MIN_CHANNELS`` or more on both sides. Others
    stay as they are. Activations are float32 NCHW throughout.
    """
    model = onnx.shape_inference.infer_shapes(surgery.copy(model), strict_mode=True)
    known = surgery.constants(model)
    readers = surgery.consumers(model)
    outputs = {output.name for output in model.graph.output}
    shapes = surgery.static_shapes(model)
    kept: list[onnx.NodeProto] = []
    taken: set[str] = set()
    for node in model.graph.node:
        if node.output[0] in taken:
            continue
        sides_px = _eligible(node, known, shapes)
        if sides_px is None:
            kept.append(node)
            continue
        after = readers.get(node.output[0], [])
        relu = len(after) == 1 and after[0].op_type == "Relu" and node.output[0] not in outputs
        result = after[0].output[0] if relu else node.output[0]
        taken.add(result)
        layer = _Layer(model, node, known, sides_px)
        kept += layer.nodes(result, relu=relu)
    surgery.replace_nodes(model, kept)
    return surgery.prune(model)


def _eligible(
    node: onnx.NodeProto, known: dict[str, Array], shapes: dict[str, tuple[int | str, ...]]
) -> tuple[int, int] | None:
    """Height and width of what it reads, or None if it stays as it is."""
    if node.op_type != "Conv":
        return None
    weight = known.get(node.input[1])
    sides = shapes.get(node.input[0], ())[2:]
    if weight is None or weight.shape[2:] != (3, 3) or len(sides) != 2:
        return None
    if any(channels < MIN_CHANNELS or channels % BLOCK for channels in weight.shape[:2]):
        return None
    wanted = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}
    if any(surgery.attribute(node, name, value) != value for name, value in wanted.items()):
        return None
    if surgery.attribute(node, "pads", [0] * 4) != [1, 1, 1, 1]:
        return None
    height_px, width_px = sides
    return (height_px, width_px) if isinstance(height_px, int) and isinstance(width_px, int) else None


class _Layer:
    """The nodes of one convolution; ``M[i, j]`` as in the paper, i down and j across."""

    def __init__(
        self, model: onnx.ModelProto, node: onnx.NodeProto, known: dict[str, Array], sides_px: tuple[int, int]
    ) -> None:
        self._model = model
        self._base = f"{node.name or node.output[0]}.winograd"
        self._source = node.input[0]
        self._weight = known[node.input[1]].astype(np.float64)
        self._bias = node.input[2] if len(node.input) > 2 else None
        self._sides_px = sides_px
        self._tiles = [-(-side // 2) for side in sides_px]
        self._made: list[onnx.NodeProto] = []
        self._convolutions: set[str] = set()

    def nodes(self, result: str, *, relu: bool) -> list[onnx.NodeProto]:
        """All of them in order; the last gives the tensor ``result``."""
        products = {(i, j): self._product(i, j) for i in range(4) for j in range(4)}
        columns = [self._sums([products[i, j] for i in range(4)]) for j in range(4)]
        quarters = [tensor for i in range(2) for tensor in self._sums([column[i] for column in columns])]
        if relu:
            quarters = [self._node("Relu", [tensor]) for tensor in quarters]
        self._interleave(quarters)
        self._made[-1].output[0] = result
        return self._made

    def _product(self, i: int, j: int) -> str:
        """``M[i, j]`` of all tiles, ``[N, K, tiles down, tiles across]``; the last line of A' has given it its sign."""
        (down, step_down, *first), (across, step_across, *second) = _INPUT[i], _INPUT[j]
        begins, ends = [1 - down, 1 - across], []
        for side, tiles, offset, step in zip(
            self._sides_px, self._tiles, (down, across), (step_down, step_across), strict=True
        ):
            # What the last tile reads beyond the picture; the direct convolution sees zeros there as well.
            ends.append(max(0, 2 * (tiles - 1) + offset - 1 + step - (side - 1)))
        channels = self._weight.shape[1]
        taps = np.outer(first, second).astype(np.float32)
        name = f"winograd.input.{channels}." + "".join("+" if tap > 0 else "-" for tap in taps.ravel())
        transformed = self._node(
            "Conv",
            [self._source, self._constant(name, np.tile(taps, (channels, 1, 1, 1)))],
            kernel_shape=[2, 2],
            strides=[2, 2],
            dilations=[step_down, step_across],
            pads=[*begins, *ends],
            group=channels,
        )
        weight = np.einsum("a,kcab,b->kc", _G[i], self._weight, _G[j])
        if (i == 3) != (j == 3):
            weight = -weight
        pointwise = weight[:, :, None, None].astype(np.float32)
        inputs = [transformed, self._constant(f"{self._base}.weight{i}{j}", pointwise)]
        if (i, j) == (1, 1) and self._bias is not None:
            # The one product that A' adds to each of the four outputs with a plus.
            inputs.append(self._bias)
        return self._node("Conv", inputs, kernel_shape=[1, 1])

    def _sums(self, terms: Sequence[str]) -> tuple[str, str]:
        """Both lines of A' times four tensors, whose last has its minus already: ``m0 + m1 + m2``, ``m1 - m2 + m3``."""
        middle = self._node("Add", [terms[1], terms[2]])
        difference = self._node("Add", [self._times(terms[2], -2), middle])
        return (
            self._node("Add", [self._times(terms[0], 1), middle]),
            self._node("Add", [self._times(terms[3], 1), difference]),
        )

    def _times(self, tensor: str, factor: int) -> str:
        """A tensor times 1 or -2 as what onnxruntime can add into: the output of a convolution."""
        if factor == 1 and tensor in self._convolutions:
            return tensor
        channels = self._weight.shape[0]
        factors = np.full((channels, 1, 1, 1), factor, np.float32)
        constant = self._constant(f"winograd.times{factor}.{channels}", factors)
        return self._node("Conv", [tensor, constant], kernel_shape=[1, 1], group=channels)

    def _interleave(self, quarters: Sequence[str]) -> None:
        """Four ``[N, K, tiles down, tiles across]`` -> ``[N, K, height, width]``.

        onnxruntime gives and takes NHWC as cheaply as NCHW at the edge of its blocked layout, and in NHWC a pixel's
        channels are copied whole. (``DepthToSpace`` copies number by number and costs ten times as much.) The first
        dimension of each shape is 0, that is, kept: with -1 onnxruntime would no longer know that the sizes of two
        terms agree and leave the addition behind the next convolution outside of it.
        """
        channels = self._weight.shape[0]
        down, across = self._tiles
        together = self._node("Transpose", [self._node("Concat", quarters, axis=1)], perm=[0, 2, 3, 1])
        split = self._shape(0, down, across, 2, 2 * channels)
        rows = self._node("Transpose", [self._node("Reshape", [together, split])], perm=[0, 1, 3, 2, 4])
        pixels = self._node("Reshape", [rows, self._shape(0, 2 * down, 2 * across, channels)])
        if [2 * down, 2 * across] != list(self._sides_px):
            cut = [self._shape(*numbers) for numbers in ((0, 0), self._sides_px, (1, 2))]
            pixels = self._node("Slice", [pixels, *cut])
        self._node("Transpose", [pixels], perm=[0, 3, 1, 2])

    def _node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"{self._base}.{len(self._made)}"
        self._made.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        if operator == "Conv":
            self._convolutions.add(name)
        return name

    def _constant(self, name: str, value: Array) -> str:
        return surgery.add_constant(self._model, name, value)

    def _shape(self, *numbers: int) -> str:
        return self._constant(f"winograd.numbers.{'x'.join(map(str, numbers))}", np.array(numbers, np.int64))
