"""A folder of crops cut from slides, in the layout that train, infer and evaluate read.

    DIR/globally_sclerotic_glomeruli/       crops by the class of their outline, as PNG
    DIR/non_globally_sclerotic_glomeruli/
    DIR/unlabelled_glomeruli/               where the class tells no label
    DIR/public.csv                          name and label of those that have one
    DIR/crops.csv                           one row for each outline, of every slide

Crops of several slides may be cut into one folder, one after the other; a slide that is cut again replaces its crops,
and another slide of the same name is refused.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomedge.cases.readings import CLASS_FOLDERS
from glomedge.errors import ImageError, OutputError, UsageError
from glomedge.files.lock import OutputLock
from glomedge.files.names import escape_name, guard, restore
from glomedge.files.writing import check_writable, write_atomically
from glomedge.slides.annotations.classes import Choice, choose, survey
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.crop_names import CropNames
from glomedge.slides.crops import cut, on_slide
from glomedge.slides.reader import Region, Slide, SlideInfo

LABELS_FILE, TABLE_FILE = "public.csv", "crops.csv"
COLUMNS = (
    "name", "slide", "slide_path", "annotation_id", "annotation_class", "ground truth", "x", "y", "width", "height",
    "mpp", "status", "message",
)  # fmt: skip
_TEXTS = frozenset({"name", "slide", "slide_path", "annotation_id", "annotation_class", "message"})
_WORK = ".glomedge-crop"
_MOVING = "moving.txt"
_BETWEEN_NAMES = "\0"
"""A file name can hold anything else, line ends among them."""
_Row = dict[str, str]


@dataclass(frozen=True)
class CutCrops:
    """What ``cut_crops`` wrote.

    Attributes:
        directory: the folder of crops.
        info: the slide's measures.
        choice: the classes that were taken and left out.
        crops: files written.
        labels: of ``crops``, how many have the label 0 and 1.
        at_edge: of ``crops``, those clipped at the slide's edge.
        repaired: of ``crops``, those whose outline crossed itself or was not closed.
        errors: error code -> outlines without a crop.
        replaced: crops of an earlier run on this slide that were there before.
    """

    directory: Path
    info: SlideInfo
    choice: Choice
    crops: int
    labels: tuple[int, int]
    at_edge: int
    repaired: int
    errors: dict[str, int]
    replaced: int


def cut_crops(
    slide: Slide,
    annotations: Path,
    directory: Path,
    wanted: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> CutCrops:
    """Cut every outlined glomerulus of a slide out as PNG, with the pixels that ``glomedge infer`` would classify.

    Every file is complete or absent, and ``public.csv`` never lists a crop that is not there. An outline that cannot be
    cut is a row of ``crops.csv`` with its error.

    Args:
        slide: open.
        annotations: outlines, as ``read_outlines`` takes them.
        directory: created when missing.
        wanted: classes that are glomeruli, as for ``choose``.
        progress: called with (outlines done, outlines in all).

    Raises:
        AnnotationError, UsageError: the outlines cannot be read, none is a glomerulus, or the folder holds labels that
            this command did not write, or crops of another slide of this name.
        OutputError: the folder cannot be written.
    """
    choice = choose(escape_name(os.fsencode(annotations)), survey(read_outlines(annotations)), wanted)
    check_writable(directory, "Choose another --output.")
    work = directory / _WORK
    try:
        work.mkdir(exist_ok=True)
        with OutputLock(work / "lock"):
            folder = _CropFolder(directory, work)
            names = CropNames(slide.path)
            earlier = folder.rows()
            _refuse_another_slide(directory, slide.path, names.slide, earlier)
            total = sum(choice.taken.values())
            rows = []
            for outline in read_outlines(annotations):
                if choice.takes(outline):
                    rows.append(_row(slide, outline, names, folder))
                    if progress:
                        progress(len(rows), total)
            folder.publish(names.slide, rows, earlier)
    except OSError as error:
        raise OutputError(
            f"{directory} cannot be written: {error.strerror or error}. Make room, or choose another --output."
        ) from None
    replaced = sum(row["slide"] == names.slide and bool(row["name"]) for row in earlier)
    return _summary(directory, slide.info, choice, rows, replaced)


def _path_of(slide: Path) -> str:
    """By which a slide is known again: its path without links, escaped."""
    return escape_name(os.fsencode(slide.resolve()))


def _refuse_another_slide(directory: Path, path: Path, name: str, earlier: list[_Row]) -> None:
    """Raise UsageError where the folder has crops of another slide of that name, which would be taken for its own."""
    known = next((row["slide_path"] for row in earlier if row["slide"].casefold() == name.casefold()), None)
    if known not in (None, _path_of(path)):
        raise UsageError(
            f"{directory} already holds crops of another slide of the name {name} ({known}). Rename one of the slides, "
            "or choose another --output."
        )


def _row(slide: Slide, outline: Outline, names: CropNames, folder: _CropFolder) -> _Row:
    """Cut one crop into the staging folder; its row of the table."""
    row = dict.fromkeys(COLUMNS, "") | {
        "slide": names.slide,
        "slide_path": _path_of(slide.path),
        "annotation_id": outline.id,
        "annotation_class": outline.label.class_name,
        "mpp": f"{slide.info.mpp:.6g}",
    }
    try:
        region = cut(slide, on_slide(outline, slide))
    except ImageError as error:
        return row | {"status": f"error:{error.code}", "message": str(error)}
    path, label = names.path_of(outline)
    folder.stage(path, region)
    flags = [*(["at_edge"] if region.at_edge else []), *outline.flags]
    return row | {
        "name": path,
        "ground truth": "" if label is None else str(label),
        **{key: str(getattr(region.box, key)) for key in ("x", "y", "width", "height")},
        "status": f"flagged:{'+'.join(flags)}" if flags else "ok",
    }


def _summary(directory: Path, info: SlideInfo, choice: Choice, rows: list[_Row], replaced: int) -> CutCrops:
    written = [row for row in rows if row["name"]]
    codes = [row["status"].removeprefix("error:") for row in rows if not row["name"]]
    return CutCrops(
        directory=directory,
        info=info,
        choice=choice,
        crops=len(written),
        labels=(
            sum(row["ground truth"] == "0" for row in written),
            sum(row["ground truth"] == "1" for row in written),
        ),
        at_edge=sum("at_edge" in row["status"] for row in written),
        repaired=sum("repaired" in row["status"] for row in written),
        errors={code: codes.count(code) for code in sorted(set(codes))},
        replaced=replaced,
    )


class _CropFolder:
    """The files of one folder of crops; held by one process."""

    def __init__(self, directory: Path, work: Path) -> None:
        self._directory = directory
        self._staging = work / "staging"
        self._moving = work / _MOVING
        self._finish_a_killed_run()
        self._staging.mkdir()

    def _finish_a_killed_run(self) -> None:
        """Remove the crops that a killed run was replacing or moving into place, as far as no table lists them."""
        if self._moving.exists():
            rows = self.rows()
            self._write_labels(rows)  # the run may have ended between the two tables
            listed = {row["name"] for row in rows}
            for name in self._moving.read_bytes().decode("utf-8", "surrogateescape").split(_BETWEEN_NAMES):
                if name not in listed:
                    self._remove(name)
            self._moving.unlink()
        shutil.rmtree(self._staging, ignore_errors=True)

    def rows(self) -> list[_Row]:
        """The rows of earlier slides. Raises UsageError where the folder's labels are not ours."""
        table = self._directory / TABLE_FILE
        if not table.exists():
            if (self._directory / LABELS_FILE).exists():
                raise UsageError(
                    f"{self._directory} already holds a {LABELS_FILE} that glomedge crop did not write. Choose another "
                    "--output."
                )
            return []
        with table.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
            reader = csv.DictReader(handle)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise UsageError(f"{table} was not written by glomedge crop. Choose another --output.")
            return [{key: restore(row[key] or "") for key in COLUMNS} for row in reader]

    def stage(self, name: str, region: Region) -> None:
        """Encode one crop beside its final place."""
        import cv2

        done, data = cv2.imencode(".png", cv2.cvtColor(region.pixels_hwc, cv2.COLOR_RGB2BGR))
        if not done:
            raise OutputError(f"OpenCV could not encode {name} as PNG. Reinstall opencv-python-headless.")
        path = self._staging / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.tobytes())

    def publish(self, slide: str, rows: list[_Row], earlier: list[_Row]) -> None:
        """Replace the slide's crops and rows: at no moment do the tables list a crop that is not there."""
        others = [row for row in earlier if row["slide"] != slide]
        names = [row["name"] for row in rows if row["name"]]
        old = [row["name"] for row in earlier if row["slide"] == slide and row["name"]]
        # First of all: whenever this run is killed, the next one removes those of them that no table lists.
        moving = _BETWEEN_NAMES.join([*old, *names])
        write_atomically(self._moving, moving.encode("utf-8", "surrogateescape"))
        if len(others) < len(earlier):
            self._write_tables(others)
        for name in old:
            self._remove(name)
        for name in names:
            target = self._directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            (self._staging / name).replace(target)
        self._write_tables([*others, *rows])
        self._moving.unlink()
        shutil.rmtree(self._staging, ignore_errors=True)

    def _remove(self, name: str) -> None:
        """Remove a crop of ours; a table that a person has edited removes nothing else."""
        folder, *rest = name.split("/")
        if folder in CLASS_FOLDERS and ".." not in rest and name.endswith(".png"):
            (self._directory / name).unlink(missing_ok=True)

    def _write_tables(self, rows: Iterable[_Row]) -> None:
        rows = list(rows)
        table = [[guard(row[key]) if key in _TEXTS else row[key] for key in COLUMNS] for row in rows]
        self._write(TABLE_FILE, COLUMNS, table)
        self._write_labels(rows)

    def _write_labels(self, rows: Iterable[_Row]) -> None:
        labels = [[Path(row["name"]).name, row["ground truth"]] for row in rows if row["ground truth"]]
        if labels:
            self._write(LABELS_FILE, ("name", "ground truth"), labels)
        else:
            (self._directory / LABELS_FILE).unlink(missing_ok=True)

    def _write(self, name: str, header: Sequence[str], rows: list[list[str]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        write_atomically(self._directory / name, text.getvalue().encode("utf-8", "surrogateescape"))
