"""The site's scores: which crops ``recalibrate`` takes them from, and ``infer``'s comparison of a night with them."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from glomedge.cases import drift
from glomedge.cases.decision import sigmoid
from glomedge.cases.names import CaseFinder
from glomedge.model.crop_digests import among
from glomedge.model.site_calibration import SiteCalibration, SiteScores
from glomedge.model.spec import ModelSpec
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.rows import RowBlock
from glomedge.runs.options import Options
from glomedge.runs.scores import logit_of

MAX_CROPS = 3000
"""Scored by ``recalibrate`` besides the labelled ones: whole biopsies in a drawn order, up to this many crops."""

NO_SCORES = (
    f"The scores of the site are not kept, and infer will not compare a night with them: that takes a folder with "
    f"{drift.MIN_BIOPSIES} biopsies or more of {drift.MIN_CROPS_OF_A_BIOPSY} crops, and not only crops chosen to be "
    "labelled."
)

_CHOSEN_ONLY = 1.5
"""Labels whose weights sum to this many times the crops of the folder were chosen from more crops than are there."""


def reference_crops(inputs: Sequence[Found], finder: CaseFinder, weights: Sequence[float]) -> list[Found]:
    """The crops of a folder whose scores stand for the site's; none where they are but the ones chosen for labelling.

    Args:
        inputs: of the folder.
        finder: of their biopsies.
        weights: of the labelled crops.
    """
    if sum(weights) > _CHOSEN_ONLY * len(inputs):
        return []
    of_case: dict[str, list[Found]] = defaultdict(list)
    for found in inputs:
        of_case[finder.case_of(found.key).case].append(found)
    names = sorted(of_case)
    taken: list[Found] = []
    for place in np.random.default_rng(0).permutation(len(names)).tolist():
        crops = of_case[names[place]]
        if len(taken) + len(crops) <= MAX_CROPS:
            taken += crops
    return taken


def site_scores(
    parent: ModelSpec, line: tuple[float, float], threshold: float, answers: Sequence[Answer], finder: CaseFinder
) -> SiteScores | None:
    """What a recalibrated file keeps of its site's scores; None where there are too few biopsies.

    Args:
        parent: of the model that gave the answers; crops that it was trained on are left out.
        line: slope and offset of the recalibration.
        threshold: of the recalibrated model.
        answers: of the crops of ``reference_crops``.
        finder: of their biopsies.
    """
    training, seen = parent.training, set[str]()
    if training is not None and training.crop_digests is not None:
        seen = among(training.crop_digests, [answer.sha256 for answer in answers if answer.sha256 is not None])
    of_case: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        if answer.probability is not None and answer.sha256 not in seen:
            logit = line[0] * logit_of(parent, answer) + line[1]
            of_case[finder.case_of(answer.found.key).case].append(float(sigmoid(logit)))
    return drift.scores_of(of_case, threshold)


@dataclass
class NightScores:
    """The probabilities of a run, by biopsy, to be compared with the site's.

    Attributes:
        site: of the model.
        threshold: the model's.
        probabilities: biopsy -> of its crops, as far as they were classified.
    """

    site: SiteCalibration
    threshold: float
    probabilities: Mapping[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))

    @classmethod
    def of(cls, spec: ModelSpec, options: Options) -> NightScores | None:
        """None where nothing is compared: no ``--site``, or a model that was not recalibrated for it."""
        if spec.site is None or options.site != spec.site.site:
            return None
        return cls(spec.site, spec.threshold)

    def add(self, block: RowBlock) -> None:
        """Take rows."""
        for (case, _), probability in zip(block.cases, block.probabilities, strict=True):
            if probability is not None:
                self.probabilities[case].append(probability)

    def compare(self, views: int) -> tuple[dict[str, Any], list[str]]:
        """``drift`` of ``run.json``, and the notes for screen and report: none without a drift.

        Args:
            views: of each crop (``--tta``); the site's scores are of one.
        """
        reference = self.site.scores
        why: str | None = None
        if reference is None:
            why = "the model file keeps no scores of its site: recalibrate it again from a folder of more biopsies"
        elif views > 1:
            why = f"the scores are means over {views} views, and those of the site are of one"
        else:
            found = drift.compare(reference, self.probabilities, self.threshold)
            if isinstance(found, drift.Drift):
                return _as_json(found, reference), [_note(self.site.site, found)] if found.found else []
            why = found
        return {"compared": False, "why": why}, []


def _as_json(found: drift.Drift, reference: SiteScores) -> dict[str, Any]:
    return {
        "compared": True,
        "found": found.found,
        "test": "permutation of biopsies, greatest standardised rank sum of not_called and distance",
        "alarm_at_or_below": drift.ALARM_BELOW,
        **asdict(found),
        "deciles": list(found.deciles),
        "reference_crops": reference.crops,
        "reference_deciles": list(reference.deciles),
    }


def _note(site: str, found: drift.Drift) -> str:
    return (
        f"CHECK: these scores differ from those that the model was recalibrated on for {site} (p = {found.p_value:.4f} "
        f"over {found.biopsies} biopsies against {found.reference_biopsies}; by chance in at most "
        f"{round(100 * drift.ALARM_BELOW)} of 100 runs). Medians over biopsies, now and then: logit of the crops not "
        f"called {found.not_called:+.1f} and {found.reference_not_called:+.1f}, distance from the threshold "
        f"{found.distance:.1f} and {found.reference_distance:.1f}. Stain, scanner or patients may have changed: label "
        "30 of these crops and evaluate the model on them before the percentages are used."
    )
