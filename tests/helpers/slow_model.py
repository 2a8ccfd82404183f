"""A model whose every call takes a noticeable time: to see what happens while one is running."""

from __future__ import annotations

import math
import timeit
from pathlib import Path

import numpy as np

from glomedge.model.file import sealed
from helpers.builders import tiny_graph, tiny_spec

_SIDE = 1024


_CALL_S = 0.15
_MOST_PRODUCTS = 64


def build_slow_model(path: Path) -> None:
    """As ``build_tiny_model``, with products of two 1,024 x 1,024 matrices that add nothing to the answer.

    Each is 2 gigaflop, whatever the batch; there are as many as NumPy computes here in 0.15 s, so that a call takes
    long enough for what a test has to do meanwhile, on a slow machine as on a fast one.
    """
    from onnx import helper, numpy_helper

    matrix = np.full((_SIDE, _SIDE), 1 / _SIDE, np.float32)
    products = min(_MOST_PRODUCTS, math.ceil(_CALL_S / min(timeit.repeat(lambda: matrix @ matrix, number=1, repeat=5))))
    model = tiny_graph()
    nodes = list(model.graph.node)
    place = next(index for index, node in enumerate(nodes) if node.op_type == "Div")
    extra = [
        helper.make_node("ReduceMean", ["floats"], ["brightness"], keepdims=0),
        helper.make_node("Mul", ["brightness", "nothing"], ["none"]),
        helper.make_node("Add", ["matrix", "none"], ["product0"]),
    ]
    extra += [
        helper.make_node("MatMul", [f"product{index}", "matrix"], [f"product{index + 1}"]) for index in range(products)
    ]
    extra += [
        helper.make_node("ReduceMean", [f"product{products}"], ["last"], keepdims=0),
        helper.make_node("Mul", ["last", "nothing"], ["zero"]),
        helper.make_node("Add", ["logit", "zero"], ["late_logit"]),
    ]
    nodes[place].input[0] = "late_logit"
    nodes[place:place] = extra
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(numpy_helper.from_array(matrix, "matrix"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.0, np.float32), "nothing"))
    graph = model.SerializeToString()
    path.write_bytes(sealed(graph, tiny_spec(graph)))
