"""The graph of a SavedModel: only operations that compute, and an answer that is not drawn by chance."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.saved_graph import (
    answer_operations,
    check_saved_graph,
    keras_metadata,
    keras_version_of,
    read_saved_graph,
)
from helpers.keras2_files import Genuine


@pytest.fixture
def folder(keras2: Genuine, tmp_path: Path) -> Path:
    """A copy of the published structure, to be changed."""
    shutil.copytree(keras2.folder / "published_savedmodel", tmp_path / "model")
    return tmp_path / "model"


def _replace(folder: Path, old: bytes, new: bytes, count: int = -1) -> None:
    """Exchange bytes of the same length, so that every length in the protobuf stays right."""
    assert len(old) == len(new)
    path = folder / "saved_model.pb"
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, count))


def _op(name: str) -> bytes:
    # NodeDef.op = 2.
    return b"\x12" + bytes([len(name)]) + name.encode()


def _field(number: int, payload: bytes) -> bytes:
    def varint(value: int) -> bytes:
        return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)

    return varint(number << 3 | 2) + varint(len(payload)) + payload


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


@pytest.mark.parametrize("by", ["PyFunc", "ReadFile", "WriteFile", "EagerPyFunc", "ImmutableConst", "RestoreV2"])
@pytest.mark.parametrize("where", ["Relu", "RealDiv", "Placeholder", "Sigmoid", "Conv2D"])
def test_an_operation_that_does_more_than_compute(folder: Path, where: str, by: str) -> None:
    """Added to a node, where a protobuf reader takes the last of two: both are seen."""
    path = folder / "saved_model.pb"
    # As another node of the outer graph: SavedModel.meta_graphs = 2, MetaGraphDef.graph_def = 2, GraphDef.node = 1.
    node = _field(1, b"evil") + _field(2, by.encode())
    whole = path.read_bytes()
    match = re.search(re.escape(_op(where)), whole)
    assert match is not None
    path.write_bytes(whole + _field(2, _field(2, _field(1, node))))
    with pytest.raises(ModelError, match="holds 2 graphs"):
        check_saved_graph(folder)
    if len(by) == len(where):
        path.write_bytes(whole)
        _replace(folder, _op(where), _op(by))
        with pytest.raises(ModelError, match=f"operation '{by}'") as caught:
            check_saved_graph(folder)
        assert len(str(caught.value)) < 500


def test_an_operation_within_a_function(folder: Path) -> None:
    _replace(folder, _op("Sigmoid"), _op("ReadFil"))
    with pytest.raises(ModelError, match="operation 'ReadFil'"):
        check_saved_graph(folder)


def test_the_saver_may_be_called_by_the_saver_alone(folder: Path) -> None:
    """SaveV2 writes files: in a function that anything else calls, it is refused."""
    graph = check_saved_graph(folder)
    (name,) = (name for name, nodes in graph.functions.items() if any(node.operation == "SaveV2" for node in nodes))
    # The nodes of the saver lose their names: what they call is then called by an ordinary node.
    _replace(folder, b"StatefulPartitionedCall_1:0", b"StatefulPartitionedCall_9:0")
    with pytest.raises(ModelError, match=r"operation '(StaticRegexFullMatch|StringJoin|ShardedFilename|SaveV2)'"):
        check_saved_graph(folder)
    _replace(folder, b"StatefulPartitionedCall_9:0", b"StatefulPartitionedCall_1:0")
    check_saved_graph(folder)
    # An object that names the function could have it called on loading.
    objects = read_saved_graph(folder).objects
    other = re.search(rb"__inference_[a-z0-9_]{%d}(?![a-z0-9_])" % (len(name) - len("__inference_")), objects)
    if other is None:
        data = (folder / "saved_model.pb").read_bytes()
        # SavedObjectGraph.nodes = 1; the merge of both object graphs is what TensorFlow would read.
        extra = _field(7, _field(1, _field(4, name.encode())))
        begin = data.index(objects)
        assert begin > 0
        (folder / "saved_model.pb").write_bytes(_with_last_meta_graph(data, extra))
    with pytest.raises(ModelError, match="holds the operation"):
        check_saved_graph(folder)


def _with_last_meta_graph(data: bytes, extra: bytes) -> bytes:
    """The file with more fields at the end of its one MetaGraphDef."""
    from glomedge.model.file import iter_fields

    out = b""
    for number, begin, end in iter_fields(data, 0, len(data)):
        out += _field(number, data[begin:end] + extra) if number == 2 else b"\x08\x01"
    return out


def test_an_active_augmentation_is_seen_in_the_graph(folder: Path) -> None:
    """As Keras 3's model.export() writes it: the answer depends on a random operation."""
    _replace(folder, _op("Sigmoid"), _op("RngSkip"))
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
