"""The sealed file: truncation and flipped bits are detected before anything is loaded."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.engine import loading
from glomedge.errors import ModelError
from glomedge.model.file import SEAL_BYTES, SEAL_KEY, SPEC_KEY, iter_fields, metadata, read_model_file, sealed
from glomedge.model.graph import check_graph, read_graph_facts
from helpers import builders


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    spec = builders.build_tiny_model(path, threshold=0.7)
    file = read_model_file(path)
    assert file.spec == spec
    assert file.size_bytes == path.stat().st_size
    assert len(file.sha256) == 64


def test_the_file_is_onnx_to_others(tiny_model: Path) -> None:
    import onnx

    model = onnx.load(str(tiny_model))
    onnx.checker.check_model(model)
    keys = [entry.key for entry in model.metadata_props]
    assert keys == [SPEC_KEY, SEAL_KEY]
    assert metadata(tiny_model.read_bytes())[SPEC_KEY].decode() == model.metadata_props[0].value


def test_the_hash_changes_with_weights_and_with_spec(tmp_path: Path) -> None:
    hashes = set()
    for bias, threshold in ((-4.0, 0.5), (-4.5, 0.5), (-4.0, 0.6)):
        path = tmp_path / "model.onnx"
        builders.build_tiny_model(path, bias=bias, threshold=threshold)
        hashes.add(read_model_file(path).sha256)
    assert len(hashes) == 3


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One truncation or one to three flipped bits, anywhere."""
    if rng.random() < 0.4:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def test_a_thousand_cuts_and_flips_are_all_refused(tmp_path: Path, tiny_model: Path) -> None:
    sound = tiny_model.read_bytes()
    path = tmp_path / "damaged.onnx"
    rng = random.Random(5)
    refused = 0
    for _ in range(1000):
        data = damaged(sound, rng)
        if data == sound:
            continue
        path.write_bytes(data)
        with pytest.raises(ModelError):
            read_model_file(path)
        refused += 1
    assert refused > 990


def test_damage_is_refused_by_load_as_well(tmp_path: Path, tiny_model: Path) -> None:
    sound = tiny_model.read_bytes()
    path = tmp_path / "damaged.onnx"
    rng = random.Random(6)
    for _ in range(25):
        path.write_bytes(damaged(sound, rng))
        with pytest.raises(ModelError):
            loading.load(path, "cpu")


