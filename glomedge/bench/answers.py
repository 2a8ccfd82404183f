"""A configuration's decisions against those of the fp32 model on the CPU, so that fast wrong answers are noticed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glomedge.bench.record import ParityCheck
from glomedge.errors import ModelError
from glomedge.model.file import ModelFile, read_model_file

TOLERANCE = {"fp32": 1e-4, "fp16": 5e-2, "bf16": 5e-2, "int8": 0.25}
"""Largest difference of probability from fp32 on the CPU that passes, by precision. Another kernel's summation
order moves fp32 by 1e-6; for the others the number of flips decides, and this only catches a broken run."""
MAX_FLIP_FRACTION = {"fp32": 0.0, "fp16": 0.01, "bf16": 0.02, "int8": 0.05}
"""Flips that pass, as a fraction of the crops; export's own gate is stricter and has more crops."""


def compare_answers(
    reference_name: str,
    reference: Sequence[float | None],
    answers: Sequence[float | None],
    threshold: float,
    precision: str,
) -> ParityCheck:
    """Flips and the largest difference of two runs on the same crops; None stands for NaN or Inf and never passes."""
    pairs = [(a, b) for a, b in zip(reference, answers, strict=True) if a is not None and b is not None]
    nonfinite = sum(b is None for b in answers)
    flips = sum((a >= threshold) != (b >= threshold) for a, b in pairs)
    worst = max((abs(a - b) for a, b in pairs), default=0.0)
    allowed = int(MAX_FLIP_FRACTION.get(precision, 0.0) * len(answers))
    return ParityCheck(
        reference=reference_name,
        crops=len(answers),
        flips=flips,
        max_probability_difference=worst,
        nonfinite=nonfinite,
        tolerance_flips=allowed,
        passed=nonfinite == 0 and bool(pairs) and flips <= allowed and worst <= TOLERANCE.get(precision, 1e-4),
    )


def fp32_of(file: ModelFile, named: Sequence[Path]) -> ModelFile | None:
    """The fp32 file with the same weights: the file itself, one of ``--model``, or one in the same folder."""
    if file.spec.precision == "fp32":
        return file
    for path in [*named, *sorted(file.path.parent.glob("*.onnx"))]:
        try:
            other = read_model_file(path)
        except ModelError:
            continue
        if other.spec.precision == "fp32" and other.spec.weights_sha256 == file.spec.weights_sha256:
            return other
    return None
