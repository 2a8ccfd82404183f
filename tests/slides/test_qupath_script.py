"""The script that puts answers onto the user's own annotations: run by Groovy, with objects like QuPath's.

QuPath itself is not here. The objects have the methods of QuPath's that the script calls (PathObject, MeasurementList),
and the detections are those of a file that ``write_qupath`` wrote.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.outline import Label, build
from glomedge.slides.annotations.qupath_writer import script_bytes, write_qupath
from helpers.odd_geojson import SQUARE, UUID

NOTE = RunNote("model.onnx", "ab" * 32, 0.4, ("not globally sclerotic", "globally sclerotic"))
HARNESS = """
import groovy.json.JsonOutput
import groovy.json.JsonSlurper

class Measurements {
    Map<String, Double> values = [:]
    double get(String name) { values.getOrDefault(name, Double.NaN) }
    void put(String name, double value) { values[name] = value }
}

class ObjectOfQuPath {
    UUID id
    String pathClass
    Map<String, String> metadata = [:]
    Measurements measurementList = new Measurements()
    UUID getID() { id }
}

def annotations = new JsonSlurper().parse(new File(args[1])).collect {
    new ObjectOfQuPath(id: UUID.fromString(it), pathClass: 'mine')
}
def detections = args[2..-1].collectMany { new JsonSlurper().parse(new File(it)).features }.collect { feature ->
    def made = new ObjectOfQuPath(id: UUID.fromString(feature.id), pathClass: feature.properties.classification?.name)
    made.metadata.putAll(feature.properties.metadata ?: [:])
    feature.properties.measurements.each { name, value -> made.measurementList.put(name, value as double) }
    made
}
def updates = 0, lines = []
def binding = new Binding()
binding.getAnnotationObjects = { annotations }
binding.getDetectionObjects = { detections }
binding.fireHierarchyUpdate = { updates++ }
binding.out = new PrintWriter(System.err, true)
new GroovyShell(ObjectOfQuPath.classLoader, binding).evaluate(new File(args[0]))
println JsonOutput.toJson([updates: updates, annotations: annotations.collect {
    [pathClass: it.pathClass, measurements: it.measurementList.values]
}])
"""


@pytest.fixture(scope="module")
def groovy() -> list[str]:
    """The command, with Java's place where Debian's alternative for it is missing."""
    command, java = shutil.which("groovy"), shutil.which("java")
    if command is None or java is None:
        pytest.skip("Groovy is not installed: apt-get install groovy")
    return ["env", f"JAVA_HOME={Path(os.path.realpath(java)).parent.parent}", command]


def answers(path: Path, *given: tuple[str, float | None]) -> Path:
    """A file of answers for annotations with these ids."""
    outlines = [build(Label(id=identity), "geojson", at, [SQUARE]) for at, (identity, _) in enumerate(given)]
    with path.open("wb") as handle:
        write_qupath(
            handle,
            (
                AnsweredOutline(outline, "ok", value, None if value is None else int(value >= 0.4))
                for outline, (_, value) in zip(outlines, given, strict=True)
            ),
            NOTE,
        )
    return path


def run(groovy: list[str], tmp_path: Path, own: Sequence[str], *imported: Path) -> tuple[dict[str, Any], str]:
    (tmp_path / "harness.groovy").write_text(HARNESS)
    (tmp_path / "apply.groovy").write_bytes(script_bytes())
    (tmp_path / "own.json").write_text(json.dumps(own))
    arguments = ["harness.groovy", "apply.groovy", "own.json", *(path.name for path in imported)]
    done = subprocess.run([*groovy, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result, done.stderr


def test_answers_stand_on_the_annotations_they_belong_to(groovy: list[str], tmp_path: Path) -> None:
    own = [UUID.format(n) for n in range(5)]
    path = answers(tmp_path / "a.geojson", (own[3], 0.9), (own[1].upper(), 0.25), (own[2], None), ("17", 0.5))
    foreign = tmp_path / "foreign.geojson"
    foreign.write_text(
        json.dumps({"features": [{"id": UUID.format(9), "properties": {"measurements": {}, "metadata": None}}]})
    )
    result, said = run(groovy, tmp_path, own, path, foreign)
    assert result["updates"] == 1
    name = "Probability globally sclerotic"
    assert result["annotations"] == [
        {"pathClass": "mine", "measurements": {}},
        {"pathClass": "not globally sclerotic", "measurements": {name: 0.25}},
        {"pathClass": "mine", "measurements": {}},
        {"pathClass": "globally sclerotic", "measurements": {name: 0.9}},
        {"pathClass": "mine", "measurements": {}},
    ]
    assert "2 annotations have" in said
    assert "1 annotations could not be classified" in said
    assert "1 answers belong to annotations that are not in this image" in said


def test_answers_of_two_runs_and_of_none_change_nothing(groovy: list[str], tmp_path: Path) -> None:
    own = [UUID.format(1)]
    path = answers(tmp_path / "a.geojson", (own[0], 0.9))
    result, said = run(groovy, tmp_path, own, path, path)
    assert result == {"updates": 0, "annotations": [{"pathClass": "mine", "measurements": {}}]}
    assert "1 annotations have several answers" in said
    (tmp_path / "none.geojson").write_text('{"features": []}')
    result, said = run(groovy, tmp_path, own, tmp_path / "none.geojson")
    assert result["updates"] == 0
    assert "no answer of glomedge in this image" in said


def test_the_script_says_what_it_is_for() -> None:
    text = script_bytes().decode("ascii")
    assert "Research use only" in text
    assert all(f"'{key}'" in text for key in ("Annotation id", "Model SHA-256", "Probability globally sclerotic"))
