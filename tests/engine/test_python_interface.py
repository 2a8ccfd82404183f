"""``glomedge.load`` and ``predict`` as programs use them: one crop or many, in any of the usual forms."""

from __future__ import annotations

import copy
import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import glomedge
from glomedge.engine import golden
from glomedge.engine.engine import Engine
from glomedge.engine.predict import Prediction
from glomedge.imaging import images


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Engine]:
    with glomedge.load(tiny_model, "cpu") as engine:
        yield engine


@pytest.fixture
def crop() -> npt.NDArray[np.uint8]:
    return golden.draw_crop(0)


@pytest.fixture
def path(tmp_path: Path, crop: npt.NDArray[np.uint8]) -> Path:
    Image.fromarray(crop).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_one_crop_in_every_form_is_one_answer(model: Engine, path: Path, crop: npt.NDArray[np.uint8]) -> None:
    data = path.read_bytes()
    with Image.open(path) as opened:
        forms: list[Any] = [
            str(path), path, os.fsencode(path), crop, Image.fromarray(crop), opened, data, bytearray(data),
            memoryview(data),
        ]  # fmt: skip
        (expected,) = model.predict([path])
        assert expected.probability is not None
        for form in forms:
            assert model.predict(form) == [expected], type(form)
        assert model.predict(forms) == [expected] * len(forms)
        assert model.predict(iter(forms)) == [expected] * len(forms)
    assert model.predict(np.stack([crop, crop])) == [expected] * 2


@pytest.mark.parametrize("item", [None, 5, 2.5, {"path": "a.png"}, object(), {1, 2}, ["a.png"]])
def test_what_is_no_crop_is_that_items_answer(model: Engine, path: Path, item: Any) -> None:
    bad, good = model.predict([item, path])
    assert bad.status == "error:type"
    assert type(item).__name__ in bad.message
    assert "PIL image" in bad.message
    assert good.probability is not None


@pytest.mark.parametrize("item", [None, 5, {"path": "a.png"}, object()])
def test_it_alone_is_an_answer_too(model: Engine, item: Any) -> None:
    (answer,) = model.predict(item)
    assert answer.status == "error:type"


@pytest.mark.parametrize(
    ("shape", "dtype"), [((40, 40), np.uint8), ((40, 40, 4), np.uint8), ((40, 40, 3), np.float32), ((3,), np.uint8)]
)
def test_an_array_of_another_shape_is_one_error(model: Engine, shape: tuple[int, ...], dtype: Any) -> None:
    (answer,) = model.predict(np.zeros(shape, dtype))
    assert answer.status == "error:format"


def test_bytes_that_are_no_image_are_one_error(model: Engine, path: Path) -> None:
    answers = model.predict([b"", path.read_bytes()[:200], b"\0" * 50, b"no-such-file.png", bytearray(b"hello")])
    assert [answer.status for answer in answers] == [
        "error:format", "error:truncated", "error:format", "error:vanished", "error:format",
    ]  # fmt: skip


def test_a_link_given_by_name_is_read(model: Engine, path: Path, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(path)
    assert model.predict(tmp_path / "link.png") == model.predict(path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "away.png").symlink_to(tmp_path / "gone.png")
    answers = model.predict([tmp_path / "loop.png", tmp_path / "away.png", tmp_path])
    assert [answer.status for answer in answers] == ["error:not_regular", "error:vanished", "error:not_regular"]


def _variants(crop: npt.NDArray[np.uint8]) -> dict[str, Image.Image]:
    rgb = Image.fromarray(crop)
    alpha = rgb.convert("RGBA")
    height_px, width_px = crop.shape[:2]
    alpha.putalpha(
        Image.fromarray(np.where(np.arange(height_px)[:, None] < 40, 0, 255).astype(np.uint8).repeat(width_px, 1))
    )
    sixteen = Image.fromarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.uint16) * 257)
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    return {
        "RGB": rgb, "L": rgb.convert("L"), "RGBA": alpha, "P": palette, "1": rgb.convert("1"), "I;16": sixteen,
        "LA": alpha.convert("LA"),
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1", "I;16", "LA"])
def test_a_pil_image_is_read_as_its_png_file_is(
    model: Engine, crop: npt.NDArray[np.uint8], tmp_path: Path, mode: str
) -> None:
    image = _variants(crop)[mode]
    assert image.mode == mode
    image.save(tmp_path / "same.png")
    (from_file,), (from_image,) = model.predict(tmp_path / "same.png"), model.predict(image)
    assert from_image == from_file
    assert from_image.probability is not None
    expected = {"RGB": "", "L": "grayscale", "RGBA": "transparency", "P": "palette", "I;16": "sixteen_bit"}
    assert expected.get(mode, "") in from_image.status


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_pil_image_is_turned_as_its_file_is(
    model: Engine, crop: npt.NDArray[np.uint8], tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(crop[:200]).save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as opened:
        assert model.predict(opened) == model.predict(tmp_path / "turned.png")


def test_pil_images_that_cannot_be_read_are_their_own_answers(
    model: Engine, crop: npt.NDArray[np.uint8], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = Image.fromarray(crop)
    frames = io.BytesIO()
    rgb.save(frames, "GIF", save_all=True, append_images=[Image.fromarray(255 - crop)])
    torn = Image.open(io.BytesIO(path.read_bytes()[:3000]))
    given = [rgb.convert("CMYK"), rgb.convert("F"), Image.open(frames), torn, rgb.resize((20, 20)), rgb]
    answers = model.predict(given)
    assert [answer.status.partition(":")[2] for answer in answers[:-1]] == [
        "colourspace", "colourspace", "multiframe", "corrupt", "too_small",
    ]  # fmt: skip
    assert answers[-1].probability is not None
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert model.predict(rgb)[0].status == "error:too_large"


def test_messages_speak_of_python(model: Engine, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    given: list[Any] = [tmp_path / "gone.png", tmp_path, tmp_path / "text.png", None, "a\0b", np.zeros((5, 5, 3), "u1")]
    for answer in model.predict(given):
        assert answer.status.startswith("error:")
        assert answer.message
        assert "--" not in answer.message
    assert "gone.png" in model.predict(tmp_path / "gone.png")[0].message


def test_predictions_compare_and_hash(model: Engine, path: Path) -> None:
    first, second = model.predict([path, path])
    assert first == second
    assert first.activation is not second.activation
    assert len({first, second}) == 1
    assert first != Prediction(0.5, 1, "other", "ok", first.activation)
    assert first in [second]


def test_load_takes_every_kind_of_path(tiny_model: Path, tmp_path: Path) -> None:
    for path in (tiny_model, str(tiny_model), os.fsencode(tiny_model)):
        with glomedge.load(path, "cpu", cache_dir=str(tmp_path / "cache")) as engine:
            assert engine.provider == "cpu"


@pytest.mark.parametrize("attempt", [pickle.dumps, copy.copy, copy.deepcopy])
def test_an_engine_that_is_pickled_says_what_to_do(model: Engine, attempt: Any) -> None:
    with pytest.raises(TypeError, match=r"cannot be pickled.*glomedge\.load in each process"):
        attempt(model)
