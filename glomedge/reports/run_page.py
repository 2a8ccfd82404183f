"""``report.html``: one file that needs nothing else, for a phone, a screen and a printer.

Cases first, then what to look at first, the crops of each case, the errors and the facts of the run. Which crops are
shown, and how many at most, is decided in ``run_page_data``; the report says how many were left out. What the page
looks like stands in ``templates/run_report.html``.
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
from glomedge.reports.interval_bar import interval_svg
from glomedge.reports.run_page_data import MAX_REVIEWED, RunPageData
from glomedge.results.rows import Row

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary

NO_CARD = Markup()


class Report:
    """Everything that the report shows; ``write`` streams it.

    Args:
        record: the run's facts (``runinfo.record``).
        data: the rows that are shown, and their pictures.
        review_band: probabilities between which a crop is to be looked at first.
        card: the model card (``model_card.fragment``), shown folded up at the end.
    """

    def __init__(
        self,
        record: dict[str, Any],
        cases: Sequence[CaseSummary],
        data: RunPageData,
        review_band: tuple[float, float],
        card: Markup = NO_CARD,
    ) -> None:
        self._record = record
        self._cases = cases
        self._data = data
        self._low, self._high = review_band
        self._card = card
        self._excludes_flagged = bool(record["arguments"].get("exclude_flagged"))
        self._views = int(record["arguments"].get("tta", 1))

    def write(self, handle: IO[bytes]) -> None:
        """UTF-8 HTML; pictures are read one by one while it is written."""
        for part in html.stream("run_report.html", **self._context()):
            handle.write(part)

    def _context(self) -> dict[str, Any]:
        record, counts, data = self._record, self._record["counts"], self._data
        made_by = f"glomedge {record['glomedge']} on {record['provider']}"
        reviewed = data.to_review[:MAX_REVIEWED]
        return {
            "title": "Globally sclerotic glomeruli",
            "subtitle": f"{record['arguments']['folder']} · {_date(record['started_utc'])} · {made_by}",
            "links": self._links(),
            "tiles": self._tiles(),
            "cases": self._cases,
            "excludes_flagged": self._excludes_flagged,
            "band": (self._low, self._high),
            "limits": data.limits,
            "views": self._views,
            "map_class": "map" if self._views == 1 else "map views",
            "review": {
                "total": counts["uncertain"],
                "nearest": data.to_review,
                "pictured": len(reviewed),
                "crops": (self._crop(row, with_case=True) for row in reviewed),
            },
            "shown": len(data.pictured),
            "classified": counts["positive"] + counts["negative"],
            "galleries": self._galleries(),
            "errors": {"total": counts["error"], "rows": data.errors},
            "facts": self._facts(),
            "card": self._card,
            "many": _many,
            "probability_text": _probability,
            "corrected_text": corrected_text,
            "interval_svg": interval_svg,
        }

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
            ("files", self._record["rows"]),
            ("cases", len(self._cases)),
            ("globally sclerotic", positive),
            ("not globally sclerotic", classified - positive),
            ("to review", counts["uncertain"]),
            ("flagged, not counted" if self._excludes_flagged else "flagged", counts["flagged"]),
            ("errors", counts["error"]),
        ]

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
            heatmap = html.data_uri("png", map_png(activation, self._data.limits, self._views))
        name = row.path.rpartition("/")[2]
        return _Crop(
            row=row,
            name=name,
            case=row.case if with_case and not name.startswith(row.case) else "",
            probability=_probability(row),
            classes=" ".join(name for name, wanted in (("gs", row.label), ("review", row.review)) if wanted),
            picture=picture,
            heatmap=heatmap,
        )

    def _facts(self) -> list[tuple[str, object]]:
        record = self._record
        model, times = record["model"], record["times"]
        return [
            ("Model", f"{model['path']} ({model['precision']}, recipe {model['recipe']['name']})"),
            ("Model SHA-256", model["sha256"]),
            ("Threshold", f"{record['threshold']:g}"),
            ("Asked for", self._asked_for()),
            ("Provider", record["provider"]),
            ("Machine", f"{record['machine']['model']}, {record['machine']['cores_usable']} cores"),
            ("Versions", ", ".join(f"{name} {version}" for name, version in record["versions"].items())),
            (
                "Time",
                f"{times['wall_s']:.1f} s" + (f", {times['rows_per_s']:.1f} files/s" if times["rows_per_s"] else ""),
            ),
            *(("Note", note) for note in record["notes"]),
        ]

    def _asked_for(self) -> str:
        arguments = self._record["arguments"]
        words = [f"review band {self._low:g} to {self._high:g}"]
        if self._views > 1:
            words.append(f"mean over {self._views} views of each crop (--tta {self._views})")
        if self._excludes_flagged:
            words.append("flagged crops left out of the cases (--exclude-flagged)")
        if arguments.get("case_pattern"):
            words.append(f"case names by {arguments['case_pattern']}")
        if arguments.get("follow_symlinks"):
            words.append("links followed")
        return "; ".join(words)


class _Crop(NamedTuple):
    """One figure. ``case`` is empty where the name tells it; pictures are None where none were kept."""

    row: Row
    name: str
    case: str
    probability: str
    classes: str
    picture: Markup | None
    heatmap: Markup | None


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
    """Three decimals, but never 0 or 1 for what is neither."""
    value = row.probability
    assert value is not None
    if 0.0 < value < 0.0005:
        return "<0.001"
    return ">0.999" if 0.9995 < value < 1.0 else f"{value:.3f}"


def map_png(activation: npt.NDArray[np.float32], limits: tuple[float, float], views: int = 1) -> bytes:
    """The map as a small PNG, viridis, to be stretched smoothly over a crop.

    Of one view: 8 x 8 pixels, the last row and column repeated, for cell i stands at network pixel 32 i
    (``overlay.first_cell_px``) and the picture so spans pixels -16 to 240 of 224. Of eight: 7 x 7, just the crop. The
    style sheet places both so.
    """
    import cv2

    low, high = limits
    span = high - low if math.isfinite(high - low) and high > low else 1.0
    levels = np.rint(np.clip((activation - low) * (255.0 / span), 0.0, 255.0)).astype(np.uint8)
    if views == 1:
        levels = np.pad(levels, (0, 1), mode="edge")
    colours = cv2.applyColorMap(levels, colour_scale.viridis(bgr=True))
    return bytes(cv2.imencode(".png", colours)[1])
