from __future__ import annotations

import contextlib
import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from glomedge.cases.summary import CropCall, case_of, summarise
from glomedge.engine.options import EngineOptions
from glomedge.model.spec import OperatingPoint
from glomedge.reports.case_table import percent_text
from glomedge.reports.interval_bar import interval_svg
from glomedge.reports.run_page import Report, map_png
from glomedge.reports.run_page_data import MAX_LISTED, MAX_REVIEWED, RunPageData, RunPageSelection, importance
from glomedge.results.rows import Attachment, Row, RowBlock
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.page_checks import HOSTILE, check_page, text_of
from helpers.run_kit import write_crops


class Page(HTMLParser):
    """Counts what a reader would count."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.html = text
        self.tags: dict[str, int] = {}
        self.classes: dict[str, int] = {}
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        for name, value in attrs:
            if name == "class":
                for word in (value or "").split():
                    self.classes[word] = self.classes.get(word, 0) + 1
            if name in ("src", "href"):
                self.sources.append(value or "")

    handle_startendtag = handle_starttag

    def section(self, name: str) -> Page:
        """From the heading of that id to the next heading."""
        return Page(self.html.split(f'<h2 id="{name}">')[1].split("<h2 ")[0])

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, Page, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("report")
    write_crops(folder / "crops", 40, broken=3)
    (folder / "crops" / "<b>&'\".png").write_bytes(next((folder / "crops").rglob("case2-5.png")).read_bytes())
    build_tiny_model(folder / "model.onnx")
    options = Options(folder / "crops", folder / "model.onnx", folder / "out", engine=EngineOptions("cpu"))
    outcome = infer_folder(options)
    return options, Page((folder / "out" / "report.html").read_text("utf-8")), outcome.record


def test_counts_are_those_of_the_run(run: tuple[Options, Page, dict[str, Any]]) -> None:
    options, page, record = run
    counts = record["counts"]
    assert page.classes["case"] == record["cases"] == 4  # three cases and one of no name
    crops, review = page.section("crops"), page.section("review")
    assert crops.tags["figure"] == counts["positive"] + counts["negative"] == 38
    assert crops.classes["gs"] == counts["positive"]
    assert crops.classes["review"] == review.tags["figure"] == counts["uncertain"] > 0
    assert crops.classes["map"] == 38
    assert "details" not in review.tags  # all of them are pictured
    text = "".join(page.text)
    tiles = {name: int(number) for number, name in re.findall(r"<li><b>(\d+)</b>([a-z ]+)</li>", page.html)}
    assert tiles == {
        "files": 41,
        "cases": 4,
        "globally sclerotic": counts["positive"],
        "not globally sclerotic": counts["negative"],
        "to review": counts["uncertain"],
        "flagged": counts["flagged"],
        "errors": 3,
    }
    assert page.section("errors").tags["tr"] == 1 + counts["error"]
    with (options.output / "cases.csv").open(encoding="utf-8", newline="") as handle:
        cases = list(csv.DictReader(handle))
    sections = page.html.split('<section class="case" ')[1:]
    assert len(sections) == len(cases)
    for section, row in zip(sections, cases, strict=True):
        words = " ".join(Page("<section " + section.split("</section>")[0]).text)
        assert (
            f"{row['globally_sclerotic']} of {row['classified']} GS, {float(row['expected_count']):.1f} expected"
            in words
        )
        interval = re.search(r"\(([0-9.]+) to ([0-9.]+)\)", words)
        assert interval is not None
        wilson = (float(row["interval_low"]), float(row["interval_high"]))
        assert tuple(map(float, interval.groups())) == pytest.approx(wilson, abs=0.06)  # rounded from the same number
        assert f"{100 * int(row['globally_sclerotic']) / int(row['classified']):.1f}%" in words
        assert f"Remuzzi glomerular {row['remuzzi_glomerular_score']}" in words
        assert row["band"] == ""  # the model is not calibrated for this site
        assert "band" not in words
        assert "nothing classified" not in words
        assert ("under 25 glomeruli" in words) == (row["adequate"] == "no")
    assert text.count("error:") == 0
    assert text.count("truncated") >= counts["error"] == 3
    assert re.search(r"41\s*files", text)
    assert text.count("Research use only. Not for diagnostic use.") == 2


def test_the_model_card_stands_folded_at_the_end(run: tuple[Options, Page, dict[str, Any]]) -> None:
    _, page, record = run
    assert page.tags["details"] == 1
    text = "".join(page.text)
    assert text.index("This run") < text.index("Model card: model.onnx") < text.index("Intended use")
    assert record["model"]["weights_sha256"] in text[text.index("Intended use") - 1000 :]


def test_it_needs_nothing_else(run: tuple[Options, Page, dict[str, Any]]) -> None:
    options, page, _ = run
    assert all(source.startswith(("data:image/", "#")) for source in page.sources)
    assert "script" not in page.tags
    assert "link" not in page.tags
    text = (options.output / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text.split("<body>")[0].replace("base64,", ""))


def test_the_page_is_sound(run: tuple[Options, Page, dict[str, Any]]) -> None:
    _, page, _ = run
    check_page(page.html)


def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path: Path) -> None:
    thumbnails = ThumbnailFile(tmp_path / "thumbnails", fresh=True)
    attachment = thumbnails.append(np.zeros((7, 7), np.float32), b"\xff\xd8")
    flagged = f"flagged:{HOSTILE}"
    row = Row(f"in/{HOSTILE}", HOSTILE, "s", 0.5, 1, "", 0.5, flagged, "cpu", "0" * 64, None, "", attachment, 1)
    failed = row._replace(probability=None, label=None, review=None, attachment=None)
    failed = failed._replace(status="error:io", message=HOSTILE)
    rows = [row, *(row._replace(path=f"{number}{HOSTILE}") for number in range(MAX_REVIEWED)), failed]
    selection = RunPageSelection()
    selection.add(RowBlock.of(rows))
    (summary,) = summarise([CropCall(f"x-{i}.png", r.probability, r.label, r.status) for i, r in enumerate(rows)], None)
    summary = replace(summary, case=HOSTILE)
    every = Rows(1, attachment)
    record = _record(every) | {"notes": [HOSTILE], "provider": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    record["arguments"] |= {"folder": HOSTILE, "case_pattern": HOSTILE}
    record["model"] |= {"path": HOSTILE}
    record["counts"] |= {"uncertain": len(rows) - 1, "positive": len(rows) - 1, "negative": 0, "error": 1}
    with (tmp_path / "report.html").open("wb") as handle:
        Report(record, [summary], selection.data(thumbnails), (0.45, 0.55)).write(handle)
    thumbnails.close()
    text = (tmp_path / "report.html").read_text("utf-8")
    check_page(text)
    figures = MAX_REVIEWED * len(("case", "name", "flag")) + (MAX_REVIEWED + 1) * len(("name", "flag"))
    lines = (MAX_REVIEWED + 1) * len(("case", "path", "flag"))
    others = len(("folder", "provider", "case", "its crops", "path of the error", "why"))
    facts = len(("model", "pattern", "provider", "version", "of what", "note"))
    assert text_of(text).count(HOSTILE) == figures + lines + others + facts


class Reads:
    """Counts how many pictures were read."""

    def __init__(self, thumbnails: ThumbnailFile) -> None:
        self.thumbnails = thumbnails
        self.count = 0

    def read(self, attachment: Attachment | None) -> Any:
        self.count += 1
        return self.thumbnails.read(attachment)


def test_pictures_are_read_as_they_are_written(tmp_path: Path) -> None:
    thumbnails = ThumbnailFile(tmp_path / "thumbnails", fresh=True)
    rows = Rows(1000, thumbnails.append(np.zeros((7, 7), np.float32), b"\xff\xd8" + bytes(2500)))
    cases = summarise(rows(), None)
    data = _data(rows, thumbnails)
    reads = Reads(thumbnails)
    most_waiting = written = 0

    class Handle(io.BytesIO):
        def write(self, part: Any) -> int:
            nonlocal most_waiting, written
            written += bytes(part).count(b"<figure ")
            most_waiting = max(most_waiting, reads.count - written)
            return len(part)

    Report(_record(rows), cases, replace(data, thumbnails=cast("ThumbnailFile", reads)), (0.45, 0.55)).write(Handle())
    thumbnails.close()
    assert written == reads.count == 1000 + MAX_REVIEWED
    assert most_waiting < 200


def test_names_cannot_become_markup(run: tuple[Options, Page, dict[str, Any]]) -> None:
    options, page, _ = run
    assert "<b>&'\".png" in "".join(page.text)
    assert "<b>&'" not in (options.output / "report.html").read_text("utf-8")


class Rows:
    """Many rows made up on the fly, with one thumbnail for all."""

    def __init__(self, count: int, attachment: Attachment) -> None:
        self.count = count
        self.attachment = attachment

    def __call__(self) -> Iterator[Row]:
        for number in range(self.count):
            probability = (number * 7919 % 10007) / 10007
            path = f"case{number % 40}-{number}.png"
            case, slide = case_of(path)
            status = "flagged:blurred" if number % 50 == 0 else "ok"
            label, review = int(probability >= 0.5), int(0.45 <= probability <= 0.55)
            yield Row(
                path,
                case,
                slide,
                probability,
                label,
                "",
                0.5,
                status,
                "cpu",
                "0" * 64,
                None,
                "",
                self.attachment,
                review,
            )


def _record(rows: Rows) -> dict[str, Any]:
    every = list(rows())
    return {
        "arguments": {"folder": "crops"}, "started_utc": "2026-01-01T00:00:00Z", "glomedge": "0", "provider": "cpu",
        "rows": rows.count, "notes": [], "threshold": 0.5, "versions": {}, "machine": {"model": "", "cores_usable": 2},
        "model": {
            "path": "m", "precision": "fp32", "recipe": {"name": "seed"}, "sha256": "0", "network": "ResNet50V2",
            "source_sentence": None, "unknown": None,
        },
        "times": {"wall_s": 1.0, "rows_per_s": 1.0},
        "counts": {
            "positive": sum(row.label or 0 for row in every), "negative": sum(1 - (row.label or 0) for row in every),
            "uncertain": sum(row.review or 0 for row in every), "error": 0,
            "flagged": sum(bool(row.flags) for row in every),
        },
    }  # fmt: skip


def _data(rows: Rows, thumbnails: ThumbnailFile) -> RunPageData:
    selection = RunPageSelection()
    selection.add(RowBlock.of(rows()))
    return selection.data(thumbnails)


def test_the_selection_is_that_of_sorting_everything(tmp_path: Path) -> None:
    rows = list(Rows(10_000, Attachment(0, 0, 0))())
    rows += [row._replace(probability=None, review=None, status="error:io") for row in rows[::7]]
    selection = RunPageSelection(max_thumbnails=300)
    for begin in range(0, len(rows), 997):
        selection.add(RowBlock.of(rows[begin : begin + 997]))
    with contextlib.closing(ThumbnailFile(tmp_path / "thumbnails", fresh=True)) as thumbnails:
        data = selection.data(thumbnails)
    answered = sorted((row for row in rows if row.probability is not None), key=importance)
    assert data.pictured == answered[:300]
    assert data.to_review == [row for row in answered if row.review][:MAX_LISTED]
    assert (
        data.errors == sorted((row for row in rows if row.probability is None), key=lambda row: row.path)[:MAX_LISTED]
    )
    assert data.limits == (0.0, 1.0)  # no maps at all


def test_10000_crops_are_bounded_the_most_telling_first(tmp_path: Path) -> None:
    thumbnails = ThumbnailFile(tmp_path / "thumbnails", fresh=True)
    rows = Rows(10_000, thumbnails.append(np.zeros((7, 7), np.float32), b"\xff\xd8" + bytes(2500) + b"\xff\xd9"))
    record = _record(rows)
    cases = summarise(rows(), None)
    with (tmp_path / "report.html").open("wb") as handle:
        Report(record, cases, _data(rows, thumbnails), (0.45, 0.55)).write(handle)
    thumbnails.close()
    text = (tmp_path / "report.html").read_text("utf-8")
    assert len(text) < 12_000_000
    page = Page(text)
    crops, review = page.section("crops"), page.section("review")
    assert crops.tags["figure"] == 2000
    assert review.tags["figure"] == MAX_REVIEWED
    assert review.tags["tr"] == 1 + MAX_LISTED
    assert "2000 of 10000 crops are shown" in "".join(page.text)
    assert page.classes["case"] == 40
    uncertain = sum(0.45 <= (row.probability or 0) <= 0.55 for row in rows())
    assert MAX_LISTED < crops.classes["review"] == uncertain < 2000


def test_crops_whose_thumbnails_were_lost_are_classified_again(run: tuple[Options, Page, dict[str, Any]]) -> None:
    options, _, _ = run
    thumbnails = options.output / ".glomedge" / "thumbnails"
    thumbnails.write_bytes(thumbnails.read_bytes()[: thumbnails.stat().st_size // 2])
    infer_folder(replace(options, resume=True))
    page = Page((options.output / "report.html").read_text("utf-8"))
    assert page.section("crops").tags["figure"] == 38
    assert "no picture kept" not in "".join(page.section("crops").text)


def test_the_thumbnails_file_refuses_what_was_torn_or_altered(tmp_path: Path) -> None:
    thumbnails = ThumbnailFile(tmp_path / "thumbnails", fresh=True)
    activation = np.arange(49, dtype=np.float32).reshape(7, 7)
    places = [thumbnails.append(activation + i, bytes([i]) * 100) for i in range(3)]
    kept = thumbnails.read(places[1])
    assert kept is not None
    np.testing.assert_array_equal(kept[0], activation + 1)
    assert kept[1] == bytes([1]) * 100
    data = bytearray((tmp_path / "thumbnails").read_bytes())
    data[places[1].offset + 5] ^= 1
    (tmp_path / "thumbnails").write_bytes(data[:-1])
    assert thumbnails.read(places[0]) is not None
    assert thumbnails.read(places[1]) is None
    assert thumbnails.read(places[2]) is None
    assert thumbnails.read(None) is None
    thumbnails.close()


def test_bars_stand_where_the_numbers_say() -> None:
    calls = [CropCall(f"x-{i}.png", 0.9 if i < 5 else 0.1, int(i < 5), "ok") for i in range(25)]
    (plain,) = summarise(calls, None)
    assert percent_text(plain) == "20.0% (8.9-39.1)"
    svg = interval_svg(plain)
    assert "<rect class=share x='0' y='7' width='20.00%'" in svg
    assert "<g class=counted><line x1='8.86%' x2='39.13%' y1='14' y2='14'/>" in svg
    assert "<circle class=counted cx='20.00%' cy='14'" in svg
    assert "corrected" not in svg
    (corrected,) = summarise(
        calls, OperatingPoint(true_positive=95, false_negative=5, true_negative=98, false_positive=2)
    )
    svg = interval_svg(corrected)
    assert svg.count("<circle") == 2
    assert re.search(
        r"aria-label='20.0 percent, interval 8.9 to 39.1; corrected 19.4, interval [0-9.]+ to [0-9.]+'", svg
    )
    assert f"<circle class=corrected cx='{corrected.corrected_percent_gs:.2f}%'" in svg
    (nothing,) = summarise([CropCall("x-1.png", None, None, "error:format")], None)
    assert "nothing classified" in interval_svg(nothing)


def test_map_is_viridis_within_the_limits() -> None:
    import cv2

    activation = np.linspace(-1.0, 1.0, 49, dtype=np.float32).reshape(7, 7)
    picture = cv2.imdecode(np.frombuffer(map_png(activation, (-1.0, 1.0)), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture is not None
    assert picture.shape == (8, 8, 3)
    assert tuple(picture[0, 0]) == (68, 1, 84)  # viridis' two ends
    assert tuple(picture[6, 6]) == tuple(picture[7, 7]) == (253, 231, 37)
