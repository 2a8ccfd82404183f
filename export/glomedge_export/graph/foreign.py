"""Any Keras image network as the float32 graph of a model file: converted whole, taken apart, put together again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import onnx

from glomedge_export.graph import folding, surgery
from glomedge_export.graph.anatomy import Anatomy, Choices, Outside, body, read, read_outside
from glomedge_export.graph.backbones import backbone_name
from glomedge_export.graph.convert import Converted, finish
from glomedge_export.graph.ends import attach_head, attach_logits
from glomedge_export.graph.names import name_by_layer
from glomedge_export.graph.whole import Frozen, Inference, freeze, skeleton, whole


@dataclass(frozen=True)
class Survey:
    """What is known of a model before the minute that its conversion takes.

    Attributes:
        frozen: the traced function, to convert.
        outputs: numbers that the model gives for each crop.
        outside: front and output.
    """

    frozen: Frozen
    outputs: int
    outside: Outside


def survey(model: Inference) -> Survey:
    """Trace a model and look at both its ends.

    Raises:
        ModelError: front or output is nothing that a model file can carry.
    """
    frozen = freeze(model)
    return Survey(frozen, model.outputs, read_outside(skeleton(frozen), model.outputs))


def convert_foreign(surveyed: Survey, choices: Choices) -> tuple[Converted, Anatomy]:
    """The float32 inference graph, temperature 1.

    Args:
        surveyed: of ``survey``.
        choices: what the user said; ``anatomy.missing`` has found nothing missing.

    Raises:
        ModelError: the network has no form that a model file can carry.
        GateError: the graph does not pass the ONNX checker.
    """
    graph = whole(surveyed.frozen)
    anatomy = read(graph, surveyed.outputs, choices)
    inside = folding.padding_into_convolutions(name_by_layer(body(graph, anatomy)))
    head = anatomy.head
    if head is None:
        count, positive = anatomy.output.count, anatomy.positive
        converted = finish(
            inside, anatomy.scaling, lambda m: attach_logits(m, count, positive, 1.0), backbone_name(inside)
        )
        return converted, anatomy
    kernel, bias = head.kernel, head.bias
    if anatomy.output.count == 2:
        # Softmax over two numbers is the sigmoid of their difference.
        other = 1 - anatomy.positive
        kernel = kernel[:, [anatomy.positive]] - kernel[:, [other]]
        bias = bias[[anatomy.positive]] - bias[[other]]
    converted = finish(inside, anatomy.scaling, lambda m: attach_head(m, kernel, bias, 1.0), backbone_name(inside))
    return converted, anatomy


def graph_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of every constant of a graph, shapes and bytes in the order of its nodes: what a foreign model weighs."""
    known = surgery.constants(model)
    digest = hashlib.sha256()
    for node in model.graph.node:
        for name in node.input:
            if name in known:
                digest.update(str(known[name].shape).encode())
                digest.update(np.ascontiguousarray(known[name]).tobytes())
    return digest.hexdigest()
