"""What ``glomedge infer`` can be asked for, and the check of it before any work begins."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from glomedge.cases.names import compile_case_pattern
from glomedge.errors import MissingExtraError, UsageError
from glomedge.files.names import escape_name
from glomedge.results.tables import FORMATS

HEATMAP_CHOICES = ("positives", "uncertain", "all")
DECODE_CHOICES = ("auto", "threads", "processes")


@dataclass(frozen=True)
class Options:
    """What ``glomedge infer`` was asked for; see ``cli/infer.py`` for the meaning of each."""

    folder: Path
    model: Path = Path("artifacts/model.onnx")
    output: Path = Path("predictions")
    provider: str = "auto"
    allow_fallback: bool = False
    strict_placement: bool = False
    batch_size: int | None = None
    max_batch: int | None = None
    fixed_batch: bool = False
    cache_dir: Path | None = None
    bf16: bool = False
    workers: int | None = None
    threshold: float | None = None
    formats: tuple[str, ...] = ("csv",)
    resume: bool = False
    overwrite: bool = False
    follow_symlinks: bool = False
    case_pattern: str | None = None
    exclude_flagged: bool = False
    review_band: tuple[float, float] = (0.2, 0.8)
    tta: int = 1
    heatmaps: Path | None = None
    heatmaps_for: str = "positives"
    decode_timeout_s: float = 30.0
    decode_in: str = "auto"
    report: bool = True

    def to_review(self, probability: float) -> bool:
        """Whether a crop of that probability is uncertain."""
        low, high = self.review_band
        return low <= probability <= high

    def check(self) -> None:
        """Refuse what cannot be carried out, before any work begins.

        Raises:
            UsageError: a value is out of its range.
            MissingExtraError: Parquet is asked for and pyarrow is not installed.
        """
        low, high = self.review_band
        problems = [
            (self.threshold is not None and not 0.0 < self.threshold < 1.0, "--threshold must lie between 0 and 1"),
            (not 0.0 <= low <= high <= 1.0, "--review-band must be two probabilities, such as 0.2..0.8"),
            (self.tta not in (1, 8), "--tta must be 1 or 8"),
            (self.batch_size is not None and not 1 <= self.batch_size <= 1024, "--batch-size must be 1 to 1024"),
            (self.max_batch is not None and not 1 <= self.max_batch <= 1024, "--max-batch must be 1 to 1024"),
            (
                self.batch_size is not None and self.max_batch is not None and self.batch_size > self.max_batch,
                f"--batch-size {self.batch_size} is more than --max-batch {self.max_batch}",
            ),
            (
                self.fixed_batch and len({self.batch_size, self.max_batch} - {None}) > 1,
                f"--fixed-batch runs one batch size, and --batch-size {self.batch_size} is not --max-batch "
                f"{self.max_batch}: give one of them",
            ),
            (self.workers is not None and not 1 <= self.workers <= 512, "--workers must be 1 to 512"),
            (not self.decode_timeout_s > 0, "--decode-timeout must be more than 0 seconds"),
            (self.resume and self.overwrite, "--resume and --overwrite exclude each other"),
            (self.decode_in not in DECODE_CHOICES, f"--decode-in must be one of {', '.join(DECODE_CHOICES)}"),
            (self.heatmaps_for not in HEATMAP_CHOICES, f"--heatmaps-for must be one of {', '.join(HEATMAP_CHOICES)}"),
        ]
        problems += [
            (name not in FORMATS, f"--format {name!r} is unknown: use csv, csv-bom, jsonl or parquet")
            for name in self.formats
        ]
        for wrong, message in problems:
            if wrong:
                raise UsageError(f"{message}. See: glomedge infer --help")
        try:
            str(self.model).encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(
                f"The model's path {escape_name(bytes(self.model))} is not UTF-8, and onnxruntime opens no such file. "
                "Rename it."
            ) from None
        if self.case_pattern is not None:
            compile_case_pattern(self.case_pattern)
        if "parquet" in self.formats and importlib.util.find_spec("pyarrow") is None:
            # Not after a night of predicting.
            raise MissingExtraError("--format parquet", "pyarrow", "parquet")
