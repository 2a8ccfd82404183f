"""The pictures of the docs are those that ``make pictures`` makes; each picture has a drawer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.pictures import remake
from helpers.paths import ROOT

IMAGES = ROOT / "docs" / "images"


@pytest.mark.slow
def test_drawn_pictures_are_what_the_script_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remake, "IMAGES", tmp_path)
    assert remake.main([]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"synthetic.jpg", "recipes.jpg"}
    for path in tmp_path.iterdir():
        made, kept = (np.asarray(cv2.imread(str(folder / path.name)), np.int16) for folder in (tmp_path, IMAGES))
        assert made.shape == kept.shape
        assert np.abs(made - kept).mean() < 2.0  # another version of OpenCV writes other JPEGs


def test_every_picture_has_a_drawer() -> None:
    source = "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks" / "pictures").glob("*.py"))
    for picture in IMAGES.iterdir():
        assert picture.name in source, picture.name
