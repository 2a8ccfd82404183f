"""Case names, proportions and the answer per biopsy."""

from __future__ import annotations

import csv
import math
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.summary import (
    CASE_COLUMNS,
    CaseSummary,
    CropCall,
    called,
    case_of,
    compile_case_pattern,
    summarise,
    to_row,
)
from glomedge.errors import UsageError
from glomedge.model.spec import OperatingPoint

ID = "0123456789abcdef01234567"


# --- whose crop it is -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "case", "slide"),
    [
        (f"S-1234-000001_PAS_1of2_{ID}.png", "S-1234-000001", "S-1234-000001_PAS_1of2"),
        (f"12-345_PAS_5of6_{ID}.png", "12-345", "12-345_PAS_5of6"),
        (f"12-3_PAS_5of6_{ID}.png", "12-3", "12-3_PAS_5of6"),
        (f"a_b_H-E_10of12_{ID}.tif", "a_b", "a_b_H-E_10of12"),
        (f"globally_sclerotic_glomeruli/12-3_PAS_5of6_{ID}.png", "12-3", "12-3_PAS_5of6"),
        ("12-3_PAS_5of6_part_2.png", "12-3", "12-3_PAS_5of6"),
        ("12\n3_PAS_5of6_x.png", "12\n3", "12\n3_PAS_5of6"),
        ("VUHSK_1992-40.png", "VUHSK_1992", "VUHSK_1992"),
        ("SESCAM_1_0-50.png", "SESCAM_1_0", "SESCAM_1_0"),
        ("SESCAM_1_0-50", "SESCAM_1_0", "SESCAM_1_0"),
        ("any/folder/S-1-2-7.png", "S-1-2", "S-1-2"),
        ("case 7/crop.png", "case 7", "case 7"),
        ("x/case 7/non_globally_sclerotic_glomeruli/crop.png", "case 7", "case 7"),
        ("globally_sclerotic_glomeruli/crop.png", "unknown", "unknown"),
        ("crop.png", "unknown", "unknown"),
        ("./crop.png", "unknown", "unknown"),
        ("-40.png", "unknown", "unknown"),
        ("", "unknown", "unknown"),
    ],
)
def test_default_names(name: str, case: str, slide: str) -> None:
    assert case_of(name) == (case, slide)


@pytest.mark.parametrize(
    ("pattern", "name", "case", "slide"),
    [
        (r"^(?P<case>[^_]+)_(?P<slide>[^_]+)_", "b/B7_S2_crop.png", "B7", "S2"),
        (r"^(?P<case>[^_]+)_", "b/B7_S2_crop.png", "B7", "B7"),
        (r"(?P<case>\d+)\.png$", "b/crop-12.png", "12", "12"),
        (r"(?P<case>[^/]+)/[^/]+/[^/]+$", "run/B7/S2/crop.png", "B7", "B7"),
        (r"^(?P<case>X\d+)", "folder/VUHSK_1992-40.png", "folder", "folder"),  # no fit: the folder, not the defaults
        (r"^(?P<case>X?)", "VUHSK_1992-40.png", "unknown", "unknown"),  # an empty case is none
        (r"^(?P<case>B)(?P<slide>S)?", "B.png", "B", "B"),
    ],
)
def test_own_pattern(pattern: str, name: str, case: str, slide: str) -> None:
    assert case_of(name, pattern) == (case, slide)


@pytest.mark.parametrize(
    ("pattern", "why"),
    [("(?P<case>", "not a regular expression"), (r"^([^_]+)_", "no group named 'case'"), ("", "no group named 'case'")],
)
def test_bad_pattern(pattern: str, why: str) -> None:
    with pytest.raises(UsageError, match=rf"{why}.*--case-pattern"):
        compile_case_pattern(pattern)
    with pytest.raises(UsageError, match=why):
        case_of("x.png", pattern)


@given(st.text(max_size=40))
def test_every_name_has_a_case(name: str) -> None:
    case, slide = case_of(name)
    assert case
    assert slide.startswith(case)


# --- the answer per biopsy ------------------------------------------------------------------------------------------


