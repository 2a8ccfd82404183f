"""Draws whole slides with outlined glomeruli, so that everything that reads slides can be tried without patient data.

A slide is a tiled pyramid as an Aperio scanner writes it: strips of tissue on glass, with the glomeruli of ``crop.py``
pasted in. Same seed and arguments, same package versions: same bytes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import cv2
import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.errors import OutputError, UsageError
from glomedge.files.writing import check_writable
from glomedge_export.synthetic.annotation_files import FORMATS, DrawnOutline
from glomedge_export.synthetic.crop import draw_crop
from glomedge_export.synthetic.dataset import FOLDERS, PlannedCrop, plan_dataset
from glomedge_export.synthetic.manifest import drawn_files
from glomedge_export.synthetic.tiled_tiff import TILE_PX, Pixels, pyramid, write_slide
from glomedge_export.synthetic.tissue import Rng

MPP = 0.25
MANIFEST_FILE, NOTICE_FILE, OTHERS_FOLDER = "synthetic-slides.json", "README.txt", "other-formats"
_PARTIAL = ".glomedge-synth-slide-partial"
_LEVELS, _THUMBNAIL_PX = 3, 512
_MIN_SIDE_PX, _MAX_SIDE_PX = 260, 480
_CELL_PX, _GLASS_PX, _FEATHER_PX = 560, 160, 12
_OUTLINE_POINTS = 48


@dataclass(frozen=True)
class DrawnSlides:
    """What ``write_slides`` wrote.

    Attributes:
        directory: the folder.
        slides: file names, each with ``<stem>.geojson`` beside it.
        glomeruli: outlines in all.
        positive: of those, globally sclerotic.
        cases: biopsies.
    """

    directory: Path
    slides: tuple[str, ...]
    glomeruli: int
    positive: int
    cases: int


def write_slides(
    directory: Path,
    *,
    glomeruli: int = 24,
    cases: int = 3,
    seed: int = 0,
    positive_fraction: float = 0.35,
    progress: Callable[[int, int], None] | None = None,
) -> DrawnSlides:
    """Draw the slides of some biopsies into ``directory``, with their outlines in every format.

    Everything is drawn in a hidden folder first and moved into place at the end, the manifest last.
    One keyword for each option of ``glomedge synth-slide``: they have nothing else in common.

    Args:
        directory: created when missing; an earlier drawn set is replaced.
        glomeruli: outlines in all.
        cases: biopsies they come from; a biopsy has one to six slides.
        seed: same seed, same bytes (with the same package versions).
        positive_fraction: share of globally sclerotic glomeruli.
        progress: called with (slides drawn, slides in all).

    Raises:
        UsageError: impossible counts, or a folder that holds something else.
        OutputError: the folder cannot be written.
    """
    planned = plan_dataset(glomeruli, cases, seed, positive_fraction)
    slides = [(name, list(crops)) for name, crops in groupby(planned, key=_slide_of)]
    _check_free(directory)
    check_writable(directory, "Choose a folder you can write to.")
    partial = directory / _PARTIAL
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / OTHERS_FOLDER).mkdir(parents=True)
        written = []
        for number, (name, crops) in enumerate(slides):
            written += _write_slide(partial, name, crops, np.random.default_rng([seed, number]))
            if progress:
                progress(number + 1, len(slides))
        _move(directory, partial, written, seed)
    except OSError as error:
        raise OutputError(f"Cannot draw into {directory}: {error}. Choose a folder you can write to.") from error
    return DrawnSlides(
        directory=directory,
        slides=tuple(f"{name}.svs" for name, _ in slides),
        glomeruli=len(planned),
        positive=sum(crop.label for crop in planned),
        cases=len({crop.case for crop in planned}),
    )


def _slide_of(crop: PlannedCrop) -> str:
    return crop.name.rpartition("_")[0]


def _write_slide(partial: Path, name: str, crops: list[PlannedCrop], rng: Rng) -> list[str]:
    pixels, outlines = draw_slide(crops, rng)
    height_px, width_px = pixels.shape[:2]
    description = (
        f"Aperio Image Library (drawn by glomedge {__version__}, no patient's tissue)\n{width_px}x{height_px} "
        f"[0,0 {width_px}x{height_px}] ({TILE_PX}x{TILE_PX}) JPEG/RGB Q=85|AppMag = 40|MPP = {MPP}"
    )
    write_slide(partial / f"{name}.svs", pyramid(pixels, _LEVELS), description, MPP, thumbnail_px=_THUMBNAIL_PX)
    written = [f"{name}.svs"]
    for ending, text_of in FORMATS.items():
        folder = "" if ending == ".geojson" else f"{OTHERS_FOLDER}/"
        written.append(f"{folder}{name}{ending}")
        (partial / written[-1]).write_text(text_of(outlines), encoding="utf-8")
    return written


def draw_slide(crops: list[PlannedCrop], rng: Rng) -> tuple[Pixels, list[DrawnOutline]]:
    """Draw one slide.

    Args:
        crops: its glomeruli; the class, the stain and the pictures are theirs.
        rng: where they lie, how large they are, what is around them.

    Returns:
        RGB uint8 ``[H, W, 3]``, and an outline for each glomerulus, then one of the tissue around the first strip.
    """
    columns = int(np.ceil(np.sqrt(len(crops) * 1.5)))
    rows = -(-len(crops) // columns)
    step = _CELL_PX + _GLASS_PX
    width_px, height_px = columns * _CELL_PX + 2 * _GLASS_PX, rows * step + _GLASS_PX
    pixels = np.full((height_px, width_px, 3), crops[0].stain.white.round().astype(np.uint8), np.uint8)
    outlines = []
    for row in range(rows):
        of_row = crops[row * columns : (row + 1) * columns]
        drawn = [_glomerulus(crop) for crop in of_row]
        top = _GLASS_PX + row * step
        strip = pixels[top : top + _CELL_PX, _GLASS_PX : width_px - _GLASS_PX]
        _tissue(strip, drawn, rng)
        for column, (crop, picture) in enumerate(zip(of_row, drawn, strict=True)):
            height, width = picture.shape[:2]
            x = column * _CELL_PX + int(rng.integers(20, _CELL_PX - width - 20))
            y = int(rng.integers(30, _CELL_PX - height - 30))
            _paste(strip[y : y + height, x : x + width], picture)
            points = _outline(rng, x + _GLASS_PX, y + top, width, height)
            identity = crop.name.rpartition("_")[2].removesuffix(".png")
            outlines.append(DrawnOutline(identity, FOLDERS[crop.label], points))
    left, right, lower = _GLASS_PX, width_px - _GLASS_PX, _GLASS_PX + _CELL_PX
    corners = np.array([(left, left), (right, left), (right, lower), (left, lower)], float)
    return pixels, [*outlines, DrawnOutline(rng.bytes(12).hex(), "tissue", corners)]


def _glomerulus(crop: PlannedCrop) -> Pixels:
    rng = np.random.default_rng(crop.seed)
    height, width = rng.integers(_MIN_SIDE_PX, _MAX_SIDE_PX, 2)
    return draw_crop(rng, crop.label == 1, (int(height), int(width)), crop.stain)[..., :3]


def _tissue(strip: Pixels, drawn: list[Pixels], rng: Rng) -> None:
    """Fill a strip with the colour at the edges of its glomeruli, mottled, between two wavy borders."""
    height, width = strip.shape[:2]
    edges = np.concatenate([np.concatenate([each[:4].reshape(-1, 3), each[-4:].reshape(-1, 3)]) for each in drawn])
    colour = np.median(edges, axis=0)
    coarse = rng.normal(0, 14, (height // 16, width // 16, 1)) + rng.normal(0, 3, (height // 16, width // 16, 3))
    mottled = cv2.resize(
        np.clip(colour + coarse, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    along = np.linspace(0, width, 40)
    waves = 12 + 8 * np.sin(along / rng.uniform(90, 200) + rng.uniform(0, 6))
    border = np.concatenate([np.stack([along, waves], 1), np.stack([along, height - waves], 1)[::-1]])
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [border.astype(np.int32)], 255)
    cv2.copyTo(mottled, mask, strip)


def _paste(place: Pixels, picture: Pixels) -> None:
    """Lay a picture over the tissue, its rim mixed with what is there."""
    height, width = picture.shape[:2]
    inner = np.zeros((height, width), np.float32)
    inner[_FEATHER_PX:-_FEATHER_PX, _FEATHER_PX:-_FEATHER_PX] = 1
    weight = cv2.blur(inner, (_FEATHER_PX * 2 + 1, _FEATHER_PX * 2 + 1))
    place[:] = cv2.blendLinear(picture, np.ascontiguousarray(place), weight, 1 - weight)


def _outline(rng: Rng, x: int, y: int, width: int, height: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """A round line whose box, in whole pixels, is exactly that of the picture."""
    turns = np.linspace(0, 2 * np.pi, _OUTLINE_POINTS, endpoint=False)
    radius = 1 + 0.05 * np.sin(3 * turns + rng.uniform(0, 6)) + 0.03 * np.sin(5 * turns + rng.uniform(0, 6))
    points = np.stack([radius * np.cos(turns), radius * np.sin(turns)], 1)
    low, high = points.min(axis=0), points.max(axis=0)
    # From a quarter of a pixel in to three quarters beyond: programs that round would cut another box.
    scaled = (points - low) / (high - low) * (np.array([width, height]) + 0.5) + np.array([x, y]) + 0.25
    return np.asarray(np.round(scaled, 2))


def _check_free(directory: Path) -> None:
    """Refuse a folder that holds what an earlier run did not draw."""
    if not directory.exists():
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a folder to draw into.")
    ours = {*drawn_files(directory / MANIFEST_FILE), MANIFEST_FILE, NOTICE_FILE}
    present = {path.relative_to(directory) for path in directory.rglob("*") if not path.is_dir()}
    strange = sorted(str(path) for path in present if path.parts[0] != _PARTIAL and path.as_posix() not in ours)
    if strange:
        raise UsageError(f"{directory} is not empty ({strange[0]}): name a new folder.")


def _move(directory: Path, partial: Path, written: list[str], seed: int) -> None:
    """Replace an earlier set: its manifest goes first and the new one comes last."""
    earlier = drawn_files(directory / MANIFEST_FILE)
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
    for name in earlier - set(written):
        (directory / name).unlink(missing_ok=True)
    (directory / OTHERS_FOLDER).mkdir(exist_ok=True)
    manifest = {
        "notice": f"Drawn by a program; no patient's tissue. {RESEARCH_USE_NOTICE}",
        "drawn_by": f"glomedge {__version__}",
        "seed": seed,
        "files": written,
    }
    (partial / NOTICE_FILE).write_text(
        f"These slides were drawn by a program (glomedge synth-slide --seed {seed}); they show no patient's tissue.\n"
        f"Outlines: beside each slide for QuPath, and in {OTHERS_FOLDER}/ for other programs.\n\n"
        f"{RESEARCH_USE_NOTICE}\n",
        encoding="utf-8",
    )
    (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for name in (*written, NOTICE_FILE, MANIFEST_FILE):
        (partial / name).replace(directory / name)
    shutil.rmtree(partial)
