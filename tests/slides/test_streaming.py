"""Files of outlines are read and written piece by piece: memory does not grow with their size."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from glomedge.slides.annotations import json_stream, source, xml_stream
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dsa_writer import write_dsa
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.qupath_writer import write_qupath
from glomedge.slides.annotations.reading import read_outlines
from helpers.annotation_files import aperio, asap, asap_annotation, dsa, encoded, layer, polyline, region
from helpers.odd_geojson import collection, feature

COUNT = 400
CORNERS = ((10, 20), (110, 20), (110, 140), (10, 140))
LARGE: dict[str, Callable[[], bytes]] = {
    "collection": lambda: collection(*[feature()] * COUNT),
    "array": lambda: json.dumps([feature()] * COUNT).encode(),
    "dsa": lambda: encoded(dsa(*[polyline()] * COUNT)),
    "dsa with its name at the end": lambda: encoded({"elements": [polyline()] * COUNT, "name": "layer"}),
    "aperio": lambda: aperio(*[layer(region(1, *CORNERS))] * COUNT),
    "asap": lambda: asap(*[asap_annotation("Annotation", *CORNERS)] * COUNT),
    "csv": lambda: b"x,y,width,height\n" + b"100.125000,200.25000000,300.5000000,400.25000000\n" * COUNT,
}
NOTE = RunNote("model.onnx", "ab" * 32, 0.4, ("no", "yes"))


@pytest.mark.parametrize("kind", LARGE)
def test_an_outline_comes_before_the_file_is_read_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = LARGE[kind]()
    (tmp_path / "large").write_bytes(data)
    taken = 0
    whole = source.Source.read

    def counting(self: source.Source, size: int) -> bytes:
        nonlocal taken
        piece = whole(self, size)
        taken += len(piece)
        return piece

    monkeypatch.setattr(source.Source, "read", counting)
    monkeypatch.setattr(json_stream, "_CHUNK_BYTES", 1024)
    monkeypatch.setattr(xml_stream, "_CHUNK_BYTES", 1024)
    ahead = 9000 if kind == "csv" else 4096  # text streams of the standard library read 8,192 bytes at a time
    for number, outline in enumerate(read_outlines(tmp_path / "large")):
        assert outline.error is None
        assert taken <= len(data) * (number + 1) / COUNT + ahead
    assert taken == len(data)


@pytest.mark.parametrize("write", [write_qupath, write_dsa])
def test_an_answer_is_written_before_the_next_one_is_asked_for(
    write: Callable[[IO[bytes], Iterator[AnsweredOutline], RunNote], int], tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(collection(*[feature()] * 20))
    handle = io.BytesIO()

    def answered(outlines: Iterator[Outline]) -> Iterator[AnsweredOutline]:
        for number, outline in enumerate(outlines):
            assert handle.getvalue().count(b'"type"') >= number
            yield AnsweredOutline(outline, "ok", 0.5, 1)

    assert write(handle, answered(read_outlines(tmp_path / "a")), NOTE) == 20