def test_a_resealed_flip_in_the_weights_is_found_by_the_self_test(tmp_path: Path, tiny_model: Path) -> None:
    """The seal guards against accident, the self-test against weights that someone changed and sealed again."""
    graph = builders.tiny_graph()
    spec = read_model_file(tiny_model).spec
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "weights")
    values = np.frombuffer(weights.raw_data, np.float32).copy()
    values[0] *= 1.02
    weights.raw_data = values.tobytes()
    path = tmp_path / "resealed.onnx"
    path.write_bytes(sealed(graph.SerializeToString(), spec))
    with pytest.raises(ModelError, match="Self-test failed"):
        loading.load(path, "cpu")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"not a model at all, just some text", "not an ONNX file"),
        (b"\x00" * 4096, "not an ONNX file"),
        (builders.tiny_graph().SerializeToString(), "was not exported by glomedge"),
        (b"PK\x03\x04" + bytes(60), r"Keras file.*Export it first: glomedge export .*foreign\.onnx"),
        (b"\x89HDF\r\n\x1a\n" + bytes(60), r"Keras file.*Export it first"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer of 63 bytes.*git lfs"),
    ],
)
def test_foreign_files_are_told_apart(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "foreign.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=words):
        read_model_file(path)


def test_a_saved_model_folder_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(ModelError, match=r"SavedModel.*glomedge export"):
        read_model_file(tmp_path)


READERS = (read_model_file, read_graph_facts)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none.onnx", r"There is no model at .*glomedge export.*--model\.$"),
        ("text.md/below.onnx", r"There is no model at .*--model\.$"),
        ("", r"is a folder, not a model file\. Name the \.onnx file with --model\.$"),
        ("pipe.onnx", r"is a pipe or a device.*--model\.$"),
        ("device.onnx", r"is a pipe or a device.*--model\.$"),
        ("loop.onnx", r"leads back to itself.*--model\.$"),
        ("empty.onnx", r"is empty\. Export the model again"),
        ("x" * 5000, r"cannot be read \(File name too long\)\. Check"),
        ("nul\0.onnx", r"cannot be opened .*--model\.$"),
    ],
)
def test_what_is_no_readable_file_is_a_model_error(
    tmp_path: Path, reader: Callable[[Path], object], name: str, words: str
) -> None:
    (tmp_path / "text.md").write_text("text")
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "device.onnx").symlink_to("/dev/zero")
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match=words):
        reader(tmp_path / name)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EACCES, "permission denied"), (errno.EIO, "Check the disk"), (errno.ESTALE, "Check the disk")],
)
def test_errors_of_the_system_are_model_errors(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, reader: Callable[[Path], object], number: int, words: str
) -> None:
    def failing(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", failing)
    with pytest.raises(ModelError, match=words):
        reader(tiny_model)


def test_a_pipe_that_takes_the_files_place_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model: Path
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(tiny_model.read_bytes())
    real = os.open

    def replaced(*given: Any) -> int:
        path.unlink()
        os.mkfifo(path)
        return real(*given)

    monkeypatch.setattr(os, "open", replaced)
    with pytest.raises(ModelError, match="is a pipe"):
        read_model_file(path)


def test_an_edited_file_says_that_it_changed(tmp_path: Path, tiny_model: Path) -> None:
    data = tiny_model.read_bytes().replace(b'"threshold":0.5', b'"threshold":0.9')
    assert data != tiny_model.read_bytes()
    path = tmp_path / "edited.onnx"
    path.write_bytes(data)
    with pytest.raises(ModelError, match="has changed since glomedge exported it"):
        read_model_file(path)


def test_a_second_spec_appended_after_the_seal_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    data = tiny_model.read_bytes()
    path = tmp_path / "twice.onnx"
    path.write_bytes(data + data[-SEAL_BYTES:])
    with pytest.raises(ModelError, match="has changed"):
        read_model_file(path)


def test_iter_fields_agrees_with_protobuf(tiny_model: Path) -> None:
    import onnx

    data = tiny_model.read_bytes()
    model = onnx.ModelProto.FromString(data)
    fields: dict[int, list[bytes]] = {}
    for number, begin, end in iter_fields(data, 0, len(data)):
        fields.setdefault(number, []).append(data[begin:end])
    assert fields[7] == [model.graph.SerializeToString()]
    assert len(fields[14]) == len(model.metadata_props)
    assert fields[1] == [bytes([model.ir_version])]


# modelgraph.py


def test_graph_facts_agree_with_the_onnx_package(tiny_model: Path) -> None:
    import onnx

    model = onnx.load(str(tiny_model))
    facts = read_graph_facts(tiny_model)
    assert facts.opset == model.opset_import[0].version
    assert sorted(facts.operators.elements()) == sorted(node.op_type for node in model.graph.node)
    expected: dict[int, int] = {}
    for tensor in model.graph.initializer:
        expected[tensor.data_type] = expected.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    assert dict(facts.elements) == expected
    assert facts.precision == "fp32"
    assert not facts.external
    assert not facts.foreign_domains


def test_precision_is_read_from_the_graph(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, numpy_helper

    for dtype, node, expected in (
        (np.float16, "Relu", "fp16"),
        (np.float32, "QuantizeLinear", "int8"),
        (np.float32, "Relu", "fp32"),
    ):
        graph = helper.make_graph(
            [helper.make_node(node, ["w"], ["y"])],
            "g",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.zeros(8, dtype), "w")],
        )
        path = tmp_path / "graph.onnx"
        path.write_bytes(helper.make_model(graph).SerializeToString())
        assert read_graph_facts(path).precision == expected


def test_external_data_inside_a_node_attribute_is_found(tmp_path: Path, tiny_model: Path) -> None:
    from onnx import TensorProto, helper

    graph = builders.tiny_graph()
    tensor = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    graph.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))
    path = tmp_path / "hidden.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="'hidden'"):
        check_graph(path, read_model_file(tiny_model).spec)


def test_functions_are_refused(tmp_path: Path) -> None:
    from onnx import FunctionProto

    graph = builders.tiny_graph()
    graph.functions.append(FunctionProto(name="f", domain="d"))
    path = tmp_path / "functions.onnx"
    path.write_bytes(graph.SerializeToString())
    with pytest.raises(ModelError, match="functions"):
        read_graph_facts(path)


@pytest.mark.parametrize("size", [3, 2**40, -1])
def test_dimensions_without_end_are_refused_at_once(tmp_path: Path, size: int) -> None:
    graph = builders.tiny_graph()
    graph.graph.initializer[1].dims.extend([size] * 400_000)
    path = tmp_path / "endless.onnx"
    path.write_bytes(graph.SerializeToString())
    start = time.process_time()
    with pytest.raises(ModelError, match="more elements than ONNX can count"):
        read_graph_facts(path)
    assert time.process_time() - start < 1.0


def test_noise_is_refused_not_crashed_on(tmp_path: Path, tiny_model: Path) -> None:
    """Cut and flipped bytes without a seal in front: only ModelError may come out of the walk."""
    sound = builders.tiny_graph().SerializeToString()
    rng = random.Random(7)
    path = tmp_path / "noise.onnx"
    outcomes = {"walked": 0, "refused": 0}
    for _ in range(500):
        path.write_bytes(damaged(sound, rng) or b"\0")
        try:
            read_graph_facts(path)
            outcomes["walked"] += 1
        except ModelError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 50
    assert outcomes["walked"] > 50
