"""What the graph inside a model file declares, read without the ``onnx`` package.

Only what must be known before a runtime opens the file: that no tensor is stored outside it, and that opset, number
types, temperature and a site's slope and offset are those the spec claims. Field numbers: onnx.proto3 (ModelProto,
GraphProto, NodeProto, AttributeProto, TensorProto).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.errors import ModelError
from glomedge.model.file import iter_fields, mapped, read_varint
from glomedge.model.spec import ModelSpec

# ModelProto
_GRAPH, _OPSET_IMPORT, _FUNCTIONS = 7, 8, 25
# GraphProto
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15
# NodeProto
_OP_TYPE, _ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
# AttributeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
# TensorProto
_DIMS, _DATA_TYPE, _FLOAT_DATA, _NAME, _RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 1, 2, 4, 8, 9, 13, 14
_FLOAT, _UINT8, _INT8, _FLOAT16 = 1, 2, 3, 10

# What export calls the float32 constant that the logit is divided by; it writes none where the temperature is 1.
TEMPERATURE = "temperature"
# What recalibration calls the float32 constants behind it (``model.site_graph``).
SLOPE, OFFSET = "site.slope", "site.offset"
_SCALARS = {TEMPERATURE: "temperature", SLOPE: "slope", OFFSET: "offset"}
_MAX_ELEMENTS = 2**63 - 1  # dims are int64
_STANDARD_DOMAINS = {"", "ai.onnx", "com.microsoft"}


@dataclass
class GraphFacts:
    """What was found.

    Attributes:
        opset: of the default domain; 0 when none is declared.
        operators: how many nodes of each type.
        elements: how many weight elements of each ONNX data type number.
        external: names of tensors whose data is outside the file.
        foreign_domains: operator domains that need another library.
        temperature: that the logit is divided by.
        slope, offset: of a site, applied to that.
    """

    opset: int = 0
    operators: Counter[str] = field(default_factory=Counter)
    elements: Counter[int] = field(default_factory=Counter)
    external: list[str] = field(default_factory=list)
    foreign_domains: set[str] = field(default_factory=set)
    temperature: float = 1.0
    slope: float = 1.0
    offset: float = 0.0

    @property
    def precision(self) -> str:
        """``int8`` for a quantised graph, ``fp16`` where most weights are half precision, else ``fp32``."""
        if "QuantizeLinear" in self.operators or "QLinearConv" in self.operators:
            return "int8"
        if self.elements[_FLOAT16] > self.elements[_FLOAT]:
            return "fp16"
        return "fp32"


def read_graph_facts(path: Path) -> GraphFacts:
    """Walk the protobuf of an ONNX file. Raises ModelError where it cannot be read or walked."""
    facts = GraphFacts()
    opened, _ = mapped(path)
    try:
        with opened as buffer:
            for number, begin, end in iter_fields(buffer, 0, len(buffer)):
                if number == _GRAPH:
                    _walk_graph(buffer, begin, end, facts)
                elif number == _FUNCTIONS:
                    raise ModelError(f"{path} carries ONNX functions, which glomedge never writes. Export it again.")
                elif number == _OPSET_IMPORT:
                    parts = {n: (b, e) for n, b, e in iter_fields(buffer, begin, end)}
                    domain = _text(buffer, parts.get(1))
                    if domain in ("", "ai.onnx") and 2 in parts:
                        facts.opset = read_varint(buffer, parts[2][0])[0]
    except (ValueError, IndexError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"The graph inside {path} cannot be read ({error}). Export the model again.") from error
    return facts


def check_graph(path: Path, spec: ModelSpec) -> GraphFacts:
    """Refuse a graph that reaches outside its file or is not what its spec claims.

    Raises:
        ModelError: external data, operators of a custom library, another opset, precision, temperature, slope or
            offset than the spec's.
    """
    facts = read_graph_facts(path)
    check_self_contained(path, facts)
    for name, claimed, found in (
        ("opset", spec.opset, facts.opset),
        ("precision", spec.precision, facts.precision),
    ):
        if claimed != found:
            raise ModelError(
                f"The spec inside {path} and its graph disagree on {name}: spec {claimed}, graph {found}. "
                "Export the model again."
            )
    # Read rather than inferred: the golden crop is chosen near one half, where no temperature shows in an answer.
    site = spec.site
    for name, said, is_there in (
        ("temperature", spec.temperature, facts.temperature),
        ("the site's slope", site.slope if site else 1.0, facts.slope),
        ("the site's offset", site.offset if site else 0.0, facts.offset),
    ):
        if not math.isclose(said, is_there, rel_tol=1e-6, abs_tol=1e-30):  # the graph's is a float32
            raise ModelError(
                f"The spec inside {path} and its graph disagree on {name}: spec {said:g}, graph {is_there:g}. "
                "Export the model again."
            )
    return facts


def check_self_contained(path: Path, facts: GraphFacts) -> None:
    """Refuse a graph that reaches outside its file: tensors stored elsewhere, operators of another library."""
    if facts.external:
        raise ModelError(
            f"{path} keeps {len(facts.external)} tensors outside the file (first: {facts.external[0]!r}). glomedge "
            "loads self-contained files only; export the model again with: glomedge export"
        )
    if facts.foreign_domains:
        raise ModelError(
            f"{path} needs operators of other libraries ({', '.join(sorted(facts.foreign_domains))}), which glomedge "
            "never loads. Export the model again with: glomedge export"
        )


def _text(buffer: mmap.mmap, span: tuple[int, int] | None) -> str:
    return bytes(buffer[span[0] : span[1]]).decode("utf-8") if span else ""


def _walk_graph(buffer: mmap.mmap, start: int, end: int, facts: GraphFacts) -> None:
    for number, begin, stop in iter_fields(buffer, start, end):
        if number == _NODE:
            _walk_node(buffer, begin, stop, facts)
        elif number == _INITIALIZER:
            _walk_tensor(buffer, begin, stop, facts)
        elif number == _SPARSE_INITIALIZER:
            for inner, b, e in iter_fields(buffer, begin, stop):
                if inner in (1, 2):  # values, indices
                    _walk_tensor(buffer, b, e, facts)


def _walk_node(buffer: mmap.mmap, start: int, end: int, facts: GraphFacts) -> None:
    for number, begin, stop in iter_fields(buffer, start, end):
        if number == _OP_TYPE:
            facts.operators[_text(buffer, (begin, stop))] += 1
        elif number == _NODE_DOMAIN:
            domain = _text(buffer, (begin, stop))
            if domain not in _STANDARD_DOMAINS:
                facts.foreign_domains.add(domain)
        elif number == _ATTRIBUTE:
            for inner, b, e in iter_fields(buffer, begin, stop):
                if inner in (_TENSOR, _TENSORS):
                    _walk_tensor(buffer, b, e, facts)
                elif inner in (_SUBGRAPH, _SUBGRAPHS):
                    _walk_graph(buffer, b, e, facts)


def _walk_tensor(buffer: mmap.mmap, start: int, end: int, facts: GraphFacts) -> None:
    name, data_type, elements, external = "", 0, 1, False
    data: tuple[int, int] | None = None
    for number, begin, stop in iter_fields(buffer, start, end):
        if number == _DIMS:
            # protobuf packs repeated integers into one field; a single one may be unpacked.
            position = begin
            while position < stop:
                size, position = read_varint(buffer, position)
                elements *= size
                # Dimensions without end would grow the product without end.
                if elements > _MAX_ELEMENTS:
                    raise ValueError("a tensor of more elements than ONNX can count")
        elif number == _DATA_TYPE:
            data_type = read_varint(buffer, begin)[0]
        elif number == _NAME:
            name = _text(buffer, (begin, stop))
        elif number in (_RAW_DATA, _FLOAT_DATA):
            data = (begin, stop)
        elif number == _EXTERNAL_DATA:
            external = True
        elif number == _DATA_LOCATION:
            external = external or read_varint(buffer, begin)[0] != 0
    facts.elements[data_type] += elements
    if external:
        facts.external.append(name or "unnamed")
    if name in _SCALARS and data_type == _FLOAT and data is not None and data[1] - data[0] == 4:
        setattr(facts, _SCALARS[name], struct.unpack("<f", buffer[data[0] : data[1]])[0])
