"""The model card: the metadata of a model file, to be read before the model is used.

Sections after Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019). Made from the spec alone, so that it
contains nothing that is not in the file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from markupsafe import Markup, escape

from glomedge.model import origin, site
from glomedge.model.gate_table import table
from glomedge.model.spec import Interval, ModelSpec
from glomedge.reports import html


@dataclass(frozen=True)
class _Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Bullets:
    lines: tuple[str, ...]


# A paragraph is a str; in it and in cells, `code` and *emphasis* as in Markdown.
_Block = str | _Table | _Bullets


def markdown(spec: ModelSpec, name: str, sha256: str) -> str:
    """The card as Markdown.

    Args:
        spec: of the model file.
        name: file name, for the title.
        sha256: of the model, as runners name it.
    """
    parts = [f"# Model card: {name}", f"**{spec.notice}**"]
    for title, blocks in _sections(spec, sha256):
        parts.append(f"## {title}")
        parts += [_block_markdown(block) for block in blocks]
    return "\n\n".join(parts) + "\n"


def fragment(spec: ModelSpec, name: str, sha256: str) -> Markup:
    """The same card as a collapsed HTML section of a page."""
    return Markup(html.render("model_card.html", name=name, sections=_sections(spec, sha256), inline=_inline))


def _block_markdown(block: _Block) -> str:
    if isinstance(block, _Table):
        head, *rows = (
            f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in (block.head, *block.rows)
        )
        return "\n".join([head, f"|{'---|' * len(block.head)}", *rows])
    if isinstance(block, _Bullets):
        return "\n".join(f"- {line}" for line in block.lines)
    return block


def _inline(text: str) -> Markup:
    """Escaped, with ``code`` and *emphasis* as elements."""
    marked = re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text)))
    return Markup(re.sub(r"\*([^*]+)\*", r"<em>\1</em>", marked))


def _sections(spec: ModelSpec, sha256: str) -> list[tuple[str, list[_Block]]]:
    return [
        ("Model", [_Table(("", ""), tuple(_identity(spec, sha256)))]),
        (
            "Intended use",
            [
                "Research on crops of single kidney glomeruli cut from whole-slide images, stained and scanned like "
                f"those trained on: is the glomerulus *{spec.class_names[1]}* or *{spec.class_names[0]}*, and from "
                "that the share of globally sclerotic glomeruli of a biopsy (%GS), with its interval. The reader is "
                "a pathologist or an engineer who checks it against the slides."
            ],
        ),
        (
            "Not intended for",
            [
                "Diagnosis, or accepting or discarding an organ. Whole slides, stains absent from the training data, "
                "other organs, crops that contain several glomeruli or none. Segmental sclerosis (HP:0004737) is not "
                "global sclerosis and is not reported separately."
            ],
        ),
        *_site(spec),
        ("Preprocessing", [_preprocessing(spec)]),
        ("Training data and recipe", _training(spec)),
        ("Metrics", _metrics(spec)),
        ("Precision and parity", _parity(spec)),
        ("Limits", [_limits(spec)]),
    ]


def _identity(spec: ModelSpec, sha256: str) -> list[tuple[str, str]]:
    said = [("source", origin.source(spec)), ("unknown", origin.unknown(spec))]
    return [
        ("network", f"{origin.network(spec)}, {spec.multiply_adds / 1e9:.3f} billion multiply-adds per crop"),
        ("precision", f"{spec.precision}, laid out for {spec.target} (opset {spec.opset})"),
        ("decision", f"{spec.class_names[1]} where probability >= {spec.threshold:g}"),
        (
            "temperature",
            f"{spec.temperature:g}" + (" (not calibrated)" if spec.temperature == 1.0 and spec.site is None else ""),
        ),
        *([("scale", f"trained on crops of {spec.mpp:g} microns per pixel")] if spec.mpp is not None else []),
        ("made by", f"{spec.producer}, {spec.created_utc}"),
        ("file SHA-256", f"`{sha256}`"),
        ("weights SHA-256", f"`{spec.weights_sha256}`"),
        *((name, sentence) for name, sentence in said if sentence is not None),
    ]


def _site(spec: ModelSpec) -> list[tuple[str, list[_Block]]]:
    lines = site.recalibration(spec)
    if not lines:
        return []
    lines.append("Metrics, precision and parity below were measured on the model before it was recalibrated.")
    return [("Recalibrated for one site", [_Bullets(tuple(lines))])]


def _preprocessing(spec: ModelSpec) -> str:
    recipe = spec.recipe
    steps = [f"recipe `{recipe.name}`: resized to {recipe.size_px} x {recipe.size_px} pixels"]
    if recipe.equalise:
        steps.append("histogram of luma equalised")
    if recipe.saturation_factor != 1.0:
        steps.append(f"saturation x {recipe.saturation_factor:g}")
    if recipe.hue_degrees:
        steps.append(f"hue {recipe.hue_degrees:+g} degrees")
    scaling = f"`{spec.input_scaling}`"
    if (affine := spec.input_affine) is not None:
        numbers = [" ".join(f"{value:g}" for value in values) for values in (affine.scale, affine.offset)]
        scaling += f" ({affine.channel_order}, times {numbers[0]}, plus {numbers[1]})"
    return f"{', '.join(steps)}; input scaling {scaling} inside the file."


def _training(spec: ModelSpec) -> list[_Block]:
    training = spec.training
    if training is None:
        return ["Unknown: the Keras model came without a training record of glomedge."]
    rows = [
        (side, str(counts.crops), str(counts.positive), str(counts.cases)) for side, counts in training.splits.items()
    ]
    pretrained = f", all layers trained for {training.pretrain_epochs} epochs" if training.pretrain_epochs else ""
    if training.pretrain_window_px is not None:
        pretrained += f" on windows of {training.pretrain_window_px} pixels"
    fit = (
        f"{training.optimizer}, learning rate {training.learning_rate:g}, batch {training.batch_size}, best of "
        f"{training.epochs} epochs: {training.best_epoch}. "
        if training.epochs
        else f"Batch {training.batch_size}; no fit followed. "
    )
    return [
        f"`{training.data_name}` (SHA-256 `{training.data_sha256}`), split by {training.split_method}, seed "
        f"{training.seed}. Initial weights: {training.weights}{pretrained}. "
        f"{fit}Threshold rule: {training.threshold_rule}.",
        _Table(("split", "crops", "globally sclerotic", "biopsies"), tuple(rows)),
    ]


def _interval(value: Interval) -> str:
    if value.low is None or value.high is None:
        return f"{value.value:.4g}"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _metrics(spec: ModelSpec) -> list[_Block]:
    parts: list[_Block] = []
    if spec.training is not None and spec.training.metrics:
        rows = [(name.replace("_", " "), _interval(value)) for name, value in spec.training.metrics.items()]
        parts.append("On the test split, with 95% intervals if computed:")
        parts.append(_Table(("metric", "value"), tuple(rows)))
    if spec.operating_point is not None:
        point = spec.operating_point
        parts.append(
            f"At the threshold, on {_whose(spec)}: {point.true_positive} true positive, {point.false_negative} false "
            f"negative, {point.true_negative} true negative, {point.false_positive} false positive."
        )
    return parts or ["None were measured."]


def _is_calibrated(spec: ModelSpec) -> bool:
    return spec.temperature != 1.0 or spec.site is not None


def _whose(spec: ModelSpec) -> str:
    return "held-out crops" if spec.site is None else f"the labelled crops of {spec.site.site}"


def _parity(spec: ModelSpec) -> list[_Block]:
    if spec.parity is None:
        return ["Not measured."]
    parts: list[_Block] = [
        f"Compared with {spec.parity.reference} on {spec.parity.crops} crops of {spec.parity.cases} biopsies "
        f"({spec.parity.source}); the reference's probabilities span a range of {spec.parity.probability_spread:.2f}."
    ]
    shown = [
        (
            row.name,
            "not measured" if row.measured is None else f"{row.measured:.3g}",
            "reported only" if row.limit is None else f"{row.limit:g}",
            row.note,
        )
        for row in table(spec.parity)
    ]
    parts.append(_Table(("gate", "measured", "limit", ""), tuple(shown)))
    if spec.calibration is not None:
        parts.append(
            f"Quantised with {spec.calibration.method} ranges from {spec.calibration.crops} crops of "
            f"{spec.calibration.cases} biopsies of the training split (SHA-256 of their names "
            f"`{spec.calibration.names_sha256}`; the list is in the spec)."
        )
    return parts


def _limits(spec: ModelSpec) -> _Bullets:
    lines = [
        "A percentage of few glomeruli is uncertain: 5 globally sclerotic of 25 give 20%, with a 95% interval of "
        "9 to 39%. Read the interval, not only the percentage.",
        "Stain, scanner and cutting differ between laboratories; these figures hold for crops like the training data.",
    ]
    if site.site_of(spec) is None:
        lines.append(site.NOT_CALIBRATED)
    if spec.map_shape is not None:
        lines.append(
            f"The activation map shows which of {spec.map_cells} x {spec.map_cells} areas influenced the result. "
            "It does not outline a lesion."
        )
    else:
        lines.append("This network has no exact activation map, so nothing shows which areas influenced the result.")
    if spec.training is not None and spec.training.split_method == "random":
        lines.append("The split was random: crops of one biopsy are on both sides, so the metrics are optimistic.")
    if not _is_calibrated(spec):
        lines.append("The probability is not calibrated: 0.8 does not mean that 8 of 10 such crops are positive.")
    if spec.parity is not None and spec.parity.source.startswith("drawn"):
        lines.append("Parity was measured on drawn crops: export with --data DATA to measure it on real crops.")
    return _Bullets(tuple(lines))
