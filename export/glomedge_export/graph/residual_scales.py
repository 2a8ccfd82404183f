"""Scales with which no int8 residual sum lies near a tie, so that every processor rounds it alike.

A runtime adds two uint8 tensors as ``round((a - z_a) s_a / s_c + (b - z_b) s_b / s_c)`` in float32. Of the 65,536 pairs
of values a few come so near to a half that the order of operations, or a fused multiply-add, decides which way they
round; one such step in the middle of a network moved a probability by 3e-4 between two sets of kernels. Where both
ratios are multiples of ``1 / D`` with the same odd ``D``, a sum is a whole number of ``D``-ths, never nearer to a half
than ``1 / (2 D)``, which is many times the error of float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from glomedge_export.graph.ranges import Scale
from glomedge_export.graph.surgery import consumers

PARTS = 511
"""``D``: sums up to 512 have a float32 error of 1e-4 after a few operations, a tenth of 1 / (2 D)."""
LEAST_PARTS = 16
"""Below so many parts the term's grid would become coarser by more than a sixteenth: it is left alone."""


def without_ties(
    model: onnx.ModelProto, scales: Mapping[str, Scale], same: frozenset[str] = frozenset()
) -> dict[str, Scale]:
    """The scales, those of the terms of each sum raised to the next multiple of its own scale's ``PARTS``-th.

    Sums are taken from the last to the first, because the term of one is the sum of another. A tensor that is the term
    of two sums keeps to the later one.

    Args:
        model: float32, of ``int8.prepare_int8``.
        scales: uint8 scales by tensor.
        same: operators (``op_type``) whose output has the scale of their input.

    Returns:
        All of them; ranges only become wider, zero points stay.
    """
    raised = dict(scales)
    makers = {name: node for node in model.graph.node for name in node.output}
    readers = consumers(model)
    settled: set[str] = set()

    def group(name: str) -> list[str]:
        """The tensor, and those that share its scale: before and behind operators that only move numbers."""
        first = name
        while first in makers and makers[first].op_type in same and makers[first].input[0] in raised:
            first = makers[first].input[0]
        found, waiting = [], [first]
        while waiting:
            found.append(waiting.pop())
            waiting += [
                reader.output[0]
                for reader in readers.get(found[-1], [])
                if reader.op_type in same and reader.input[0] == found[-1] and reader.output[0] in raised
            ]
        return found

    def result(node: onnx.NodeProto) -> str:
        """The quantised tensor of a sum: its own, or that of the Relu that is computed with it."""
        after = readers.get(node.output[0], [])
        alone = node.output[0] not in raised and len(after) == 1 and after[0].op_type == "Relu"
        return str(after[0].output[0] if alone else node.output[0])

    for node in reversed(model.graph.node):
        if node.op_type != "Add" or any(name not in raised for name in (*node.input, result(node))):
            continue
        total = raised[result(node)].scale
        for term in node.input:
            members = group(term)
            parts = math.ceil(PARTS * float(raised[term].scale) / float(total))
            if parts < LEAST_PARTS or settled.intersection(members):
                continue
            for name in members:
                raised[name] = replace(raised[name], scale=np.float32(float(total) * parts / PARTS))
            settled.update(members)
    return raised
