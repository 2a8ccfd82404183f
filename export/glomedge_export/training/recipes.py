"""Recipes as the command line gives them: a name, and parameters that differ from the named recipe's."""

from __future__ import annotations

from pydantic import ValidationError

from glomedge.errors import UsageError
from glomedge.model.spec import InputScaling, Recipe


def recipe_of(
    name: str,
    *,
    saturation_factor: float | None = None,
    hue_degrees: float | None = None,
    equalise: bool | None = None,
) -> Recipe:
    """The named recipe with the given parameters instead of its own.

    Raises:
        UsageError: unknown name, value out of range, or a parameter that ``published`` does not have.
    """
    changed: dict[str, float | bool] = {}
    if saturation_factor is not None:
        changed["saturation_factor"] = saturation_factor
    if hue_degrees is not None:
        changed["hue_degrees"] = hue_degrees
    if equalise is not None:
        changed["equalise"] = equalise
    if name == "published" and changed.keys() - {"saturation_factor"}:
        raise UsageError(
            "Recipe 'published' is fixed except for its saturation. Omit --hue-degrees and --equalise, or choose "
            "--recipe seed."
        )
    try:
        return Recipe.model_validate({**Recipe.named(name).model_dump(), **changed})
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"Recipe {first['loc'][0]}: {first['msg']}. Choose another value.") from error
    except ValueError as error:
        raise UsageError(f"{error}.") from error


def scaling_of(recipe_name: str) -> InputScaling:
    """The scaling that belongs to a recipe: ``resnet`` for seed, ``resnet_v2`` for published and plain."""
    return "resnet" if recipe_name == "seed" else "resnet_v2"
