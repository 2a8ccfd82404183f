"""No message is longer than a user reads: what it quotes from outside is shortened, what to do is kept."""

from __future__ import annotations

import importlib
import inspect
import json
import pickle
import pkgutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import glomedge
from glomedge.cases.labels import read_labels, read_split
from glomedge.errors import MAX_MESSAGE_CHARACTERS, GlomedgeError, shortened
from glomedge.model.file import read_model_file
from glomedge.model.spec import ModelSpec
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.runs.evaluate import find_crops


def _kinds() -> list[type[GlomedgeError]]:
    for module in pkgutil.walk_packages(glomedge.__path__, "glomedge."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)

    def below(kind: type[GlomedgeError]) -> Iterator[type[GlomedgeError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    return sorted(set(below(GlomedgeError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", _kinds())
def test_no_kind_of_error_has_a_longer_message(kind: type[GlomedgeError]) -> None:
    message = f"model.keras cannot be loaded ({'{' * 200_000}). Copy it again."
    # Kinds that put their message together are given one long part of it.
    names = list(inspect.signature(kind).parameters)
    error = kind(*(message if name in ("message", "what", "reason") else "Copy it again." for name in names))
    assert len(str(error)) <= MAX_MESSAGE_CHARACTERS
    assert "model.keras cannot be loaded (" in str(error)
    assert "Copy it again." in str(error)


def test_short_texts_stay_as_they_are() -> None:
    for text in ("", "a", "b" * MAX_MESSAGE_CHARACTERS):
        assert shortened(text) == text
    for length in (2_001, 2_050, 10_000, 186_587):
        short = shortened("c" * length)
        assert len(short) <= MAX_MESSAGE_CHARACTERS
        assert f"[... {length - 2_000:,} more characters ...]" in short


@pytest.mark.parametrize("kind", _kinds())
def test_errors_survive_the_way_between_processes(kind: type[GlomedgeError]) -> None:
    error = kind(*("io. What to do." for _ in inspect.signature(kind).parameters))
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), str(other), vars(other)) == (kind, str(error), vars(error))


def test_a_rows_message_is_shortened_too() -> None:
    answer = Answer(Found(b"a.png")).fail("decoder", f"ValueError: {'x' * 50_000}")
    assert len(answer.message) <= MAX_MESSAGE_CHARACTERS


def _csv(path: Path, header: str, rows: list[str]) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def _split(path: Path) -> None:
    read_split(_csv(path, "name,split", [f"{i}.png,{'s' * 90}{i}" for i in range(900)]), "test")


def _spec() -> None:
    ModelSpec.from_json(json.dumps({f"unknown key {i}": i for i in range(5_000)}))


OUTSIDE = [
    lambda path: read_labels(_csv(path, "name,ground truth", [f"{'n' * 90}{i}.png,9" for i in range(900)])),
    lambda path: read_labels(_csv(path, f"{'h' * 100_000},x", ["a,b"])),
    _split,
    lambda path: find_crops([], {f"{'n' * 4_000}{i}": 1 for i in range(30)}),
    lambda path: read_model_file(path.parent / ("d" * 200) / ("e" * 200) / ("f" * 200) / ("g" * 5_000)),
    lambda path: _spec(),
]


@pytest.mark.parametrize("quote", OUTSIDE)
def test_what_is_quoted_from_files_is_shortened(tmp_path: Path, quote: Any) -> None:
    with pytest.raises(GlomedgeError) as raised:
        quote(tmp_path / "given.csv")
    assert 0 < len(str(raised.value)) <= MAX_MESSAGE_CHARACTERS


@pytest.mark.keras
def test_a_keras_file_of_another_version_gives_one_short_message(tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
    from glomedge_export.network.network import load_model

    # Keras puts the configuration that it cannot read into its message, all of it.
    layers = [{"class_name": "Gone", "module": "gone", "config": {"name": "n" * 900, "number": i}} for i in range(200)]
    config = {"class_name": "Functional", "module": "keras", "config": {"name": "old", "layers": layers}}
    path = tmp_path / "old.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.writestr("model.weights.h5", b"")
    with pytest.raises(GlomedgeError) as raised:
        load_model(path)
    assert len(str(raised.value)) <= MAX_MESSAGE_CHARACTERS
    assert "cannot be loaded as a Keras model" in str(raised.value)
    assert "glomedge train" in str(raised.value)
