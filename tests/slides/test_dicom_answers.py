"""Answers as DICOM: read back with pydicom alone, and looked through by ``dciodvfy`` where that is installed."""

from __future__ import annotations

import copy
import io
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.summary import CaseSummary, CropCall, summarise
from glomedge.errors import UsageError
from glomedge.slides.annotations import dicom_sr
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dicom_ann import write_dicom_ann
from glomedge.slides.annotations.dicom_sr import write_dicom_sr
from glomedge.slides.annotations.outline import Label, build, failed
from glomedge.slides.dicom_source import DicomSource, dicom_source
from helpers.dicom_slides import MPP, write_dicom

NOTE = RunNote("model.onnx", "ab" * 32, 0.4, ("non-globally sclerotic", "globally sclerotic"))
WHEN = datetime(2026, 11, 26, 13, 5, 7)
Shape = Sequence[tuple[float, float]]
SQUARE: Shape = ((10.5, 20.0), (110.0, 20.0), (110.0, 140.25), (10.5, 140.25))
HOLE = ((240.0, 40.0), (260.0, 40.0), (260.0, 60.0))


def square(by: float) -> Shape:
    return [(x + by, y) for x, y in SQUARE]


# A damaged outline, one with a hole, one of two parts, one without an answer, one whose id is no ASCII.
ANSWERS = [
    AnsweredOutline(build(Label("a"), "geojson", 0, [[SQUARE]]), "ok", 0.875, 1),
    AnsweredOutline(failed(Label("b"), "geojson", 1, "it has no points"), "error:outline", None, None),
    AnsweredOutline(build(Label("c"), "geojson", 2, [[square(200), HOLE]]), "flagged:blurred", 0.125, 0),
    AnsweredOutline(build(Label("d"), "geojson", 3, [[square(300)], [square(500)]]), "ok", 0.5, 1),
    AnsweredOutline(build(Label("e"), "geojson", 4, [[square(700)]]), "error:corrupt", None, None),
    AnsweredOutline(build(Label("glomérule 6"), "geojson", 5, [[square(750)]]), "ok", 0.25, 0),
]
DRAWN: dict[str, list[Shape]] = {
    "a": [SQUARE],
    "c": [square(200)],
    "d": [square(300), square(500)],
    "e": [square(700)],
    "glomérule 6": [square(750)],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> DicomSource:
    return dicom_source(write_dicom(tmp_path_factory.mktemp("slides") / "S-1"))


@pytest.fixture(scope="module")
def biopsy() -> CaseSummary:
    calls = [CropCall(f"S-1_PAS_1of1_{n}.png", 0.9, int(n < 3), "ok") for n in range(7)]
    (case,) = summarise(calls, None)
    return case


def bulk(source: DicomSource, answers: list[AnsweredOutline] = ANSWERS, note: RunNote = NOTE) -> bytes:
    handle = io.BytesIO()
    count = write_dicom_ann(handle, answers, note, source, WHEN)
    assert count == sum(each.outline.error is None for each in answers)
    return handle.getvalue()


def report(
    source: DicomSource, biopsy: CaseSummary, answers: list[AnsweredOutline] = ANSWERS, note: RunNote = NOTE
) -> bytes:
    handle = io.BytesIO()
    count = write_dicom_sr(handle, answers, note, source, biopsy, WHEN)
    assert count == sum(each.outline.error is None for each in answers)
    return handle.getvalue()


def meaning(sequence: Any) -> str:
    return str(sequence[0].CodeMeaning)


def polygons(group: Any) -> list[npt.NDArray[np.float32]]:
    """By PS3.3, C.37.1.2: all points one after the other, and where each polygon begins, from 1, in numbers."""
    numbers = np.frombuffer(group.PointCoordinatesData, np.float32)
    begins = np.frombuffer(group.LongPrimitivePointIndexList, np.int32) - 1
    return [part.reshape(-1, 2) for part in np.split(numbers, begins[1:])]


def test_annotations_come_back(source: DicomSource) -> None:
    read = pydicom.dcmread(io.BytesIO(bulk(source)))
    assert read.SOPClassUID == "1.2.840.10008.5.1.4.1.1.91.1"
    assert (read.AnnotationCoordinateType, read.PixelOriginInterpretation) == ("2D", "VOLUME")
    found: dict[str, tuple[list[npt.NDArray[np.float32]], list[list[float]]]] = {}
    for group in read.AnnotationGroupSequence:
        values = [np.frombuffer(each.MeasurementValuesSequence[0].FloatingPointValues, np.float32)
                  for each in group.get("MeasurementsSequence", ())]  # fmt: skip
        assert group.GraphicType == "POLYGON"
        assert group.AnnotationGroupAlgorithmIdentificationSequence[0].AlgorithmVersion == NOTE.model_sha256
        found[group.AnnotationGroupLabel] = polygons(group), [each.tolist() for each in values]
        assert meaning(group.AnnotationPropertyTypeCodeSequence) == group.AnnotationGroupLabel
    expected: dict[str, tuple[list[Shape], list[list[float]]]] = {
        "globally sclerotic": ([SQUARE, square(300), square(500)], [[0.875, 0.5, 0.5]]),
        "non-globally sclerotic": ([square(200), square(750)], [[0.125, 0.25]]),
        "not classified": ([square(700)], []),
    }
    assert found.keys() == expected.keys()
    for label, (shapes, numbers) in expected.items():
        assert found[label][1] == numbers
        for shape, drawn in zip(found[label][0], shapes, strict=True):
            np.testing.assert_array_equal(shape, drawn)


def test_points_that_are_one_in_32_bits_do_not_close_a_polygon(source: DicomSource) -> None:
    ring = ((100_000.0, 1000.0), (100_050.0, 1000.0), (100_050.0, 1050.0), (100_000.0, 1000.00001))
    thin = ((100_000.0, 2000.0), (100_050.0, 2000.0), (100_000.0, 2000.00001))
    drawn = [
        AnsweredOutline(build(Label("a"), "geojson", 0, [[ring]]), "ok", 0.875, 1),
        AnsweredOutline(build(Label("b"), "geojson", 1, [[thin], [square(300)]]), "ok", 0.5, 1),
        AnsweredOutline(build(Label("c"), "geojson", 2, [[thin]]), "ok", 0.25, 1),
    ]
    assert [len(each.outline.polygons) for each in drawn] == [1, 2, 1], "in 64-bit numbers they have an area"
    handle = io.BytesIO()
    assert write_dicom_ann(handle, drawn, NOTE, source, WHEN) == 2
    (group,) = pydicom.dcmread(io.BytesIO(handle.getvalue())).AnnotationGroupSequence
    first, second = polygons(group)
    np.testing.assert_array_equal(first, ring[:3])
    np.testing.assert_array_equal(second, square(300))
    values = np.frombuffer(group.MeasurementsSequence[0].MeasurementValuesSequence[0].FloatingPointValues, np.float32)
    assert values.tolist() == [0.875, 0.5]
    with pytest.raises(UsageError, match="nothing to write as DICOM annotations"):
        write_dicom_ann(handle, drawn[2:], NOTE, source, WHEN)


def test_both_refer_to_the_slide_and_say_who_wrote_them(source: DicomSource, biopsy: CaseSummary) -> None:
    header = source.header
    for data in (bulk(source), report(source, biopsy)):
        read = pydicom.dcmread(io.BytesIO(data))
        assert (read.PatientID, read.StudyInstanceUID) == (header.PatientID, header.StudyInstanceUID)
        assert read.SeriesInstanceUID != header.SeriesInstanceUID
        assert read.SeriesDescription == RESEARCH_USE_NOTICE
        assert (read.Manufacturer, read.DeviceSerialNumber) == ("glomedge", NOTE.model_sha256)
        assert (read.ContentDate, read.InstanceCreationDate, read.InstanceCreationTime) == (
            "20261126",
            "20261126",
            "130507",
        )
        assert source.sop_instance_uid in str(read)


def items(node: Any, name: str) -> list[Any]:
    return [each for each in node.ContentSequence if meaning(each.ConceptNameCodeSequence) == name]


def measured(group: Any) -> dict[str, tuple[float, str]]:
    return {
        str(each.ConceptNameCodeSequence[0].CodeValue): (
            float(each.MeasuredValueSequence[0].NumericValue),
            str(each.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue),
        )
        for each in group.ContentSequence
        if each.ValueType == "NUM"
    }


def groups_of(data: bytes) -> Iterator[Any]:
    read = pydicom.dcmread(io.BytesIO(data))
    assert read.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (read.VerificationFlag, read.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    (measurements,) = items(read, "Imaging Measurements")
    yield from measurements.ContentSequence


def test_a_report_comes_back(source: DicomSource, biopsy: CaseSummary) -> None:
    whole, *regions = groups_of(report(source, biopsy))
    assert items(whole, "Tracking Identifier")[0].TextValue == "S-1"
    low, high = biopsy.interval_low, biopsy.interval_high
    assert low is not None
    assert high is not None
    assert measured(whole) == {
        "PCT-GS": (pytest.approx(300 / 7, abs=1e-4), "%"),
        "PCT-GS-LOW": (pytest.approx(low, abs=1e-4), "%"),
        "PCT-GS-HIGH": (pytest.approx(high, abs=1e-4), "%"),
        "N-GS": (3, "{glomeruli}"),
        "N": (7, "{glomeruli}"),
    }
    found: dict[str, list[Any]] = {}
    for group in regions:
        found.setdefault(items(group, "Tracking Identifier")[0].TextValue, []).append(group)
    assert list(found) == list(DRAWN)
    answered = {each.outline.id: each for each in ANSWERS}
    for identity, parts in DRAWN.items():
        answer = answered[identity]
        for group, drawn in zip(found[identity], parts, strict=True):
            (region,) = items(group, "Image Region")
            assert region.GraphicType == "POLYGON"
            assert region.ReferencedFrameOfReferenceUID == source.header.FrameOfReferenceUID
            np.testing.assert_allclose(_on_slide_px(region.GraphicData), [*drawn, drawn[0]], atol=0.02)
            class_name = "not classified" if answer.label is None else NOTE.class_names[answer.label]
            assert meaning(items(group, "Class of glomerulus")[0].ConceptCodeSequence) == class_name
            expected = {} if answer.probability is None else {"PROB-GS": (answer.probability, "1")}
            assert measured(group) == expected
            assert items(group, "Algorithm Version")[0].TextValue == NOTE.model_sha256
    uids = [items(group, "Tracking Unique Identifier")[0].UID for group in (whole, *regions)]
    assert len(set(uids)) == len(uids)


def _on_slide_px(numbers: Any) -> npt.NDArray[np.float64]:
    """Back from mm by the test slide's own place: rows of pixels run along -y of the glass, columns along -x."""
    points = np.array(numbers, np.float64).reshape(-1, 3)
    assert not points[:, 2].any()
    return np.stack([(40.25 - points[:, 1]) * 1000 / MPP + 0.5, (20.5 - points[:, 0]) * 1000 / MPP + 0.5], 1)


def test_the_same_run_writes_the_same_bytes_and_another_one_another_instance(
    source: DicomSource, biopsy: CaseSummary
) -> None:
    def instance(data: bytes) -> str:
        return str(pydicom.dcmread(io.BytesIO(data)).SOPInstanceUID)

    other = replace(NOTE, threshold=0.5)
    changed = [replace(ANSWERS[0], probability=0.75), *ANSWERS[1:]]
    kinds: list[Callable[..., bytes]] = [
        bulk,
        lambda *given, **named: report(given[0], biopsy, *given[1:], **named),
    ]
    for write in kinds:
        first = write(source)
        assert write(source) == first
        assert len({instance(first), instance(write(source, note=other)), instance(write(source, changed))}) == 3


def test_a_biopsy_without_a_classified_glomerulus_has_no_percentage(source: DicomSource) -> None:
    (empty,) = summarise([CropCall("S-1_PAS_1of1_1.png", None, None, "error:corrupt")], None)
    whole, *regions = groups_of(report(source, empty, []))
    assert measured(whole) == {"N-GS": (0, "{glomeruli}"), "N": (0, "{glomeruli}")}
    assert regions == []


def test_nothing_to_annotate_and_too_much_for_a_report(
    source: DicomSource, biopsy: CaseSummary, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="nothing to write as DICOM annotations"):
        bulk(source, [ANSWERS[1]])
    monkeypatch.setattr(dicom_sr, "MAX_REGIONS", 5)
    with pytest.raises(UsageError, match="--format dicom-ann"):
        report(source, biopsy)


def test_a_header_that_is_not_as_the_standard_wants_it(source: DicomSource, biopsy: CaseSummary) -> None:
    header = copy.deepcopy(source.header)
    header.PatientSex = "X"
    spoilt = DicomSource("S-1.dcm", header)
    kinds: list[Callable[[], bytes]] = [lambda: bulk(spoilt), lambda: report(spoilt, biopsy)]
    for write in kinds:
        with pytest.raises(UsageError, match=r"header of S-1\.dcm is not as .*PatientSex") as refusal:
            write()
        assert len(str(refusal.value)) < 500


@pytest.mark.filterwarnings("ignore")
def test_a_header_of_random_damage_is_used_or_refused(biopsy: CaseSummary, tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "S-1", np.zeros((40, 50, 3), np.uint8))
    path.with_name("level1.dcm").unlink()
    whole, rng = path.read_bytes(), random.Random(0)
    end = whole.index(b"\xe0\x7f\x10\x00")  # where the pixels begin
    outcomes = Counter[str]()
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(end)] = rng.randrange(256)
        path.write_bytes(bytes(data))
        try:
            damaged = dicom_source(path)
            bulk(damaged, ANSWERS[:1])
            report(damaged, biopsy, ANSWERS[:1])
            outcomes["used"] += 1
        except UsageError as refusal:
            outcomes["refused" if len(str(refusal)) < 500 else "refused at length"] += 1
    assert min(outcomes["used"], outcomes["refused"]) > 30
    assert outcomes.keys() == {"used", "refused"}


# dicom3tools takes the absence of the attribute for an empty one where coordinates are 2D.
ALLOWED = "Error - Only valid for AnnotationCoordinateType of 3D - attribute <CommonZCoordinateValue> = <>"


@pytest.mark.parametrize("kind", ["ann", "sr"])
def test_an_independent_program_finds_no_error(
    kind: str, source: DicomSource, biopsy: CaseSummary, tmp_path: Path
) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    data = bulk(source) if kind == "ann" else report(source, biopsy)
    (tmp_path / "a.dcm").write_bytes(data)
    said = subprocess.run([program, str(tmp_path / "a.dcm")], capture_output=True, text=True, check=False)
    lines = (said.stdout + said.stderr).splitlines()
    assert {"ann": "MicroscopyBulkSimpleAnnotations", "sr": "Comprehensive3DSR"}[kind] in lines
    errors = [line for line in lines if line.startswith("Error")]
    read = pydicom.dcmread(io.BytesIO(data))
    assert errors == ([ALLOWED] * len(read.AnnotationGroupSequence) if kind == "ann" else [])
    assert "CommonZCoordinateValue" not in str(read)