def calls(case: str, positive: int, negative: int, *, flagged: int = 0, errors: int = 0) -> list[CropCall]:
    """Crops of one case; the first ``flagged`` positive ones carry a flag."""
    crops = [CropCall(f"{case}-{k}.png", 0.75, 1, "flagged:blurred" if k < flagged else "ok") for k in range(positive)]
    crops += [CropCall(f"{case}-{positive + k}.png", 0.125, 0, "ok") for k in range(negative)]
    crops += [CropCall(f"{case}-{positive + negative + k}.png", None, None, "error:truncated") for k in range(errors)]
    return crops


GOOD = OperatingPoint(true_positive=950, false_negative=50, true_negative=980, false_positive=20)


def test_summary_without_operating_point() -> None:
    (summary,) = summarise(calls("A", 5, 20, flagged=2, errors=3), None)
    assert summary == CaseSummary(
        case="A",
        slides=1,
        crops=28,
        classified=25,
        flagged=2,
        errors=3,
        globally_sclerotic=5,
        percent_gs=20.0,
        interval_low=summary.interval_low,
        interval_high=summary.interval_high,
        corrected_percent_gs=None,
        corrected_low=None,
        corrected_high=None,
        expected_count=5 * 0.75 + 20 * 0.125,
        band=None,
        remuzzi_glomerular_score=2,
        adequate=True,
        adequate_banff=True,
    )
    assert summary.interval_low == pytest.approx(8.8606, abs=1e-4)
    assert summary.interval_high == pytest.approx(39.131, abs=1e-4)


def test_excluding_flagged_crops() -> None:
    (summary,) = summarise(calls("A", 5, 20, flagged=2, errors=3), None, exclude_flagged=True)
    assert (summary.crops, summary.classified, summary.flagged, summary.errors) == (28, 23, 2, 3)
    assert summary.globally_sclerotic == 3
    assert summary.percent_gs == 100 * 3 / 23
    assert summary.expected_count == 3 * 0.75 + 20 * 0.125
    assert not summary.adequate
    assert summary.adequate_banff


def test_corrected_interval_decides_the_band() -> None:
    # 125 of 1,000: Wilson's 10.6 to 14.7% lies in one band, which the calls alone do not settle. Less 2% false
    # positives it is about 11%, and its interval, widened by what 2,000 held-out crops leave open, reaches below 10%.
    (by_count,) = summarise(calls("A", 125, 875), None)
    assert by_count.band is None
    (corrected,) = summarise(calls("A", 125, 875), GOOD)
    assert corrected.corrected_percent_gs == pytest.approx(100 * (0.125 + 0.98 - 1) / 0.93)
    assert corrected.corrected_low is not None
    assert corrected.corrected_high is not None
    assert corrected.corrected_low < 10 < corrected.corrected_high
    assert corrected.band == "undetermined"
    (many,) = summarise(calls("A", 300, 9700), GOOD)
    assert many.band == "0-10%"
    assert (many.percent_gs or 0) > (many.corrected_percent_gs or 0)


@pytest.mark.parametrize(
    ("positive", "negative", "point"),
    [
        # 0 of 122 where the specificity foretells 8 false positives: the crops contradict the held-out ones.
        (0, 122, OperatingPoint(true_positive=60, false_negative=4, true_negative=200, false_positive=14)),
        (0, 122, OperatingPoint(true_positive=5, false_negative=5, true_negative=5, false_positive=5)),
        (122, 0, OperatingPoint(true_positive=5, false_negative=5, true_negative=5, false_positive=5)),
    ],
)
def test_where_the_correction_fails_no_band_is_settled(positive: int, negative: int, point: OperatingPoint) -> None:
    (uncorrected,) = summarise(calls("A", positive, negative), None)
    assert uncorrected.band is None
    (summary,) = summarise(calls("A", positive, negative), point)
    assert summary.corrected_percent_gs is None
    assert summary.band == "undetermined"


def test_called_sums_what_is_counted() -> None:
    items = [*calls("A", 5, 20, flagged=2, errors=3), *calls("B", 1, 2)]
    assert called(summarise(items, None)) == (6, 28)
    assert called(summarise(items, None, exclude_flagged=True)) == (4, 26)
    assert called([]) == (0, 0)


