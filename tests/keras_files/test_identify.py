"""What a path is, by its content."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import h5py
import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.identify import identify
from helpers.keras2_files import Genuine


def test_every_genuine_file_is_known(genuine: dict[str, Genuine]) -> None:
    seen = set()
    for version, made in genuine.items():
        for structure in made.made["structures"]:
            for path in made.files(structure):
                file = identify(path)
                assert file.keras_version == version
                assert (file.config is None) == (file.file_format == "savedmodel")
                assert not file.is_keras3
                seen.add((path.name.removeprefix(structure), file.file_format))
    # Keras 2.12 writes HDF5 under the suffix .keras: the content decides.
    assert seen >= {(".keras", "keras2"), (".keras", "h5"), (".h5", "h5"), ("_savedmodel", "savedmodel")}


def test_the_suffix_says_nothing(keras2: Genuine, tmp_path: Path) -> None:
    for source, name in (("published.keras", "a.h5"), ("published.h5", "b.keras"), ("published.h5", "c")):
        shutil.copy(keras2.folder / source, tmp_path / name)
    found = [identify(tmp_path / name).file_format for name in ("a.h5", "b.keras", "c")]
    assert found == ["keras2", "h5", "h5"]


def test_the_hash_is_of_the_file_or_of_names_and_contents(keras2: Genuine, tmp_path: Path) -> None:
    path = keras2.folder / "published.h5"
    assert identify(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    folder = tmp_path / "copy"
    shutil.copytree(keras2.folder / "published_savedmodel", folder)
    same = identify(folder).sha256
    assert same == identify(keras2.folder / "published_savedmodel").sha256
    expected = hashlib.sha256()
    for name in sorted(str(part.relative_to(folder)) for part in folder.rglob("*") if part.is_file()):
        expected.update(name.encode() + b"\0" + hashlib.sha256((folder / name).read_bytes()).hexdigest().encode())
    assert same == expected.hexdigest()
    (folder / "fingerprint.pb").rename(folder / "other.pb")
    assert identify(folder).sha256 != same


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.keras", b"", "is empty"),
        ("pointer.keras", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        ("model.onnx", b"\x08\x08\x12\x07pytorch", "ONNX file"),
        ("model.tflite", b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
        ("saved_model.pb", b"\x08\x01", "Name its folder"),
        ("model.ckpt.index", b"\0\0", "checkpoint"),
        ("text.h5", b"hello", "is no Keras model"),
        ("cut.keras", b"PK\x03\x04\x14\0", "damaged archive"),
        ("cut.h5", b"\x89HDF\r\n\x1a\n\0\0", "damaged HDF5"),
    ],
)
def test_other_files_are_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=words) as caught:
        identify(tmp_path / name)
    assert len(str(caught.value)) < 500


def test_missing_files_and_folders(tmp_path: Path, keras2: Genuine) -> None:
    with pytest.raises(ModelError, match="There is no Keras model at"):
        identify(tmp_path / "nothing.keras")
    with pytest.raises(ModelError, match=r"holds no saved_model\.pb"):
        identify(tmp_path)
    shutil.copy(keras2.folder / "published_savedmodel" / "saved_model.pb", tmp_path)
    with pytest.raises(ModelError, match=r"variables\.index"):
        identify(tmp_path)


def test_weights_alone_are_no_model(tmp_path: Path, keras2: Genuine) -> None:
    path = tmp_path / "weights.h5"
    shutil.copy(keras2.folder / "published.h5", path)
    with h5py.File(path, "r+") as opened:
        del opened.attrs["model_config"]
        opened.attrs["layer_names"] = [b"dense"]
    with pytest.raises(ModelError, match="weights without a model"):
        identify(path)
    with h5py.File(tmp_path / "data.h5", "w") as opened:
        opened["x"] = 1
    with pytest.raises(ModelError, match="without a Keras model"):
        identify(tmp_path / "data.h5")


@pytest.mark.parametrize("version", ["1.2.2", "4.0.0", 7, None])
def test_another_keras_is_refused(tmp_path: Path, version: object) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("metadata.json", json.dumps({"keras_version": version}))
    with pytest.raises(ModelError, match="only files of Keras 2 and 3"):
        identify(tmp_path / "a.keras")


def _archive(path: Path, config: bytes, *others: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", '{"keras_version": "3.0.0"}')
        for name, data in others:
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (b"[" * 100_000, "damaged"),
        (b"[" * 200 + b"]" * 200, "no JSON object"),
        (b'{"a":' * 200 + b"1" + b"}" * 200, "nested too deeply"),
        (b'"text"', "no JSON object"),
        (b"\xff\xfe", "damaged"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "damaged"),
    ],
)
def test_json_that_is_no_configuration(tmp_path: Path, config: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        identify(_archive(tmp_path / "a.keras", config))


def test_archives_that_are_traps(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"claims to hold 0\.2 GB"):
        identify(_archive(tmp_path / "bomb.keras", b"{}", ("model.weights.h5", bytes(200 << 20))))
    with pytest.raises(ModelError, match=r"config\.json inside .* is larger than 32 MB"):
        identify(_archive(tmp_path / "large.keras", bytes(33 << 20)))
    for name in ("../escape", "/etc/escape", "a/../../escape", "C:\\escape"):
        with pytest.raises(ModelError, match="leads out of it"):
            identify(_archive(tmp_path / "out.keras", b"{}", (name, b"x")))
    with pytest.raises(ModelError, match="too many members"):
        identify(_archive(tmp_path / "many.keras", b"{}", *((str(number), b"") for number in range(1_100))))
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = _archive(tmp_path / "twice.keras", b"{}", ("config.json", b"{}"))
    with pytest.raises(ModelError, match="repeated"):
        identify(path)


def test_other_archives(tmp_path: Path) -> None:
    for name, words in (("model/data.pkl", "PyTorch"), ("word/document.xml", r"zip archive without config\.json")):
        with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
            archive.writestr(name, b"x")
        with pytest.raises(ModelError, match=words):
            identify(tmp_path / "other.keras")


def test_a_name_is_shown_printable_and_short(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 60 + "\x1b[2J.keras")
    path.write_bytes(b"nothing")
    with pytest.raises(ModelError) as caught:
        identify(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
