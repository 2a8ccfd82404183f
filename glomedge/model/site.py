"""What a model file says of the site that it was recalibrated for, in words that card, screen and report share."""

from __future__ import annotations

import math

from glomedge.model.spec import ModelSpec


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
    ]
