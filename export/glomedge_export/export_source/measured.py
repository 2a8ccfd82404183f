"""Temperature, threshold and held-out counts of a foreign model, measured on labelled crops."""

from __future__ import annotations

from dataclasses import replace

from glomedge_export.data.export_crops import Crops
from glomedge_export.export_source.crops import ExportCrops
from glomedge_export.export_source.source import DEFAULT_THRESHOLD, Source
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.run import logits
from glomedge_export.progress import Progress
from glomedge_export.training.decision import choose_threshold, fit_temperature, parse_rule, sigmoid
from glomedge_export.training.metrics import operating_point


def measured(source: Source, converted: Converted, crops: ExportCrops, rule: str | None, progress: Progress) -> Source:
    """The source with what its labelled crops say; unchanged where there are none.

    Temperature and threshold are fitted on one half of the biopsies (``decision``), the counts are those of the other.

    Args:
        source: of a foreign model, temperature 1.
        converted: its float32 graph.
        crops: both halves.
        rule: of the threshold, see ``choose_threshold``; None for 0.5.
        progress: called with (stage, done, of).
    """
    if source.origin is None or crops.fitting is None or crops.counting is None:
        return source
    fitting, counting = (
        logits(converted.model, half.images_nhwc, progress) for half in (crops.fitting, crops.counting)
    )
    temperature = fit_temperature(fitting, crops.fitting.labels)
    threshold = choose_threshold(rule or str(DEFAULT_THRESHOLD), sigmoid(fitting, temperature), crops.fitting.labels)
    called = sigmoid(counting, temperature) >= threshold
    fitted = rule is not None and parse_rule(rule) is None
    origin = source.origin.model_copy(
        update={
            "temperature_from": "measured",
            "threshold_from": "measured" if fitted else source.origin.threshold_from,
        }
    )
    return replace(
        source,
        temperature=temperature,
        threshold=threshold,
        origin=origin,
        operating_point=operating_point(crops.counting.labels, called),
        found=(*source.found, *_sentences(temperature, threshold, crops.fitting, crops.counting)),
    )


def _sentences(temperature: float, threshold: float, fitting: Crops, counting: Crops) -> tuple[str, ...]:
    return (
        f"temperature {temperature:g}, threshold {threshold:.4g}: from {len(fitting)} crops of "
        f"{len(set(fitting.cases))} biopsies",
        f"counts at that threshold: from {len(counting)} other crops of {len(set(counting.cases))} other biopsies",
    )
