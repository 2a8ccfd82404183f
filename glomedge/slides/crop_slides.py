"""Crops of every slide of a folder; a slide that fails does not end the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import GlomedgeError, MissingExtraError, OutputError
from glomedge.slides.crop_folder import CutCrops, cut_crops
from glomedge.slides.pairs import SlidePair
from glomedge.slides.reader import Slide


@dataclass(frozen=True)
class SlideCrops:
    """What became of one slide: ``crops``, or why there are none."""

    slide: Path
    crops: CutCrops | None
    message: str = ""

    @property
    def failed(self) -> bool:
        """Whether the slide, or an outline of it, has an error."""
        return self.crops is None or bool(self.crops.errors)


def cut_slides(
    pairs: Sequence[SlidePair],
    directory: Path,
    wanted: Sequence[str] = (),
    mpp: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[SlideCrops]:
    """Cut the outlined glomeruli of every slide into one folder, as ``cut_crops`` does.

    Args:
        pairs: slides with their outlines.
        directory: created when missing.
        wanted: classes that are glomeruli.
        mpp: microns per pixel of all slides, in place of what they say.
        progress: called with (slides done, slides in all).

    Raises:
        OutputError: the folder cannot be written.
        MissingExtraError: a package is not installed.
    """
    done = []
    for pair in pairs:
        done.append(_one(pair, directory, wanted, mpp))
        if progress:
            progress(len(done), len(pairs))
    return done


def _one(pair: SlidePair, directory: Path, wanted: Sequence[str], mpp: float | None) -> SlideCrops:
    if pair.annotations is None:
        return SlideCrops(pair.slide, None, f"{pair.problem}.")
    try:
        with Slide(pair.slide, mpp) as slide:
            return SlideCrops(pair.slide, cut_crops(slide, pair.annotations, directory, wanted))
    except (OutputError, MissingExtraError):
        raise  # of no slide in particular
    except GlomedgeError as error:
        return SlideCrops(pair.slide, None, str(error))
