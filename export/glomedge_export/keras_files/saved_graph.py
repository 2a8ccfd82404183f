"""The graph of a SavedModel, read without TensorFlow: which operations it holds and what its answer depends on.

Field numbers: TensorFlow's saved_model.proto, meta_graph.proto, graph.proto, function.proto, node_def.proto,
attr_value.proto and keras_metadata's saved_metadata.proto. Where a message is given twice a protobuf reader merges
both, so every occurrence is walked.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glomedge.errors import ModelError
from glomedge.model.file import iter_fields, mapped, read_varint
from glomedge_export.keras_files import allowed
from glomedge_export.keras_files.reading import MAX_CONFIG_BYTES, SAVED_MODEL, reason, shown

SIGNATURE = "serving_default"
# SavedModel; MetaGraphDef
_META_GRAPHS, _INFO, _GRAPH, _SAVER, _SIGNATURES, _OBJECTS = 2, 1, 2, 3, 5, 7
# GraphDef; FunctionDefLibrary; FunctionDef; OpDef; NodeDef
_NODE, _LIBRARY, _FUNCTION, _FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 2, 1, 1, 3
_NAME, _OP, _ATTRIBUTE, _TENSORFLOW_VERSION = 1, 2, 5, 5
# AttrValue: list = 1 {func = 9}, func = 10
_LIST, _LIST_FUNCTION, _ATTRIBUTE_FUNCTION = 1, 9, 10
_SAVER_TENSORS = (2, 3)

Span = tuple[int, int]


@dataclass
class Node:
    """One operation: its name, its type, and the functions that it calls."""

    name: str
    operation: str
    calls: list[str]


@dataclass
class SavedGraph:
    """What a SavedModel's protobuf says.

    Attributes:
        tensorflow_version: that wrote it.
        main: nodes of the outer graph.
        functions: nodes of each function of the library.
        saver_nodes: names of the outer nodes that save and restore variables.
        objects: the serialised object graph; empty for a file of TensorFlow 1.
        answer_nodes: names of the outer nodes that ``serving_default`` answers with.
        input_shape: of its one input, -1 where a size is open; empty where it has several.
    """

    tensorflow_version: str = ""
    main: list[Node] = field(default_factory=list)
    functions: dict[str, list[Node]] = field(default_factory=dict)
    saver_nodes: set[str] = field(default_factory=set)
    objects: bytes = b""
    answer_nodes: set[str] = field(default_factory=set)
    input_shape: list[int] = field(default_factory=list)


def read_saved_graph(path: Path) -> SavedGraph:
    """Walk ``saved_model.pb`` of a folder. Raises ModelError where it is damaged."""
    found = SavedGraph()
    buffer, _ = mapped(path / SAVED_MODEL)
    try:
        with buffer:
            graphs = _parts(buffer, (0, len(buffer)), _META_GRAPHS)
            if len(graphs) != 1:
                raise ModelError(
                    f"The SavedModel {shown(path)} holds {len(graphs)} graphs; glomedge takes those with one."
                )
            _read_graph(buffer, graphs[0], found)
    except (ValueError, IndexError, RecursionError) as error:
        raise ModelError(f"{SAVED_MODEL} in {shown(path)} is damaged ({reason(error)}). Copy it again.") from error
    return found


def check_saved_graph(path: Path) -> SavedGraph:
    """Refuse a SavedModel that does anything but compute, before TensorFlow opens it.

    Raises:
        ModelError: an operation that is not on the list, a graph of TensorFlow 1, or an answer that is drawn by chance.
    """
    graph = read_saved_graph(path)
    if not graph.objects:
        raise ModelError(
            f"The SavedModel {shown(path)} was written by TensorFlow 1 or an estimator. Save the Keras model again: "
            "model.save(FILE)"
        )
    saver = _saver_functions(graph)
    for name, nodes in (("", graph.main), *graph.functions.items()):
        permitted = allowed.GRAPH_OPERATIONS | allowed.SAVER_OPERATIONS if name in saver else allowed.GRAPH_OPERATIONS
        for node in nodes:
            if node.operation not in permitted:
                raise ModelError(
                    f"The SavedModel {shown(path)} holds the operation {shown(node.operation)!r}, which is not one of "
                    "those that only compute: files, network and Python code are refused. Save the model without it."
                )
    drawn = answer_operations(graph) & allowed.RANDOM_OPERATIONS
    if drawn:
        raise ModelError(
            f"The SavedModel {shown(path)} answers by chance: its augmentation is still active ({sorted(drawn)[0]}). "
            "Keras 3's model.export() writes such files; save the model with model.save('FILE.keras') instead."
        )
    return graph


def answer_operations(graph: SavedGraph) -> set[str]:
    """The types of all operations in the functions that ``serving_default`` calls, directly or not."""
    waiting = [call for node in graph.main if node.name in graph.answer_nodes for call in node.calls]
    seen: set[str] = set()
    operations: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            for node in graph.functions.get(name, ()):
                operations.add(node.operation)
                waiting += node.calls
    return operations


def _saver_functions(graph: SavedGraph) -> set[str]:
    """Functions that nothing but the saver's own nodes can call: not another node, and not an object on loading."""
    own = {call for node in graph.main if node.name in graph.saver_nodes for call in node.calls}
    others = [node for node in graph.main if node.name not in graph.saver_nodes]
    others += [node for nodes in graph.functions.values() for node in nodes]
    own -= {call for node in others for call in node.calls}
    return {name for name in own if name.encode() not in graph.objects}


