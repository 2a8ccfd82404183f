"""What a model file says of the site that it was recalibrated for, in words that card, screen and report share."""

from __future__ import annotations

import math
import shlex

from glomedge.errors import UsageError
from glomedge.model.spec import ModelSpec

NOT_CALIBRATED = (
    "Not calibrated here, so no corrected percentage and no band is given: at a site whose stain or scanner a model "
    "does not know, it may call many glomeruli wrongly. Label 30 of your crops (glomedge label), run glomedge "
    "recalibrate, and give the new model with --site."
)
"""The two sentences of every output whose counts are not those of the site that the crops come from."""


def site_of(spec: ModelSpec) -> str | None:
    """Where the sensitivity and specificity in a model file were counted; None where that is not known."""
    if spec.site is not None:
        return spec.site.site
    return spec.training.site if spec.training is not None else None


def check_site(spec: ModelSpec, asked: str | None) -> None:
    """Raise UsageError where a model is asked for a site that its counts are not from."""
    counted_at = site_of(spec)
    if asked is None or (spec.operating_point is not None and asked == counted_at):
        return
    if counted_at is None:
        raise UsageError(
            f"--site {asked!r}: this model was never calibrated for a site. Label 30 crops with glomedge label and run "
            "glomedge recalibrate, or leave --site out."
        )
    raise UsageError(
        f"--site {asked!r}: this model is calibrated for {counted_at!r}. Correct the name or leave it out."
    )


def why_uncorrected(spec: ModelSpec) -> str:
    """Why a run without ``--site`` gives no corrected percentage, and what to do."""
    counted_at = site_of(spec)
    if counted_at is None or spec.operating_point is None:
        return NOT_CALIBRATED
    return (
        f"This model is calibrated for {counted_at}, and no --site was given: no percentage is corrected and no band "
        f"given. If these crops are from there, give --site {shlex.quote(counted_at)}; if not, recalibrate it for "
        "your own site."
    )


def recalibration(spec: ModelSpec) -> list[str]:
    """How the file came about from its parent, one sentence each; empty for a file that was never recalibrated."""
    site = spec.site
    if site is None:
        return []
    by = f", read by {', '.join(site.readers)}" if site.readers else ""
    slope_error, offset_error = (math.sqrt(site.covariance[i][i]) for i in range(2))
    point = spec.operating_point
    assert point is not None
    positives, negatives = (
        point.true_positive + point.false_negative,
        point.true_negative + point.false_positive,
    )
    return [
        f"Recalibrated for {site.site} on {site.created_utc} from the model of SHA-256 {site.parent_sha256}: same "
        "weights, other probabilities and threshold.",
        f"Fitted to {site.crops} labelled crops of {site.cases} biopsies, {site.positive} of them globally sclerotic"
        f"{by}; weighted, they are worth {site.effective_crops:.1f} crops. SHA-256 of the labels: "
        f"{site.labels_sha256}.",
        f"Logit times {site.slope:.3f} (standard error {slope_error:.3f}) plus {site.offset:+.3f} "
        f"({offset_error:.3f}); normal priors of standard deviation {site.prior_log_slope_sd:g} on the logarithm of "
        f"the slope and {site.prior_offset_sd:g} on the offset. Threshold rule: {site.threshold_rule}.",
        f"Sensitivity {point.true_positive} of {positives}, specificity {point.true_negative} of {negatives} at this "
        "threshold, each biopsy called by a fit without it. They hold for this site only.",
        "The scores of the site are not kept: infer cannot tell whether a night's differ."
        if site.scores is None
        else f"Scores of {site.scores.crops} crops of {len(site.scores.biopsies)} biopsies of the site are kept: infer "
        "compares a night of 100 crops or more with them.",
    ]
