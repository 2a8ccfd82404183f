"""``report.html``: one self-contained file, for phone, screen and print.

Cases first, then what to look at first, the crops of each case, the errors and the facts of the run. Which crops are
shown, and how many at most, is decided in ``run_page_data``; the report says how many are omitted. What the page
looks like is defined in ``templates/run_report.html``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from glomedge.reports import colour_scale, html
from glomedge.reports.case_table import corrected_text
from glomedge.reports.cell_grid import RESNET50V2_GRID, CellGrid
from glomedge.reports.interval_bar import interval_svg
from glomedge.reports.run_page_data import MAX_REVIEWED, RunPageData
from glomedge.reports.slide_overview import SlideFigure, anchor, slide_figures
from glomedge.results.rows import Row

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary

NO_CARD = Markup()
NO_MAP = "This network has no exact activation map, so no map is shown over the crops."


def prepare() -> None:
    """Make the templates of the report and its model card ready, beside other work."""
    html.prepare("base.html", "style.css", "run_report.html", "model_card.html")


class Report:
    """Everything that the report shows; ``write`` streams it.

    Args:
        record: the run's facts (``runinfo.record``).
        data: the rows that are shown, and their pictures.
        review_band: probabilities between which a crop is to be looked at first.
        card: the model card (``model_card.fragment``), shown folded up at the end.
        grid: where the maps' cells look; None for a model without maps.
    """

    def __init__(
        self,
        record: dict[str, Any],
        cases: Sequence[CaseSummary],
        data: RunPageData,
        review_band: tuple[float, float],
        card: Markup = NO_CARD,
        grid: CellGrid | None = RESNET50V2_GRID,
    ) -> None:
        self._record = record
        self._cases = cases
        self._data = data
        self._low, self._high = review_band
        self._card = card
        self._grid = grid
        self._excludes_flagged = bool(record["arguments"].get("exclude_flagged"))
        self._views = int(record["arguments"].get("tta", 1))

    def write(self, handle: IO[bytes]) -> None:
        """UTF-8 HTML; pictures are read one by one while it is written."""
        for part in html.stream("run_report.html", **self._context()):
            handle.write(part)

    def _context(self) -> dict[str, Any]:
        record, counts, data = self._record, self._record["counts"], self._data
        made_by = f"glomedge {record['glomedge']} on {record['provider']}"
        return {
            "title": "Globally sclerotic glomeruli",
            "subtitle": f"{record['arguments']['folder']} · {_date(record['started_utc'])} · {made_by}",
            "links": self._links(),
            "tiles": self._tiles(),
            "biopsies_found": record.get("biopsies_found"),
            **self._case_rows(),
            "excludes_flagged": self._excludes_flagged,
            "limits": [f"{limit:+.1f}" for limit in data.limits],
            "spread_note": self._spread_note(),
            "map_place": None if self._grid is None else [f"{percent:.4f}%" for percent in map_place(self._grid)],
            "no_map": NO_MAP,
            "review": self._review(),
            "shown": len(data.pictured),
            "classified": counts["positive"] + counts["negative"],
            "galleries": self._galleries(),
            "errors": {"total": counts["error"], "rows": data.errors},
            "facts": self._facts(),
            "card": self._card,
            "probability_text": _probability,
        }

    def _case_rows(self) -> dict[str, Any]:
        data, figures = self._data, None
        if data.overview is not None:
            figures = slide_figures(data.pictured, data.errors, data.overview)
        of_cases = {} if figures is None else figures.of_cases
        cases = [
            _case(summary, number, of_cases.get(summary.case, iter(()))) for number, summary in enumerate(self._cases)
        ]
        return {"cases": cases, "figures": figures}

    def _links(self) -> list[tuple[str, str]]:
        counts = self._record["counts"]
        return [
            ("cases", _many(len(self._cases), "case")),
            ("review", f"{counts['uncertain']} to review"),
            ("crops", "crops"),
            ("errors", _many(counts["error"], "error")),
            ("run", "run"),
        ]

    def _tiles(self) -> list[tuple[str, int]]:
        from glomedge.cases.summary import called

        counts = self._record["counts"]
        positive, classified = called(self._cases)
        return [
            ("files" if self._data.overview is None else "inputs", self._record["rows"]),
            ("cases", len(self._cases)),
            ("globally sclerotic", positive),
            ("not globally sclerotic", classified - positive),
            ("to review", counts["uncertain"]),
            ("flagged, not counted" if self._excludes_flagged else "flagged", counts["flagged"]),
            ("errors", counts["error"]),
        ]

    def _review(self) -> dict[str, Any]:
        total, nearest = self._record["counts"]["uncertain"], self._data.to_review
        have = f"{_many(total, 'crop')} {'has' if total == 1 else 'have'}"
        summary = f"{have} a probability from {self._low:g} to {self._high:g}"
        pictured = nearest[:MAX_REVIEWED]
        list_of = ""
        if not total:
            summary += "."
        elif total == len(pictured):
            summary += ", nearest to the threshold first."
        else:
            summary += f", nearest to the threshold first. The {len(pictured)} nearest to the threshold:"
            list_of = f"the {len(nearest)} nearest" if total > len(nearest) else f"all {total}"
        crops = (self._crop(row, with_case=True) for row in pictured)
        return {"summary": summary, "nearest": nearest, "crops": crops, "list_of": list_of}

    def _spread_note(self) -> str:
        if self._views == 1:
            return ""
        return " Spread: the largest minus the smallest probability over the eight views of a crop (--tta 8)."

    def _galleries(self) -> Iterator[_Gallery]:
        by_case: dict[str, list[Row]] = {}
        for row in self._data.pictured:
            by_case.setdefault(row.case, []).append(row)
        for number, summary in enumerate(self._cases):
            rows = by_case.get(summary.case, [])
            answered = summary.crops - summary.errors
            if not answered:
                continue
            extent = _many(answered, "crop")
            if len(rows) < answered:
                extent = f"{len(rows) or 'none'} of {extent}"
            rows.sort(key=lambda row: (not row.review, -(row.probability or 0.0), row.path))
            yield _Gallery(number, summary.case, extent, (self._crop(row) for row in rows))

    def _crop(self, row: Row, *, with_case: bool = False) -> _Crop:
        kept = self._data.thumbnails.read(row.attachment)
        picture = heatmap = None
        if kept is not None and kept[1]:
            activation, jpeg = kept
            picture = html.data_uri("jpeg", jpeg)
            if activation is not None and self._grid is not None:
                heatmap = html.data_uri("png", map_png(activation, self._data.limits, self._grid))
        name = row.path.rpartition("/")[2]
        lines = [("name", name)]
        if with_case and not name.startswith(row.case):
            lines.insert(0, ("", row.case))
        if row.tta_disagreement is not None:
            lines.append(("", f"spread {row.tta_disagreement:.3f}"))
        if row.flags:
            lines.append(("flag", ", ".join(row.flags)))
            if self._excludes_flagged:
                lines.append(("", "not counted"))
        return _Crop(
            path=row.path,
            name=name,
            probability=_probability(row),
            call="GS" if row.label else "not GS",
            lines=lines,
            classes=" ".join(name for name, wanted in (("gs", row.label), ("review", row.review)) if wanted),
            picture=picture,
            heatmap=heatmap,
            anchor="" if row.outline is None or with_case else anchor(row.outline),
        )

    def _facts(self) -> list[tuple[str, object]]:
        record = self._record
        model, times = record["model"], record["times"]
        facts: list[tuple[str, object]] = [
            ("Model", f"{model['path']} ({model['precision']}, recipe {model['recipe']['name']})"),
            ("Network", model["network"]),
            ("Source", model["source_sentence"]),
            ("Unknown", model["unknown"]),
            ("Model SHA-256", model["sha256"]),
            ("Threshold", f"{record['threshold']:g}"),
            ("Options", self._asked_for()),
            ("Provider", record["provider"]),
            ("Machine", f"{record['machine']['model']}, {record['machine']['cores_usable']} cores"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
            (
                "Time",
                f"{times['wall_s']:.1f} s" + (f", {times['rows_per_s']:.1f} files/s" if times["rows_per_s"] else ""),
            ),
            *(("Note", note) for note in record["notes"]),
        ]
        return [(name, value) for name, value in facts if value is not None]

    def _asked_for(self) -> str:
        arguments = self._record["arguments"]
        words = [f"review band {self._low:g} to {self._high:g}"]
        if self._views > 1:
            words.append(f"mean over {self._views} views of each crop (--tta {self._views})")
        if self._excludes_flagged:
            words.append("flagged crops excluded from the cases (--exclude-flagged)")
        if arguments.get("case_pattern"):
            words.append(f"case names by {arguments['case_pattern']}")
        if arguments.get("follow_symlinks"):
            words.append("symbolic links followed")
        return "; ".join(words)


_Lines = list[tuple[str, str]]
"""Texts, each with its class in the style sheet."""


class _Case(NamedTuple):
    """One case: counts on the left, its bar, percentages and tags on the right, its slides below.

    ``gallery`` is a link, or empty.
    """

    name: str
    gallery: str
    counts: str
    warnings: _Lines
    bar: Markup
    percent: str
    interval: str
    lines: list[str]
    tags: _Lines
    slides: Iterator[SlideFigure]


def _case(summary: CaseSummary, number: int, slides: Iterator[SlideFigure]) -> _Case:
    counts = [_many(summary.crops, "crop"), _many(summary.slides, "slide")]
    if summary.classified != summary.crops:
        counts.append(f"{summary.classified} classified")
    warned = ((summary.flagged, "flagged"), (summary.errors, "without an answer"))
    percent = interval = ""
    lines = []
    if summary.percent_gs is not None:
        percent = f"{summary.percent_gs:.1f}%"
        interval = f"({summary.interval_low:.1f} to {summary.interval_high:.1f})"
        lines.append(f"{summary.globally_sclerotic} of {summary.classified} GS, {summary.expected_count:.1f} expected")
        if summary.corrected_percent_gs is not None:
            lines.append(f"corrected {corrected_text(summary)}")
    return _Case(
        name=summary.case,
        gallery=f"#crops-{number}" if summary.crops > summary.errors else "",
        counts=", ".join(counts),
        warnings=[("warn", f", {count} {what}") for count, what in warned if count],
        bar=interval_svg(summary),
        percent=percent,
        interval=interval,
        lines=lines,
        tags=_tags(summary),
        slides=slides,
    )


def _tags(summary: CaseSummary) -> _Lines:
    if summary.percent_gs is None:
        tags = [("tag warn", "nothing classified")]
    elif summary.band is None:  # not calibrated for this site
        tags = []
    elif summary.band == "undetermined":
        tags = [("tag open", "band undetermined")]
    else:
        tags = [("tag", f"band {summary.band}")]
    if summary.remuzzi_glomerular_score is not None:
        tags.append(("tag", f"Remuzzi glomerular {summary.remuzzi_glomerular_score}"))
    if summary.percent_gs is not None and not summary.adequate:
        tags.append(("tag warn", "under 25 glomeruli"))
    return tags


class _Crop(NamedTuple):
    """One figure; the pictures are None if none were kept. ``anchor`` is its id in the page, or empty."""

    path: str
    name: str
    probability: str
    call: str
    lines: _Lines
    classes: str
    picture: Markup | None
    heatmap: Markup | None
    anchor: str


class _Gallery(NamedTuple):
    """The crops of the case of that number, made one by one while they are drawn."""

    number: int
    case: str
    extent: str
    crops: Iterator[_Crop]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _date(utc: str) -> str:
    """``2026-11-24T22:05:00Z`` as people write it."""
    return utc.replace("T", " ").removesuffix("Z")[:16] + " UTC"


def _probability(row: Row) -> str:
    """Three decimals, but never 0 or 1 unless exactly so."""
    value = row.probability
    assert value is not None
    if 0.0 < value < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 < value < 1.0 else f"{value:.3f}"


def map_png(
    activation: npt.NDArray[np.float32], limits: tuple[float, float], grid: CellGrid = RESNET50V2_GRID
) -> bytes:
    """The map as a small PNG, viridis, to be stretched smoothly over a crop: one pixel a cell.

    Where cells at the edge leave a part of the crop uncovered, the outermost ones are repeated: for ResNet50V2, whose
    cell i stands at network pixel 32 i, 8 x 8 pixels, which span -15.5 to 240.5 of 224. The page places it so
    (``map_place``).
    """
    import cv2

    low, high = limits
    span = high - low if math.isfinite(high - low) and high > low else 1.0
    levels = np.rint(np.clip((activation - low) * (255.0 / span), 0.0, 255.0)).astype(np.uint8)
    levels = np.pad(levels, _missing_cells(grid), mode="edge")
    colours = cv2.applyColorMap(levels, colour_scale.viridis(bgr=True))
    return bytes(cv2.imencode(".png", colours)[1])


def map_place(grid: CellGrid) -> tuple[float, float]:
    """Left edge (and upper) and width (and height) of ``map_png`` over a crop, in per cent of the crop's."""
    before, after = _missing_cells(grid)
    left_px = grid.first_px + 0.5 - (0.5 + before) * grid.pitch_px  # pixel 0 is 0 to 1 along the edge
    width_px = (before + grid.cells + after) * grid.pitch_px
    return 100.0 * left_px / grid.side_px, 100.0 * width_px / grid.side_px


def _missing_cells(grid: CellGrid) -> tuple[int, int]:
    """Cells that would have to stand before the first and after the last one for the whole crop to be covered."""
    left_px = grid.first_px + 0.5 - grid.pitch_px / 2.0
    right_px = left_px + grid.cells * grid.pitch_px
    return max(0, math.ceil(left_px / grid.pitch_px)), max(0, math.ceil((grid.side_px - right_px) / grid.pitch_px))
