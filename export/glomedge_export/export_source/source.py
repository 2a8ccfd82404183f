"""The model behind an export, ours or another's, and what was said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.errors import UsageError
from glomedge.model.spec import ModelSource, OperatingPoint, Recipe, RecipeName
from glomedge_export.graph.anatomy import Choices
from glomedge_export.graph.convert import Converted
from glomedge_export.proof.reference import Reference
from glomedge_export.training.decision import parse_rule
from glomedge_export.training_record import TrainingRecord

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class Said:
    """What the user says about a model, because its file may not.

    Attributes:
        recipe: colour enhancement of its crops.
        choices: scaling, logits, class order.
        side_px: of the input, for a model that leaves it open.
        threshold: a number, or a rule of ``decision.choose_threshold`` to fit on labelled crops.
        data: labelled crops.
        case_pattern: how biopsies are named in ``data``.
    """

    recipe: RecipeName | None = None
    choices: Choices = field(default_factory=Choices)
    side_px: int | None = None
    threshold: str | None = None
    data: Path | None = None
    case_pattern: str | None = None

    def about_a_foreign_model(self) -> list[str]:
        """The options among these that only a model of another origin takes."""
        given = {
            "--input-scaling": self.choices.input_scaling,
            "--logits": self.choices.logits or None,
            "--positive-class": self.choices.positive_class,
            "--input-side": self.side_px,
            "--case-pattern": self.case_pattern,
        }
        return [name for name, value in given.items() if value is not None]


@dataclass(frozen=True)
class Source:
    """The model and everything known about it.

    Attributes:
        reference: the framework that answers for it.
        convert: its float32 graph.
        weights_sha256: of that graph's model, the same for every precision.
        key: under which a conversion may be used again.
        recipe: colour enhancement of its crops.
        threshold: label 1 where probability is at or above it.
        temperature: probability is sigmoid(logit / temperature).
        record: its training record, None if there is none.
        origin: where a model that glomedge did not train comes from.
        operating_point: counts on held-out crops, None if unknown.
        found: what was read off the model, in words.
    """

    reference: Reference
    convert: Callable[[], Converted]
    weights_sha256: Callable[[Converted], str]
    key: str
    recipe: Recipe
    threshold: float
    temperature: float
    record: TrainingRecord | None = None
    origin: ModelSource | None = None
    operating_point: OperatingPoint | None = None
    found: tuple[str, ...] = ()


def fixed_threshold(said: Said) -> float:
    """The threshold where it is no rule; 0.5 where nothing was said, or where it is fitted later.

    Raises:
        UsageError: not a threshold, or a rule without crops to fit it on.
    """
    if said.threshold is None:
        return DEFAULT_THRESHOLD
    value = parse_rule(said.threshold)
    if value is None and said.data is None:
        raise UsageError(
            f"The threshold rule {said.threshold!r} is fitted on labelled crops. Give them with --data DIR, or give a "
            "number such as --threshold 0.5."
        )
    return DEFAULT_THRESHOLD if value is None else value
