"""The options of ``glomedge infer`` and ``evaluate``, and their validation before any work begins."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.cases.names import compile_case_pattern
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import MissingExtraError, UsageError
from glomedge.files.addresses import Address, Place
from glomedge.files.names import escape_name
from glomedge.results.tables import FORMATS
from glomedge.runs.shard_of import Shard

HEATMAP_CHOICES = ("positives", "uncertain", "all")
REVIEW_ODDS = 4.0
"""How far the odds of an uncertain crop may be from the threshold's, as a factor."""
DECODE_CHOICES = ("auto", "threads", "processes")


DICOM_FORMATS = ("dicom-sr", "dicom-ann")
"""Answers that refer to a DICOM slide: a structured report, bulk annotations."""
ANNOTATION_FORMATS = ("geojson", "dsa", *DICOM_FORMATS)
"""Answers written back as outlines for a viewer: QuPath, the Digital Slide Archive, DICOM."""


@dataclass(frozen=True)
class SlideOptions:
    """The options of ``glomedge infer`` that belong to slides.

    Attributes:
        annotations: outlines of the one slide; None: the file beside each slide that has its name.
        classes: classes of the outlines that are glomeruli; empty: the usual names.
        mpp: microns per pixel of the slides, in place of what they say.
    """

    annotations: Path | None = None
    classes: tuple[str, ...] = ()
    mpp: float | None = None


@dataclass(frozen=True)
class Options:
    """The options of ``glomedge infer``; see ``cli/infer.py`` for the meaning of each.

    With ``address`` the inputs are in storage, and ``folder`` means nothing.
    """

    folder: Path
    model: Path = DEFAULT_MODEL
    output: Path = Path("predictions")
    engine: EngineOptions = field(default_factory=EngineOptions)
    workers: int | None = None
    threshold: float | None = None
    formats: tuple[str, ...] = ("csv",)
    resume: bool = False
    overwrite: bool = False
    follow_symlinks: bool = False
    case_pattern: str | None = None
    exclude_flagged: bool = False
    review_band: tuple[float, float] | None = None
    tta: int = 1
    heatmaps: Path | None = None
    heatmaps_for: str = "positives"
    decode_timeout_s: float = 30.0
    decode_in: str = "auto"
    report: bool = True
    site: str | None = None
    slides: SlideOptions = field(default_factory=SlideOptions)
    shard: Shard | None = None
    inputs: Path | None = None
    address: Address | None = None

    @property
    def place(self) -> Place:
        """Where the inputs are."""
        return self.address or self.folder

    @property
    def annotation_formats(self) -> list[str]:
        """Of ``formats``, those that are written for each slide."""
        return [name for name in self.formats if name in ANNOTATION_FORMATS]

    def band(self, threshold: float) -> tuple[float, float]:
        """The lowest and the highest probability of a crop that counts as uncertain.

        As given; else the probabilities whose odds are within a factor of four of the threshold's: 0.2 to 0.8
        at a threshold of 0.5, 0.06 to 0.5 at 0.2. A fixed band would contain nearly every crop of a
        model with a low threshold.
        """
        if self.review_band is not None:
            return self.review_band
        odds = threshold / (1.0 - threshold)
        low, high = (round(factor * odds / (1.0 + factor * odds), 4) for factor in (1 / REVIEW_ODDS, REVIEW_ODDS))
        return low, high

    def to_review(self, probability: float, threshold: float) -> bool:
        """Whether a crop of that probability is uncertain."""
        low, high = self.band(threshold)
        return low <= probability <= high

    def check(self) -> None:
        """Reject invalid options before any work begins.

        Raises:
            UsageError: a value is out of its range.
            MissingExtraError: Parquet is requested and pyarrow is not installed.
        """
        self.engine.check()
        _check_shared(self.model, self.threshold, self.workers, self.case_pattern)
        low, high = self.review_band or (0.0, 1.0)
        problems = [
            (not 0.0 <= low <= high <= 1.0, "--review-band must be two probabilities, such as 0.2..0.8"),
            (self.tta not in (1, 8), "--tta must be 1 or 8"),
            (not self.decode_timeout_s > 0, "--decode-timeout must be more than 0 seconds"),
            (
                self.inputs is not None and self.slides.annotations is not None,
                "--inputs and --annotations cannot be combined: outlines lie beside their slides",
            ),
            (
                self.address is not None and self.slides.annotations is not None,
                "--annotations belongs to a slide, and slides are read from disks only, not from storage",
            ),
            (self.resume and self.overwrite, "--resume and --overwrite cannot be combined"),
            (self.decode_in not in DECODE_CHOICES, f"--decode-in must be one of {', '.join(DECODE_CHOICES)}"),
            (self.heatmaps_for not in HEATMAP_CHOICES, f"--heatmaps-for must be one of {', '.join(HEATMAP_CHOICES)}"),
        ]
        problems += [
            (
                name not in (*FORMATS, *ANNOTATION_FORMATS),
                f"--format {name!r} is unknown: use {', '.join((*FORMATS, *ANNOTATION_FORMATS))}",
            )
            for name in self.formats
        ]
        for wrong, message in problems:
            if wrong:
                raise UsageError(f"{message}. See: glomedge infer --help")
        if "parquet" in self.formats and importlib.util.find_spec("pyarrow") is None:
            # Before the run, not at its end.
            raise MissingExtraError("--format parquet", "pyarrow", "parquet")


@dataclass(frozen=True)
class EvaluateOptions:
    """The options of ``glomedge evaluate``.

    Attributes:
        data: folder of labelled crops.
        labels_file: their labels; None: ``public.csv`` in ``data``.
        split_file, split: a ``split.csv`` and the side of it to evaluate; both or neither.
        threshold: probability from which a crop is positive; None: the model's.
        workers: decode threads; None: one per core.
    """

    data: Path
    model: Path = DEFAULT_MODEL
    engine: EngineOptions = field(default_factory=EngineOptions)
    labels_file: Path | None = None
    split_file: Path | None = None
    split: str | None = None
    threshold: float | None = None
    case_pattern: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Reject invalid options before any work begins. Raises UsageError."""
        self.engine.check()
        _check_shared(self.model, self.threshold, self.workers, self.case_pattern)
        if (self.split_file is None) != (self.split is None):
            raise UsageError(
                "--split-file and --split must be given together: --split-file artifacts/split.csv --split test"
            )


def _check_shared(model: Path, threshold: float | None, workers: int | None, case_pattern: str | None) -> None:
    """Check the options that both commands share. Raises UsageError."""
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise UsageError(f"--threshold must be between 0 and 1, not {threshold:g}.")
    if workers is not None and not 1 <= workers <= 512:
        raise UsageError(f"--workers must be 1 to 512, not {workers}.")
    try:
        str(model).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"The model's path {escape_name(bytes(model))} is not UTF-8, and onnxruntime cannot open it. Rename it."
        ) from None
    if case_pattern is not None:
        compile_case_pattern(case_pattern)
