"""The graph of a SavedModel: only operations that compute, and an answer that is not drawn by chance."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.errors import ModelError
from glomedge.model.file import iter_fields
from glomedge_export.keras_files.saved_graph import (
    answer_operations,
    check_saved_graph,
    keras_metadata,
    keras_version_of,
)
from helpers.keras2_files import Genuine


@pytest.fixture
def folder(keras2: Genuine, tmp_path: Path) -> Path:
    """A copy of the published structure, to be changed."""
    shutil.copytree(keras2.folder / "published_savedmodel", tmp_path / "model")
    return tmp_path / "model"


# SavedModel.meta_graphs, MetaGraphDef.graph_def; GraphDef.node.op; GraphDef.library.function.node_def.op.
_GRAPH = (2, 2)
OUTER_OPERATION, INNER_OPERATION = (*_GRAPH, 1, 2), (*_GRAPH, 2, 1, 3, 2)
SAVE_TENSOR = (2, 3, 2)


def _field(number: int, payload: bytes) -> bytes:
    def varint(value: int) -> bytes:
        return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)

    return varint(number << 3 | 2) + varint(len(payload)) + payload


def _rewritten(data: bytes, place: tuple[int, ...], change: Callable[[bytes], bytes]) -> bytes:
    """A protobuf message with every field at ``place`` (field numbers, outermost first) changed."""
    out, position = b"", 0
    for number, begin, end in iter_fields(data, 0, len(data)):
        raw, position = data[position:end], end
        if number == place[0]:
            inner = data[begin:end]
            raw = _field(number, _rewritten(inner, place[1:], change) if place[1:] else change(inner))
        out += raw
    return out


def _change(folder: Path, place: tuple[int, ...], change: Callable[[bytes], bytes]) -> None:
    path = folder / "saved_model.pb"
    before = path.read_bytes()
    path.write_bytes(_rewritten(before, place, change))
    assert path.read_bytes() != before


def _swap(old: str, new: str) -> Callable[[bytes], bytes]:
    return lambda payload: new.encode() if payload == old.encode() else payload


def test_genuine_graphs(genuine: dict[str, Genuine]) -> None:
    for version, made in genuine.items():
        for structure in made.made["structures"]:
            path = made.folder / f"{structure}_savedmodel"
            graph = check_saved_graph(path)
            assert graph.tensorflow_version == version.removesuffix(".0") + ".1"
            assert {"Conv2D", "MatMul"} <= answer_operations(graph)
            assert keras_version_of(path) == version
            config = keras_metadata(path)["model_config"]
            assert config["class_name"] in ("Functional", "Sequential")


def test_rewriting_nothing_changes_nothing(folder: Path) -> None:
    data = (folder / "saved_model.pb").read_bytes()
    assert _rewritten(data, INNER_OPERATION, lambda payload: payload) == data


@pytest.mark.parametrize(
    "operation", ["PyFunc", "EagerPyFunc", "ReadFile", "WriteFile", "ImmutableConst", "SaveV2", "RestoreV2", "MyOp\x1b"]
)
@pytest.mark.parametrize(("place", "instead"), [(OUTER_OPERATION, "NoOp"), (INNER_OPERATION, "Sigmoid")])
def test_an_operation_that_does_more_than_compute(
    folder: Path, place: tuple[int, ...], instead: str, operation: str
) -> None:
    _change(folder, place, _swap(instead, operation))
    with pytest.raises(ModelError, match="which is not one of those that only compute") as caught:
        check_saved_graph(folder)
    assert operation.rstrip("\x1b") in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


def test_a_second_graph_and_a_second_operation_are_seen(folder: Path) -> None:
    """A protobuf reader merges what is given twice, or takes the last."""
    path = folder / "saved_model.pb"
    whole = path.read_bytes()
    node = _field(1, b"evil") + _field(2, b"PyFunc")
    path.write_bytes(whole + _field(2, _field(2, _field(1, node))))
    with pytest.raises(ModelError, match="holds 2 graphs"):
        check_saved_graph(folder)
    # A second graph_def in the one MetaGraphDef.
    path.write_bytes(_rewritten(whole, (2,), lambda payload: payload + _field(2, _field(1, node))))
    with pytest.raises(ModelError, match="operation 'PyFunc'"):
        check_saved_graph(folder)
    # A second operation in the one node.
    path.write_bytes(_rewritten(whole, (*_GRAPH, 1), lambda payload: payload + _field(2, b"PyFunc")))
    with pytest.raises(ModelError, match="damaged"):
        check_saved_graph(folder)


def test_the_saver_may_be_called_by_the_saver_alone(folder: Path) -> None:
    """SaveV2 writes files: in a function that anything else could call, it is refused."""
    graph = check_saved_graph(folder)
    (name,) = (name for name, nodes in graph.functions.items() if any(node.operation == "SaveV2" for node in nodes))
    saver_operation = r"operation '(StaticRegexFullMatch|StringJoin|ShardedFilename|SaveV2|MergeV2Checkpoints)'"
    whole = (folder / "saved_model.pb").read_bytes()
    for place, change in (
        # The node that calls it is no longer the saver's.
        (SAVE_TENSOR, lambda payload: b"another:0"),
        # An object names it: TensorFlow could call it on loading. MetaGraphDef.object_graph_def = 7.
        ((2, 7), lambda payload: payload + _field(1, _field(4, name.encode()))),
        # Another node calls it. NodeDef.attr = 5 {value = 2 {func = 10 {name = 1}}}.
        (
            (*_GRAPH, 1),
            lambda payload: payload + _field(5, _field(1, b"f") + _field(2, _field(10, _field(1, name.encode())))),
        ),
    ):
        (folder / "saved_model.pb").write_bytes(_rewritten(whole, place, change))
        with pytest.raises(ModelError, match=saver_operation):
            check_saved_graph(folder)


def test_an_active_augmentation_is_seen_in_the_graph(folder: Path) -> None:
    """As Keras 3's model.export() writes it: the answer depends on a random operation."""
    _change(folder, INNER_OPERATION, _swap("Sigmoid", "RandomUniform"))
    with pytest.raises(ModelError, match="answers by chance"):
        check_saved_graph(folder)


def test_random_operations_that_the_answer_does_not_need_are_no_matter(keras2: Genuine) -> None:
    graph = check_saved_graph(keras2.folder / "published_savedmodel")
    everywhere = {node.operation for nodes in graph.functions.values() for node in nodes}
    assert "StatelessRandomUniformV2" in everywhere
    assert not any("Random" in operation for operation in answer_operations(graph))


def test_damaged_and_foreign_graphs(folder: Path) -> None:
    path = folder / "saved_model.pb"
    whole = path.read_bytes()
    for data in (whole[:-100], b"\xff" * 50, b"\x12\xff\xff\xff\xff\x0f"):
        path.write_bytes(data)
        with pytest.raises(ModelError, match="damaged"):
            check_saved_graph(folder)
    # MetaGraphDef without object_graph_def, as TensorFlow 1 wrote it.
    path.write_bytes(_field(2, _field(2, b"")))
    with pytest.raises(ModelError, match="TensorFlow 1"):
        check_saved_graph(folder)


def test_a_damaged_note_of_keras_is_no_note(folder: Path) -> None:
    note = folder / "keras_metadata.pb"
    for data in (b"", b"\xff\xff", note.read_bytes()[:200]):
        note.write_bytes(data)
        assert keras_metadata(folder) == {}
    note.unlink()
    assert keras_version_of(folder) is None
