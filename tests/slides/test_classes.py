"""Which outlines of a file are glomeruli."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.errors import UsageError
from glomedge.slides.annotations.classes import Choice, choose, is_known, label_of, survey
from glomedge.slides.annotations.outline import Label, Outline, build

SQUARE = [[[(0, 0), (9, 0), (9, 9), (0, 9)]]]


def outlines(*classes: str, layer: str = "") -> list[Outline]:
    return [build(Label(class_name=name, layer=layer), "aperio", at, SQUARE) for at, name in enumerate(classes)]


def chosen(found: list[Outline], *wanted: str) -> Choice:
    return choose("a.json", survey(found), wanted)


@pytest.mark.parametrize(
    ("name", "known", "label"),
    [
        ("globally_sclerotic_glomeruli", True, 1),
        ("non_globally_sclerotic_glomeruli", True, 0),
        ("Non-globally sclerotic glomerulus", True, 0),
        ("Globally sclerotic", True, 1),
        ("not globally sclerosed", True, 0),
        ("Glomerulus", True, None),
        ("glomeruli", True, None),
        ("GLOM", True, None),
        ("Glomerulus: Globally sclerotic", True, 1),
        ("Globally sclerotic: Non globally sclerotic", True, None),
        ("sclerotic glomeruli", True, None),
        ("segmentally sclerotic glomeruli", True, None),
        ("tubules", False, None),
        ("glomerular capsule", False, None),
        ("no glomerulus", False, None),
        ("", False, None),
    ],
)
def test_known_names(name: str, known: bool, label: int | None) -> None:
    assert (is_known(name), label_of(name)) == (known, label)


def test_known_classes_are_taken_and_others_counted() -> None:
    found = outlines("Glomerulus", "tubules", "globally_sclerotic_glomeruli", "tubules", "")
    choice = chosen(found)
    assert choice.taken == {"Glomerulus": 1, "globally_sclerotic_glomeruli": 1}
    assert choice.left_out == {"tubules": 2, "Unclassified": 1}
    assert [choice.takes(outline) for outline in found] == [True, False, True, False, False]
    assert "tubules (2)" in choice.sentence()


def test_named_classes_are_taken_instead() -> None:
    found = outlines("Glomerulus", "My_Class", "", "Glomerulus: GS")
    assert chosen(found, "my class").taken == {"My_Class": 1}
    assert chosen(found, "unclassified").taken == {"Unclassified": 1}
    assert chosen(found, "glomerulus").taken == {"Glomerulus": 1, "Glomerulus: GS": 1}


def test_a_named_class_that_is_not_there_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"no class Glomeruli; it has Glomerulus \(1\)"):
        chosen(outlines("Glomerulus"), "Glomerulus", "Glomeruli")


def test_a_file_without_any_class_holds_glomeruli() -> None:
    assert chosen(outlines("", "")).taken == {"Unclassified": 2}
    assert chosen(outlines("", layer="1")).taken == {"layer 1": 1}


def test_several_layers_without_names_are_not_guessed_at() -> None:
    found = [*outlines("", layer="1"), *outlines("", layer="2")]
    with pytest.raises(UsageError, match=r"--class 'layer 1'"):
        chosen(found)
    assert chosen(found, "layer 2").taken == {"layer 2": 1}


def test_unclassified_are_those_on_layers_without_a_name_too() -> None:
    found = [*outlines("", layer="1"), *outlines("tubules"), *outlines("", layer="2"), *outlines("")]
    choice = chosen(found, "Unclassified")
    assert choice.taken == {"layer 1": 1, "layer 2": 1, "Unclassified": 1}
    assert choice.left_out == {"tubules": 1}
    with pytest.raises(UsageError, match="no class Unclassified"):
        chosen(outlines("tubules"), "Unclassified")


def test_no_known_class_is_an_error_that_lists_them() -> None:
    with pytest.raises(UsageError, match=r"tubules \(2\), arteries \(1\).*--class"):
        chosen(outlines("tubules", "arteries", "tubules"))


def test_no_outline_at_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no outline"):
        chosen([])
