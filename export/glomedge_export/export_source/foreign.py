"""A model that glomedge did not train: what its file shows is read off it, everything else must be said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glomedge.errors import ModelError, UsageError
from glomedge.model.scaling import Scaling
from glomedge.model.spec import SIZE_PX, ModelSource, Recipe
from glomedge_export.export_source.source import Said, Source, fixed_threshold
from glomedge_export.graph.anatomy import Outside, missing
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.foreign import Survey, convert_foreign, graph_sha256, survey
from glomedge_export.graph.run import Answers, Images
from glomedge_export.graph.whole import logits_function
from glomedge_export.progress import Progress
from glomedge_export.proof.reference import Meaning, Reference, foreign_answers

if TYPE_CHECKING:
    from glomedge_export.keras_files.load import ForeignModel

INPUT_SIDE = "--input-side"
RECIPES = "--recipe seed, published or plain (how the crops were enhanced for training)"


def load_foreign(model: Path, said: Said) -> Source:
    """Load a Keras file, look at both ends of its network, and ask for what it does not show.

    Args:
        model: ``.keras``, ``.h5`` or a SavedModel folder.
        said: what the user says about it.

    Raises:
        ModelError: no Keras file, or a network that no model file can carry.
        UsageError: something must be said and was not (all of it in one message), or contradicts the model.
    """
    from glomedge_export.keras_files.load import load

    try:
        return source_of(load(model, said.side_px), said)
    except ModelError as error:
        if said.side_px is not None or INPUT_SIDE not in str(error):
            raise
    # Nothing that is read off the graph depends on the side: with any, the rest is known as well.
    source_of(load(model, SIZE_PX), said, (f"{INPUT_SIDE} PX (side of the input, which the model leaves open)",))
    raise AssertionError("a source whose side is unknown was accepted")


def source_of(model: ForeignModel, said: Said, unsaid: tuple[str, ...] = ()) -> Source:
    """The same for a model that is loaded already; ``unsaid`` is known to be missing."""
    threshold = fixed_threshold(said)
    surveyed = survey(model)
    wanted = [*unsaid, *missing(surveyed.outside, said.choices)]
    if said.recipe is None:
        wanted.insert(0, RECIPES)
    if said.recipe is None or wanted:
        raise UsageError(
            f"{model.file.path.name} does not say everything that a model file must. Give {_listed(wanted)}."
        )
    found = surveyed.outside.front.known
    given = Scaling.named(said.choices.input_scaling) if said.choices.input_scaling is not None else None
    choices = said.choices
    return Source(
        reference=_reference(model, surveyed, given, choices.positive_class if model.outputs == 2 else 0),
        convert=lambda: convert_foreign(surveyed, choices)[0],
        weights_sha256=lambda converted: graph_sha256(converted.model),
        key=f"{model.file.sha256} {model.side_px} {choices!r}",
        recipe=Recipe.named(said.recipe).model_copy(update={"size_px": model.side_px}),
        threshold=threshold,
        temperature=1.0,
        origin=ModelSource(
            file_format=model.file.file_format,
            framework=model.framework,
            file_sha256=model.file.sha256,
            recipe_from="given",
            scaling_from="given" if found is None else "found in the model",
            class_order_from="given" if model.outputs == 2 else "one output",
            threshold_from="given" if said.threshold is not None else "unknown",
        ),
        found=_found(model, surveyed.outside),
    )


def _listed(wanted: list[str]) -> str:
    return "; ".join(wanted[:-1]) + ("; and " if len(wanted) > 1 else "") + wanted[-1]


def _found(model: ForeignModel, outside: Outside) -> tuple[str, ...]:
    scaling, inner = outside.front.scaling, outside.front.behind_resizing
    names = {"sigmoid": "one probability", "softmax": "softmax over two classes", "linear": "no activation"}
    lines = [f"made by {model.framework}", f"input {model.side_px} x {model.side_px} px"]
    if scaling is not None:
        lines.append(f"scaling {scaling.name}: found in the model")
    if inner is not None:
        lines.append(f"scaling {inner.name}: found in the model, behind a resizing of its own, where it stays")
    lines.append(f"output: {names[outside.output.kind]}")
    return tuple(lines)


def _reference(model: ForeignModel, surveyed: Survey, given: Scaling | None, positive: int | None) -> Reference:
    kind = surveyed.outside.output.kind
    meaning = Meaning(given, kind == "linear", positive or 0)

    def answer(images: Images, temperature: float, progress: Progress) -> Answers:
        said = foreign_answers(model, meaning, images, progress)
        if temperature == 1.0:
            return said
        if said.logit is None:
            # A probability near 0 or 1 has no digits left to divide its logit by: asked for before the activation.
            inner = replace(meaning, logits=True)
            said = foreign_answers(logits_function(surveyed.frozen), inner, images, progress)
        assert said.logit is not None
        return replace(said, probability=(0.5 * (1.0 + np.tanh(0.5 * said.logit / temperature))).astype(np.float32))

    return Reference(model.framework, answer)


def with_network(source: Source, converted: Converted) -> Source:
    """The source of a foreign model with what its whole graph has shown as well."""
    if source.origin is None:
        return source
    cells = converted.map_cells
    activation = (
        f"activation map {cells} x {cells}, exact: the logit is linear in the feature map"
        if cells is not None
        else "no activation map: the layers behind the feature map are not linear"
    )
    return replace(source, found=(*source.found, f"network: {converted.backbone}", activation))


def with_fit(converted: Converted, source: Source) -> Converted:
    """The conversion with the temperature of its source, which was fitted after converting."""
    from glomedge_export.graph.ends import with_temperature

    if source.origin is None or source.temperature == 1.0:
        return converted
    return replace(converted, model=with_temperature(converted.model, source.temperature))
