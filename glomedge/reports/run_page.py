"""``report.html``: one file that needs nothing else, for a phone, a screen and a printer.

Cases first, then what to look at first, the crops of each case, the errors and the facts of the run. Crops beyond
``MAX_THUMBNAILS`` are left out, the least telling ones, and the report says how many; so many also are the pictures
and lines of what to look at first (``MAX_REVIEWED``, ``MAX_LISTED``).
"""

from __future__ import annotations

import base64
import heapq
import html
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from string import Template
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.reports import colour_scale
from glomedge.reports.case_table import corrected_text
from glomedge.reports.interval_bar import interval_svg
from glomedge.results.rows import Row
from glomedge.results.thumbnails import Spool, shared_limits

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary

MAX_THUMBNAILS = 2000
MAX_LISTED = 500
MAX_REVIEWED = 60
_MARK = "@@glomedge-body@@"


class Report:
    """Everything that the report shows; ``write`` streams it.

    Args:
        record: the run's facts (``runinfo.record``).
        rows: gives all rows, in order, each time it is called.
        thumbnails: where rows' thumbnails and maps are.
        review_band: probabilities between which a crop is to be looked at first.
        max_thumbnails: pictures to show at most.
        card: the model card (``card.fragment``), shown folded up at the end.
    """

    def __init__(
        self,
        record: dict[str, Any],
        cases: Sequence[CaseSummary],
        rows: Callable[[], Iterator[Row]],
        thumbnails: Spool,
        review_band: tuple[float, float],
        max_thumbnails: int = MAX_THUMBNAILS,
        card: str = "",
    ) -> None:
        self._record = record
        self._cases = cases
        self._rows = rows
        self._thumbnails = thumbnails
        self._low, self._high = review_band
        self._max = max_thumbnails
        self._card = card
        self._excludes_flagged = bool(record["arguments"].get("exclude_flagged"))
        self._views = int(record["arguments"].get("tta", 1))
        self._map_class = "map" if self._views == 1 else "map views"

    def write(self, handle: IO[bytes]) -> None:
        """UTF-8 HTML."""
        folder = self._record["arguments"]["folder"]
        made_by = f"glomedge {self._record['glomedge']} on {self._record['provider']}"
        shell = Template((Path(__file__).parent / "templates" / "report.html").read_text("utf-8")).substitute(
            title="Globally sclerotic glomeruli",
            subtitle=html.escape(f"{folder} · {_date(self._record['started_utc'])} · {made_by}"),
            notice=html.escape(RESEARCH_USE_NOTICE),
            nav=self._nav(),
            body=_MARK,
        )
        head, tail = shell.split(_MARK)
        handle.write(head.encode("utf-8"))
        for part in self._parts():
            handle.write(part.encode("utf-8", "replace"))
        handle.write(tail.encode("utf-8"))

    def _parts(self) -> Iterator[str]:
        yield self._tiles()
        if found := self._record.get("biopsies_found"):
            yield f"<p class=soft>{html.escape(found['summary'])}</p>"
            yield from (f"<p class=warn>{html.escape(warning)}</p>" for warning in found["warnings"])
        yield "<h2 id=cases>Cases</h2>" + _CASES_LEGEND
        if self._excludes_flagged:
            yield "<p class=warn>Flagged crops are left out of the counts per case (--exclude-flagged).</p>"
        for number, summary in enumerate(self._cases):
            yield _case(summary, number)
        shown = heapq.nsmallest(self._max, (row for row in self._rows() if not row.failed), key=self._rank)
        limits = shared_limits(shown, self._thumbnails) or (0.0, 1.0)
        yield from self._review(limits)
        yield from self._galleries(shown, limits)
        yield from self._errors()
        yield self._facts()
        yield self._card

    def _nav(self) -> str:
        counts = self._record["counts"]
        links = (
            ("cases", _many(len(self._cases), "case")),
            ("review", f"{counts['uncertain']} to review"),
            ("crops", "crops"),
            ("errors", _many(counts["error"], "error")),
            ("run", "run"),
        )
        return f"<nav>{''.join(f'<a href=#{target}>{text}</a>' for target, text in links)}</nav>"

    def _tiles(self) -> str:
        from glomedge.cases.summary import called

        counts = self._record["counts"]
        positive, classified = called(self._cases)
        tiles = (
            ("files", self._record["rows"]),
            ("cases", len(self._cases)),
            ("globally sclerotic", positive),
            ("not globally sclerotic", classified - positive),
            ("to review", counts["uncertain"]),
            ("flagged, not counted" if self._excludes_flagged else "flagged", counts["flagged"]),
            ("errors", counts["error"]),
        )
        return f"<ul class=tiles>{''.join(f'<li><b>{number}</b>{name}</li>' for name, number in tiles)}</ul>"

    def _rank(self, row: Row) -> tuple[int, float, str]:
        """Smallest first: uncertain, flagged, positive, the rest; among equals the nearest to the threshold."""
        assert row.probability is not None
        distance = abs(row.probability - row.threshold)
        kind = 0 if row.review else 1 if row.flags else 2 if row.label else 3
        return kind, distance, row.path

    def _review(self, limits: tuple[float, float]) -> Iterator[str]:
        total = self._record["counts"]["uncertain"]
        have = f"{_many(total, 'crop')} {'has' if total == 1 else 'have'}"
        yield f"<h2 id=review>Review first</h2><p>{have} a probability from {self._low:g} to {self._high:g}"
        if not total:
            yield ".</p>"
            return
        nearest = heapq.nsmallest(MAX_LISTED, (row for row in self._rows() if row.review), key=self._rank)
        pictured = nearest[:MAX_REVIEWED]
        some = f" The {len(pictured)} nearest to the threshold:" if total > len(pictured) else ""
        yield f", nearest to the threshold first.{some}</p>{_scale(limits)}"
        yield "<section class='gallery first'><div class=grid>"
        for row in pictured:
            yield self._figure(row, limits, with_case=True)
        yield "</div></section>\n"
        if total == len(pictured):
            return
        all_of = f"the {len(nearest)} nearest" if total > len(nearest) else f"all {total}"
        yield f"<details><summary>List of {all_of}; predictions.csv has all (column review).</summary>"
        yield "<table><thead><tr><th>probability<th>case<th>crop</tr></thead>"
        for row in nearest:
            yield (
                f"<tr><td class=n>{_probability(row)}<td>{html.escape(row.case)}"
                f"<td>{html.escape(row.path)} {_flags(row)}</tr>\n"
            )
        yield "</table></details>"

    def _galleries(self, shown: Sequence[Row], limits: tuple[float, float]) -> Iterator[str]:
        by_case: dict[str, list[Row]] = {}
        for row in shown:
            by_case.setdefault(row.case, []).append(row)
        yield "<h2 id=crops>Crops</h2>"
        total = self._record["counts"]["positive"] + self._record["counts"]["negative"]
        if len(shown) < total:
            yield (
                f"<p><b>{len(shown)} of {total} crops are shown</b>: to be reviewed, flagged and positive ones before "
                "others. predictions.csv has all.</p>"
            )
        yield (
            "<p class=soft>To be reviewed first (dashed), then by probability. The top edge is magenta where a crop is "
            f"called globally sclerotic (GS), blue where not.{self._spread_note()}</p>{_scale(limits)}"
        )
        for number, summary in enumerate(self._cases):
            rows = by_case.get(summary.case, [])
            answered_here = summary.crops - summary.errors
            if not answered_here:
                continue
            count = _many(answered_here, "crop")
            if len(rows) < answered_here:
                count = f"{len(rows) or 'none'} of {count}"
            title = f"<h3>{html.escape(summary.case)}: {count} <a class=hint href=#case-{number}>its counts</a></h3>"
            yield f"<section class=gallery id=crops-{number}>{title}<div class=grid>"
            for row in sorted(rows, key=lambda row: (not row.review, -(row.probability or 0.0), row.path)):
                yield self._figure(row, limits)
            yield "</div></section>\n"

    def _spread_note(self) -> str:
        if self._views == 1:
            return ""
        return " Spread: the largest minus the smallest probability over the eight views of a crop (--tta 8)."

    def _figure(self, row: Row, limits: tuple[float, float], *, with_case: bool = False) -> str:
        kept = self._thumbnails.read(row.attachment)
        name = html.escape(row.path.rpartition("/")[2])
        picture = "<span class=soft>no picture kept</span>"
        if kept is not None and kept[1]:
            activation, jpeg = kept
            picture = (
                f'<span class=pic><img loading=lazy decoding=async alt="{name}" src="{_data("jpeg", jpeg)}">'
                f'<img class="{self._map_class}" loading=lazy alt="" '
                f'src="{_data("png", map_png(activation, limits, self._views))}"></span>'
            )
        classes = " ".join(name for name, wanted in (("gs", row.label), ("review", row.review)) if wanted)
        lines = [f"<span class=name>{name}</span>"]
        if with_case and not row.path.rpartition("/")[2].startswith(row.case):
            lines.insert(0, f"<span>{html.escape(row.case)}</span>")
        if row.tta_disagreement is not None:
            lines.append(f"<span>spread {row.tta_disagreement:.3f}</span>")
        if row.flags:
            lines.append(_flags(row) + ("<span>not counted</span>" if self._excludes_flagged else ""))
        call = "GS" if row.label else "not GS"
        return (
            f'<figure class="{classes}" tabindex=0 title="{html.escape(row.path)}">{picture}<figcaption>'
            f"<b>{_probability(row)}</b> {call}{''.join(lines)}</figcaption></figure>\n"
        )

    def _errors(self) -> Iterator[str]:
        total = self._record["counts"]["error"]
        yield "<h2 id=errors>Errors</h2>"
        if not total:
            yield "<p>Every file was read and predicted on.</p>"
            return
        listed = heapq.nsmallest(MAX_LISTED, (row for row in self._rows() if row.failed), key=lambda row: row.path)
        if len(listed) < total:
            yield f"<p>The first {len(listed)} of {total}; predictions.csv has all.</p>"
        yield "<table><thead><tr><th>error<th>file<th>why</tr></thead>"
        for row in listed:
            code = html.escape(row.status.partition(":")[2])
            yield f"<tr><td>{code}<td>{html.escape(row.path)}<td>{html.escape(row.message)}</tr>\n"
        yield "</table>"

    def _facts(self) -> str:
        record = self._record
        model, times = record["model"], record["times"]
        facts = (
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
        )
        rows = "".join(f"<tr><th>{html.escape(name)}<td>{html.escape(str(value))}</tr>" for name, value in facts)
        return f"<h2 id=run>This run</h2><table>{rows}</table>"

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