def _read_graph(buffer: mmap.mmap, span: Span, found: SavedGraph) -> None:
    for info in _parts(buffer, span, _INFO):
        found.tensorflow_version = "".join(_texts(buffer, info, _TENSORFLOW_VERSION)[-1:])
    for graph in _parts(buffer, span, _GRAPH):
        found.main += [_node(buffer, node) for node in _parts(buffer, graph, _NODE)]
        for library in _parts(buffer, graph, _LIBRARY):
            for function in _parts(buffer, library, _FUNCTION):
                names = [
                    name
                    for signature in _parts(buffer, function, _FUNCTION_SIGNATURE)
                    for name in _texts(buffer, signature, _NAME)
                ]
                nodes = [_node(buffer, node) for node in _parts(buffer, function, _FUNCTION_NODE)]
                # A function given twice or with two names: all of it counts for each.
                for name in names or [""]:
                    found.functions.setdefault(name, []).extend(nodes)
    for saver in _parts(buffer, span, _SAVER):
        tensors = [text for number in _SAVER_TENSORS for text in _texts(buffer, saver, number)]
        found.saver_nodes |= {tensor.partition(":")[0] for tensor in tensors}
    for entry in _parts(buffer, span, _SIGNATURES):
        if SIGNATURE in _texts(buffer, entry, 1):
            found.input_shape = _input_shape(buffer, entry)
            # SignatureDef: outputs = 2, a map whose values are TensorInfo {name = 1}.
            for value in _parts(buffer, entry, 2):
                for output in _parts(buffer, value, 2):
                    for tensor in _parts(buffer, output, 2):
                        found.answer_nodes |= {name.partition(":")[0] for name in _texts(buffer, tensor, 1)}
    found.objects = b"".join(buffer[begin:end] for begin, end in _parts(buffer, span, _OBJECTS))


def _input_shape(buffer: mmap.mmap, entry: Span) -> list[int]:
    # SignatureDef: inputs = 1, a map to TensorInfo {tensor_shape = 3 {dim = 2 {size = 1}}}.
    inputs = [value for signature in _parts(buffer, entry, 2) for value in _parts(buffer, signature, 1)]
    if len(inputs) != 1:
        return []
    shapes = [shape for tensor in _parts(buffer, inputs[0], 2) for shape in _parts(buffer, tensor, 3)]
    sizes = []
    for dimension in (part for shape in shapes for part in _parts(buffer, shape, 2)):
        size = [read_varint(buffer, begin)[0] for begin, _ in _parts(buffer, dimension, 1)] or [0]
        sizes.append(size[-1] if size[-1] < 1 << 63 else -1)
    return sizes


def _node(buffer: mmap.mmap, span: Span) -> Node:
    names, operations = _texts(buffer, span, _NAME), _texts(buffer, span, _OP)
    if len(operations) != 1:
        raise ValueError(f"a node has {len(operations)} operations")
    return Node("".join(names[-1:]), operations[0], list(_called(buffer, span)))


def _called(buffer: mmap.mmap, span: Span) -> Iterator[str]:
    for attribute in _parts(buffer, span, _ATTRIBUTE):
        for value in _parts(buffer, attribute, 2):
            for function in _parts(buffer, value, _ATTRIBUTE_FUNCTION):
                yield from _texts(buffer, function, 1)
            for several in _parts(buffer, value, _LIST):
                for function in _parts(buffer, several, _LIST_FUNCTION):
                    yield from _texts(buffer, function, 1)


def _parts(buffer: mmap.mmap | bytes, span: Span, wanted: int) -> list[Span]:
    return [(begin, end) for number, begin, end in iter_fields(buffer, *span) if number == wanted]


def _texts(buffer: mmap.mmap | bytes, span: Span, wanted: int) -> list[str]:
    return [bytes(buffer[begin:end]).decode("utf-8", "replace") for begin, end in _parts(buffer, span, wanted)]


# --- keras_metadata.pb ------------------------------------------------------------------------------------------------


def keras_metadata(path: Path) -> dict[str, Any]:
    """What Keras 2 noted of the outermost model of a SavedModel; empty where there is no (readable) note.

    Only for showing: ``model_config`` in it is never used to build a model.
    """
    note = path / "keras_metadata.pb"
    if not note.is_file() or not 0 < note.stat().st_size <= MAX_CONFIG_BYTES:
        return {}
    try:
        data = note.read_bytes()
        for node in _parts(data, (0, len(data)), 1):
            # SavedObject: node_path = 3, metadata = 5.
            if _texts(data, node, 3) == ["root"]:
                found = json.loads(_texts(data, node, 5)[-1])
                return found if isinstance(found, dict) else {}
    except (ValueError, IndexError, RecursionError, OSError):
        return {}
    return {}


def keras_version_of(path: Path) -> str | None:
    """The Keras that wrote a SavedModel folder; None where none is noted (Keras 3, or TensorFlow alone)."""
    version = keras_metadata(path).get("keras_version")
    return version if isinstance(version, str) else None
