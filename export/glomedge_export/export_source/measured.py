"""Temperature, threshold and held-out counts of a foreign model, measured on labelled crops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from glomedge.cases.biopsy_metrics import operating_point
from glomedge.cases.decision import TEMPERATURE_RANGE, choose_threshold, fit_temperature, parse_rule, sigmoid
from glomedge.model.spec import Recipe
from glomedge_export.data.dataset import Item
from glomedge_export.data.export_crops import enhanced
from glomedge_export.export_source.crops import ExportCrops
from glomedge_export.export_source.source import DEFAULT_THRESHOLD, Source
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.run import Images, logits_runner
from glomedge_export.progress import Progress

Floats = npt.NDArray[np.float64]
# Crops whose pixels are held at once: 0.8 GB at 1,024 px.
CHUNK = 256
# A moved threshold nearer to 0 or 1 has no room for float32 probabilities on its other side.
_MOST_EXTREME = 1e-6


def measured(source: Source, converted: Converted, crops: ExportCrops, rule: str | None, progress: Progress) -> Source:
    """The source with what its labelled crops say; unchanged where there are none.

    Temperature and threshold are fitted on one half of the biopsies (``decision``), the counts are those of the other.
    A threshold that is given as a number is one of the model's own probability: it moves with the temperature, so that
    no decision changes.

    Args:
        source: of a foreign model, temperature 1.
        converted: its float32 graph.
        crops: both halves.
        rule: of the threshold, see ``choose_threshold``; None for 0.5.
        progress: called with (stage, done, of).
    """
    if source.origin is None or crops.fitting is None or crops.counting is None:
        return source
    run, known = logits_runner(converted.model), crops.decoded()
    fitting, counting = (_logits(run, half, source.recipe, known, progress) for half in (crops.fitting, crops.counting))
    labels = np.array([item.label for item in crops.fitting], np.int64)
    given = parse_rule(rule) if rule is not None else None
    temperature, unusable = _temperature(fitting, labels, given)
    fitted = rule is not None and given is None
    if fitted:
        threshold = choose_threshold(str(rule), sigmoid(fitting, temperature), labels)
    else:
        threshold = DEFAULT_THRESHOLD if given is None else moved(given, temperature)
    called = sigmoid(counting, temperature) >= threshold
    origin = source.origin.model_copy(
        update={
            "temperature_from": "unknown" if unusable else "measured",
            "threshold_from": "measured" if fitted else source.origin.threshold_from,
        }
    )
    on = f"from {_words(crops.fitting)}"
    said = f"temperature {temperature:g}: {unusable or on}"
    return replace(
        source,
        temperature=temperature,
        threshold=threshold,
        origin=origin,
        operating_point=operating_point(np.array([item.label for item in crops.counting], np.int64), called),
        found=(
            *source.found,
            said,
            f"threshold {threshold:.4g}: {on if fitted else _origin(given, temperature)}",
            f"counts at that threshold: from {_words(crops.counting, 'other ')}",
        ),
    )


def moved(threshold: float, temperature: float) -> float:
    """The threshold on ``sigmoid(logit / temperature)`` that decides as ``threshold`` does on ``sigmoid(logit)``."""
    if temperature == 1.0:
        return threshold
    return float(sigmoid(np.log(threshold / (1.0 - threshold)), temperature))


def _temperature(logits: Floats, labels: npt.NDArray[np.int64], given: float | None) -> tuple[float, str | None]:
    """The fitted temperature and None, or 1 and why that one is not used."""
    low, high = TEMPERATURE_RANGE
    fitted = fit_temperature(logits, labels)
    if not low * 1.001 < fitted < high * 0.999:
        return 1.0, f"unknown, because the crops show none between {low:g} and {high:g}"
    if given is not None and not _MOST_EXTREME <= moved(given, fitted) <= 1.0 - _MOST_EXTREME:
        return 1.0, f"unknown, because at the measured one, {fitted:g}, the given threshold {given:g} has no place"
    return fitted, None


def _logits(
    run: Callable[[Images], Floats],
    items: Sequence[Item],
    recipe: Recipe,
    known: dict[str, Images],
    progress: Progress,
) -> Floats:
    """float64 ``[N]``, with the pixels of ``CHUNK`` crops at a time."""
    parts = []
    for start in range(0, len(items), CHUNK):
        parts.append(run(enhanced(items[start : start + CHUNK], recipe, known=known)))
        progress("logits", min(start + CHUNK, len(items)), len(items))
    return np.concatenate(parts)


def _origin(given: float | None, temperature: float) -> str:
    if given is None:
        return "nothing was given"
    if temperature == 1.0:
        return "given"
    return f"given as {given:g} of the model's own probability, moved with the temperature so that no decision changes"


def _words(items: Sequence[Item], other: str = "") -> str:
    return f"{len(items)} {other}crops of {len({item.case for item in items})} {other}biopsies"