def test_case_with_nothing_classified() -> None:
    (summary,) = summarise(calls("A", 0, 0, errors=2), GOOD)
    assert (summary.crops, summary.classified, summary.errors) == (2, 0, 2)
    unknown = (
        summary.percent_gs,
        summary.interval_low,
        summary.interval_high,
        summary.corrected_percent_gs,
        summary.band,
    )
    assert unknown == (None,) * 5
    assert summary.remuzzi_glomerular_score is None
    assert not summary.adequate
    row = to_row(summary)
    assert row["percent_gs"] == row["band"] == row["remuzzi_glomerular_score"] == ""


def test_cases_and_slides_are_counted_apart() -> None:
    items = [
        CropCall(f"{folder}/{case}_PAS_{i}of3_{k}.png", 0.5, 1, "ok")
        for folder in ("a", "b")
        for case, slides in (("S-1-1", 3), ("S-1-10", 1))
        for i in range(1, slides + 1)
        for k in range(2)
    ]
    summaries = summarise(items, None)
    assert [(s.case, s.slides, s.crops) for s in summaries] == [("S-1-1", 3, 12), ("S-1-10", 1, 4)]


def test_own_pattern_reaches_the_summaries() -> None:
    items = [CropCall(f"x{k % 2}y{k}.png", 0.5, 0, "ok") for k in range(6)]
    assert [s.case for s in summarise(items, None, case_pattern=r"^x(?P<case>\d)")] == ["0", "1"]


def test_order_of_crops_does_not_show() -> None:
    generator = random.Random(4)
    items = [CropCall(f"{c}-{k}.png", generator.random(), k % 2, "ok") for c in "ABC" for k in range(50)]
    expected = summarise(items, GOOD)
    for _ in range(5):
        generator.shuffle(items)
        assert summarise(iter(items), GOOD) == expected


@pytest.mark.parametrize(
    ("probability", "label", "status"),
    [
        (0.5, 1, "fine"),
        (0.5, 1, "error:io"),
        (None, 1, "ok"),
        (0.5, None, "ok"),
        (0.5, 2, "flagged:blank"),
        (math.nan, 1, "ok"),
        (1.5, 1, "ok"),
    ],
)
def test_contradictory_calls_are_refused(probability: float | None, label: int | None, status: str) -> None:
    with pytest.raises(ValueError, match=r"'A-1\.png'"):
        CropCall("A-1.png", probability, label, status)


def test_row_is_plain_text_in_column_order() -> None:
    (summary,) = summarise(calls("A", 5, 20), GOOD)
    row = to_row(summary)
    assert tuple(row) == CASE_COLUMNS
    assert all(isinstance(text, str) for text in row.values())
    assert (row["case"], row["classified"], row["percent_gs"], row["interval_high"]) == ("A", "25", "20.00", "39.13")
    assert (row["adequate"], row["notice"]) == ("yes", RESEARCH_USE_NOTICE)


def test_real_names_make_21_cases(real_data: Path) -> None:
    with (real_data / "public.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    items = [CropCall(row["name"], float(row["ground truth"]), int(row["ground truth"]), "ok") for row in rows]
    summaries = summarise(items, None)
    assert len(summaries) == 21
    assert sum(s.classified for s in summaries) == 830
    assert sum(s.globally_sclerotic for s in summaries) == 174
    assert {s.case: s.crops for s in summaries} == Counter(row["name"].rpartition("-")[0] for row in rows)


def test_items_of_any_kind_are_counted() -> None:
    """Documented for Python users: what has the fields will do, hashable or not."""
    answers = [(0.9, 1), (0.2, 0), (None, 1), (0.7, None)]
    items = [
        SimpleNamespace(name=f"B7-{i}.png", probability=p, label=label, status="ok")
        for i, (p, label) in enumerate(answers)
    ]
    (found,) = summarise(items, None)
    assert (found.crops, found.classified, found.errors, found.globally_sclerotic) == (4, 2, 2, 1)
    assert found.expected_count == pytest.approx(1.1)