_CASES_LEGEND = (
    "<p class=soft>Share of globally sclerotic glomeruli (GS) among those classified (dot), with its 95% Wilson "
    "interval. The ring below it is corrected for the model's sensitivity and specificity, where they are known. The "
    "gray band is 10% to 20%. Counts, not advice.</p>"
)


def _case(summary: CaseSummary, number: int) -> str:
    tags = []
    if summary.band is None:
        tags.append("<span class='tag warn'>nothing classified</span>")
    elif summary.band == "undetermined":
        tags.append("<span class='tag open'>band undetermined</span>")
    else:
        tags.append(f"<span class=tag>band {html.escape(summary.band)}</span>")
    if summary.remuzzi_glomerular_score is not None:
        tags.append(f"<span class=tag>Remuzzi glomerular {summary.remuzzi_glomerular_score}</span>")
    if summary.band is not None and not summary.adequate:
        tags.append("<span class='tag warn'>under 25 glomeruli</span>")
    counts = [_many(summary.crops, "crop"), _many(summary.slides, "slide")]
    if summary.classified != summary.crops:
        counts.append(f"{summary.classified} classified")
    counts += [
        f"<span class=warn>{count} {what}</span>"
        for count, what in ((summary.flagged, "flagged"), (summary.errors, "without an answer"))
        if count
    ]
    value = ""
    if summary.percent_gs is not None:
        interval = f"({summary.interval_low:.1f} to {summary.interval_high:.1f})"
        value = (
            f"<b>{summary.percent_gs:.1f}%</b> <span>{interval}</span><br>"
            f"<span class=soft>{summary.globally_sclerotic} of {summary.classified} GS, "
            f"{summary.expected_count:.1f} expected</span><br>"
        )
        if summary.corrected_percent_gs is not None:
            value += f"<span class=soft>corrected {corrected_text(summary)}</span><br>"
    name = html.escape(summary.case)
    if summary.crops > summary.errors:
        name = f"<a href=#crops-{number}>{name}</a>"
    return (
        f"<section class=case id=case-{number}><div><h3>{name}</h3>"
        f"<span class=soft>{', '.join(counts)}</span></div>{interval_svg(summary)}"
        f"<div class=value>{value}{' '.join(tags)}</div></section>\n"
    )


def _scale(limits: tuple[float, float]) -> str:
    """What the colours of a map say, beside what makes one appear."""
    return (
        f"<p class='soft scale hint'><span>Point at a crop or tap it for its map:</span> {limits[0]:+.1f} <i></i> "
        f"{limits[1]:+.1f} <span>logit, from against to for GS.</span></p>"
    )


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
        return "&lt;0.001"
    return "&gt;0.999" if 0.9995 < value < 1.0 else f"{value:.3f}"


def _flags(row: Row) -> str:
    return f"<span class=flag>{html.escape(', '.join(row.flags))}</span>" if row.flags else ""


def _data(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def map_png(activation: npt.NDArray[np.float32], limits: tuple[float, float], views: int = 1) -> bytes:
    """The map as a small PNG, viridis, to be stretched smoothly over a crop.

    Of one view: 8 x 8 pixels, the last row and column repeated, for cell i stands at network pixel 32 i
    (``heatmap.first_cell_px``) and the picture so spans pixels -16 to 240 of 224. Of eight: 7 x 7, just the crop. The
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
