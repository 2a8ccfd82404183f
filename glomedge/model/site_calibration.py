"""The part of the spec that a recalibrated model has and no other."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glomedge.model.frozen import Frozen, Sha256


class SiteScores(Frozen):
    """How the recalibrated model scored the crops of its site: what a later run is compared with (``cases.drift``).

    No crop and no biopsy is named. Logits are ``ln(p / (1 - p))`` of the recalibrated probability.

    Attributes:
        crops: how many, in the biopsies below.
        deciles: of their logits: least, 10%, ..., 90%, greatest.
        biopsies: of each biopsy the median logit of the crops that are not called, and the mean distance of all from
            the threshold's logit (``cases.drift.summary``); sorted.
    """

    crops: int = Field(ge=1)
    deciles: tuple[float, ...] = Field(min_length=11, max_length=11)
    biopsies: tuple[tuple[float, float], ...] = Field(min_length=1, max_length=1000)


class SiteCalibration(Frozen):
    """The recalibration of a finished model to one site (``glomedge recalibrate``, ``cases.recalibration``).

    ``probability = sigmoid(slope * logit / temperature + offset)``, ``logit`` being the mean of the activation map.

    Attributes:
        site: its name, as given.
        created_utc: when.
        parent_sha256: of the model file that was recalibrated, as runners name it.
        readers: who labelled, as far as the labels say.
        labels_sha256: of the file of labels.
        crops, positive, cases: labelled crops, those of them that are globally sclerotic, and their biopsies.
        effective_crops: how many crops of equal weight they are worth (Kish).
        slope, offset: fitted on the logit.
        covariance: of (slope, offset), by Laplace's approximation.
        prior_log_slope_sd, prior_offset_sd: standard deviations of the normal priors; their means are 0.
        threshold_rule: that gave the threshold.
        counts_from: how the operating point was counted.
        scores: of the site's crops; None where the folder had too few biopsies, and in files of earlier versions.
    """

    site: str = Field(min_length=1, max_length=100)
    created_utc: str
    parent_sha256: Sha256
    readers: tuple[str, ...] = ()
    labels_sha256: Sha256
    crops: int = Field(ge=1)
    positive: int = Field(ge=1)
    cases: int = Field(ge=1)
    effective_crops: float = Field(gt=0.0)
    slope: float = Field(gt=0.0, le=100.0)
    offset: float = Field(ge=-100.0, le=100.0)
    covariance: tuple[tuple[float, float], tuple[float, float]]
    prior_log_slope_sd: float = Field(gt=0.0)
    prior_offset_sd: float = Field(gt=0.0)
    threshold_rule: str
    counts_from: Literal["biopsies left out in turn"] = "biopsies left out in turn"
    scores: SiteScores | None = None
