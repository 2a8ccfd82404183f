"""Writing an ONNX graph as formulas: values with operators, every name chosen when a node is made.

Names are final at once because tools that add a prefix afterwards (``onnx.compose``) rename initialisers but not their
uses inside the bodies of If and Scan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

Dtype = Literal["bool", "uint8", "int32", "int64", "float32", "float64"]
Array = npt.NDArray[Any]


def onnx_type(dtype: Dtype) -> int:
    """The number that ONNX gives this type."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph. Numbers beside it in a formula become constants of its own type.

    Attributes:
        graph: that it belongs to; a node is added to the body that is being written, wherever its inputs were made.
        name: in the graph.
        dtype: of its elements.
    """

    graph: GraphBuilder
    name: str
    dtype: Dtype

    def _with(self, operator: str, other: Value | float, *, swapped: bool = False) -> Value:
        operand = self.graph.as_value(other, self.dtype)
        if operand.dtype != self.dtype:
            raise TypeError(f"{operator} of {self.dtype} and {operand.dtype}")
        pair = (operand, self) if swapped else (self, operand)
        return self.graph.node(operator, *pair, dtype=self.dtype)

    def __add__(self, other: Value | float) -> Value:
        return self._with("Add", other)

    def __radd__(self, other: float) -> Value:
        return self._with("Add", other, swapped=True)

    def __sub__(self, other: Value | float) -> Value:
        return self._with("Sub", other)

    def __rsub__(self, other: float) -> Value:
        return self._with("Sub", other, swapped=True)

    def __mul__(self, other: Value | float) -> Value:
        return self._with("Mul", other)

    def __rmul__(self, other: float) -> Value:
        return self._with("Mul", other, swapped=True)

    def __truediv__(self, other: Value | float) -> Value:
        return self._with("Div", other)

    def __rtruediv__(self, other: float) -> Value:
        return self._with("Div", other, swapped=True)

    def minimum(self, other: Value | float) -> Value:
        return self._with("Min", other)

    def maximum(self, other: Value | float) -> Value:
        return self._with("Max", other)

    def clip(self, low: float, high: float) -> Value:
        """Elementwise, both ends included."""
        ends = (self.graph.constant(low, self.dtype), self.graph.constant(high, self.dtype))
        return self.graph.node("Clip", self, *ends, dtype=self.dtype)

    def floor(self) -> Value:
        return self.graph.node("Floor", self, dtype=self.dtype)

    def ceil(self) -> Value:
        return self.graph.node("Ceil", self, dtype=self.dtype)

    def round_half_even(self) -> Value:
        return self.graph.node("Round", self, dtype=self.dtype)

    def absolute(self) -> Value:
        return self.graph.node("Abs", self, dtype=self.dtype)

    def cast(self, dtype: Dtype) -> Value:
        """The same values as another type; itself where it is of that type."""
        return self if dtype == self.dtype else self.graph.node("Cast", self, dtype=dtype, to=onnx_type(dtype))

    def equals(self, other: Value | float) -> Value:
        return self._compared("Equal", other)

    def below(self, other: Value | float) -> Value:
        return self._compared("Less", other)

    def above(self, other: Value | float) -> Value:
        return self._compared("Greater", other)

    def _compared(self, operator: str, other: Value | float) -> Value:
        return self.graph.node(operator, self, self.graph.as_value(other, self.dtype), dtype="bool")

    def both(self, other: Value) -> Value:
        return self.graph.node("And", self, other, dtype="bool")

    def choose(self, where_true: Value | float, where_false: Value) -> Value:
        """Elementwise, of a condition. Slow on whole images; meant for tables and coordinates."""
        chosen = self.graph.as_value(where_true, where_false.dtype)
        return self.graph.node("Where", self, chosen, where_false, dtype=where_false.dtype)

    def gather(self, indices: Value, axis: int) -> Value:
        """The slices of that axis with these indices."""
        return self.graph.node("Gather", self, indices, dtype=self.dtype, axis=axis)

    def reshape(self, shape: Sequence[int]) -> Value:
        return self.graph.node("Reshape", self, self.graph.constant(shape, "int64"), dtype=self.dtype)

    def unsqueeze(self, *axes: int) -> Value:
        return self.graph.node("Unsqueeze", self, self.graph.constant(axes, "int64"), dtype=self.dtype)

    def smallest(self) -> Value:
        """Of all elements, a scalar."""
        return self.graph.node("ReduceMin", self, dtype=self.dtype, keepdims=0)

    def largest(self) -> Value:
        """Of all elements, a scalar."""
        return self.graph.node("ReduceMax", self, dtype=self.dtype, keepdims=0)


class GraphBuilder:
    """One graph under construction, with the bodies of its If and Scan nodes.

    Args:
        prefix: before the name of every node, value and constant that is made, so that graphs can be joined.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._stage = ""
        self._bodies: list[list[onnx.NodeProto]] = [[]]
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], onnx.TensorProto] = {}
        self._made = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Nodes made meanwhile are named after this step."""
        outer, self._stage = self._stage, f"{name}/"
        yield
        self._stage = outer

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """Those of the outermost graph, in order."""
        return self._bodies[0]

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        """The constants of the graph and of all its bodies."""
        return list(self._constants.values())

    def _name(self, operator: str) -> str:
        self._made += 1
        return f"{self._prefix}{self._stage}{operator.lower()}.{self._made}"

    def input(self, name: str, dtype: Dtype) -> Value:
        """A value that is there already: an input of the graph, or of the body being written."""
        return Value(self, name, dtype)

    def constant(self, value: float | Sequence[float] | Sequence[Sequence[float]] | Array, dtype: Dtype) -> Value:
        """One initialiser for equal constants. Constants live in the outermost graph, where every body sees them."""
        array = np.asarray(value, dtype)
        key = (dtype, array.tobytes(), array.shape)
        if key not in self._constants:
            name = f"{self._prefix}constant.{len(self._constants)}"
            self._constants[key] = numpy_helper.from_array(array, name)
        return Value(self, self._constants[key].name, dtype)

    def as_value(self, value: Value | float, dtype: Dtype) -> Value:
        return value if isinstance(value, Value) else self.constant(value, dtype)

    def node(self, operator: str, *inputs: Value, dtype: Dtype, **attributes: Any) -> Value:
        """A node with one output of that type."""
        return self.node_of_many(operator, *inputs, dtypes=[dtype], **attributes)[0]

    def node_of_many(self, operator: str, *inputs: Value, dtypes: Sequence[Dtype], **attributes: Any) -> list[Value]:
        """A node with one output for each of the types."""
        name = self._name(operator)
        names = [name] if len(dtypes) == 1 else [f"{name}:{position}" for position in range(len(dtypes))]
        self._bodies[-1].append(
            helper.make_node(operator, [value.name for value in inputs], names, name=name, **attributes)
        )
        return [Value(self, output, dtype) for output, dtype in zip(names, dtypes, strict=True)]

    def finish(self, result: Value, name: str) -> Value:
        """The result of the outermost graph under its final name; nothing may read it yet."""
        for node in self.nodes:
            node.output[:] = [name if output == result.name else output for output in node.output]
        return Value(self, name, result.dtype)

    def branch(self, condition: Value, then: Callable[[], Value], otherwise: Callable[[], Value]) -> Value:
        """If: only the branch that is taken is computed. Both give the same type."""
        taken, taken_results = self._body("then", (), lambda: [then()])
        left, _ = self._body("else", (), lambda: [otherwise()])
        return self.node("If", condition, dtype=taken_results[0].dtype, then_branch=taken, else_branch=left)

    def fold(self, step: Callable[[Value, Value, Value], Value], start: Value, over: tuple[Value, Value]) -> Value:
        """Scan: ``state = step(state, first[i], second[i])`` for every i along the first axis of both."""
        stem = self._name("fold")
        arguments = [
            self.input(f"{stem}:{name}", dtype)
            for name, dtype in (("state", start.dtype), ("first", over[0].dtype), ("second", over[1].dtype))
        ]
        body, _ = self._body(stem, arguments, lambda: [step(*arguments)])
        return self.node("Scan", start, *over, dtype=start.dtype, body=body, num_scan_inputs=2)

    def each(self, make: Callable[[Value], Value], batch: Value) -> Value:
        """Scan: ``make`` of every element along the first axis, one after another, stacked again."""
        argument = self.input(f"{self._name('each')}:element", batch.dtype)
        body, made = self._body("each", [argument], lambda: [make(argument)])
        return self.node("Scan", batch, dtype=made[0].dtype, body=body, num_scan_inputs=1)

    def _body(
        self, name: str, arguments: Sequence[Value], make: Callable[[], list[Value]]
    ) -> tuple[onnx.GraphProto, list[Value]]:
        self._bodies.append([])
        # A body's output must be made in it; Identity also covers a branch that gives a value from outside.
        results = [self.node("Identity", value, dtype=value.dtype) for value in make()]
        nodes = self._bodies.pop()
        return (
            helper.make_graph(
                nodes, name, [value_info(value) for value in arguments], [value_info(r) for r in results]
            ),
            results,
        )


def value_info(value: Value, shape: Sequence[str | int] | None = None) -> onnx.ValueInfoProto:
    """Name and type as an input or output declares them; without a shape, it is found while the graph runs."""
    return helper.make_tensor_value_info(value.name, onnx_type(value.dtype), shape)
