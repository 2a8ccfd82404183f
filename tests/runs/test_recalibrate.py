"""A model file made right for a site: the new file, what it says of itself, engines built for its parent."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import glomedge
from glomedge.files.writing import sha256_of
from glomedge.imaging import images
from glomedge.model.file import read_model_file
from glomedge.model.graph import check_graph
from glomedge.model.spec import Golden
from glomedge.runs.evaluate import evaluate_folder
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.recalibrate import shifted_golden
from helpers.builders import build_tiny_model, build_tiny_other
from helpers.needs import needs_openvino
from helpers.recalibrating import CPU, options, run
from helpers.sites import write_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_site(tmp_path / "crops")
    return tmp_path / "crops"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Right where its bias is -1; with -4 it finds hardly any positive."""
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-4.0, temperature=1.5)
    return tmp_path / "model.onnx"


def test_the_new_file_answers_by_the_line_and_the_old_one_is_untouched(site: Path, model: Path) -> None:
    before = model.read_bytes()
    (made,) = run(options(site, model))
    assert model.read_bytes() == before
    crops = sorted(site.glob("*.png"))
    with glomedge.load(model, "cpu") as parent, glomedge.load(made.path, "cpu") as child:
        pixels = np.stack([glomedge.enhance(images.decode(images.read(path)).pixels_hwc, "plain") for path in crops])
        old, new = parent.infer(pixels), child.infer(pixels)
        spec = child.spec
    assert old.activation is not None
    logit = old.activation.mean(axis=(1, 2), dtype=np.float64) / 1.5
    assert spec.site is not None
    expected = 1 / (1 + np.exp(-(spec.site.slope * logit + spec.site.offset)))
    assert np.allclose(new.probability, expected, atol=1e-6)
    assert new.activation is not None
    assert np.array_equal(new.activation, old.activation)
    assert spec.site.offset > 1.0
    # The map's value at the threshold is where decisions turn.
    mean = old.activation.mean(axis=(1, 2), dtype=np.float64)
    assert np.array_equal(mean >= spec.logit_at(spec.threshold), new.probability >= spec.threshold)


def test_the_file_says_where_it_comes_from(site: Path, model: Path) -> None:
    (made,) = run(options(site, model))
    file, parent = read_model_file(made.path), read_model_file(model)
    assert file.spec == made.spec
    assert file.sha256 == made.sha256 != parent.sha256
    check_graph(made.path, file.spec)
    said = made.site
    assert said.site == "North Lab"
    assert said.parent_sha256 == parent.sha256
    assert said.labels_sha256 == sha256_of(site / "public.csv")
    assert (said.crops, said.cases, said.effective_crops) == (60, 6, 60.0)
    assert file.spec.weights_sha256 == parent.spec.weights_sha256
    assert file.spec.temperature == parent.spec.temperature
    assert file.spec.operating_point is not None
    card = made.path.with_suffix(".card.md").read_text("utf-8")
    assert "Recalibrated for North Lab" in card
    assert parent.sha256 in card
    assert "Research use only" in card
    assert "not calibrated" not in card


def test_the_site_is_called_right_afterwards(site: Path, model: Path) -> None:
    (made,) = run(options(site, model))

    def accuracy(path: Path) -> float:
        found = evaluate_folder(EvaluateOptions(site, path, CPU))
        assert found is not None
        assert found.confusion.accuracy.value is not None
        return found.confusion.accuracy.value

    assert accuracy(model) < 0.75
    assert accuracy(made.path) > 0.85
    assert made.before.sensitivity.k == 0
    assert made.after.sensitivity.value is not None
    assert made.after.sensitivity.value > 0.7


def test_each_file_of_a_model_on_its_own_answers(site: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"model.{name}.onnx" for name in ("fp32", "int8")]
    for path, bias in zip(paths, (-4.0, -3.0), strict=True):
        build_tiny_model(path, recipe="plain", bias=bias, weights_sha256="a" * 64)
    made = run(options(site, *paths))
    assert [one.path.name for one in made] == ["model.fp32.North-Lab.onnx", "model.int8.North-Lab.onnx"]
    first, second = (one.site.offset for one in made)
    assert first - second == pytest.approx(made[0].site.slope, rel=0.4)
    assert [one.site.parent_sha256 for one in made] == [read_model_file(path).sha256 for path in paths]


def test_a_network_without_a_map(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    build_tiny_other(path, 96, 3, recipe="plain", with_map=False)
    (made,) = run(options(site, path))
    crops = sorted(site.glob("*.png"))
    with glomedge.load(path, "cpu") as parent, glomedge.load(made.path, "cpu") as child:
        old = [one.probability for one in parent.predict(crops)]
        new = [one.probability for one in child.predict(crops)]
    for p, q in zip(old, new, strict=True):
        assert p is not None
        logit = made.site.slope * math.log(p / (1 - p)) + made.site.offset
        assert q == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-5)


def test_weights_and_readers_of_a_labelling(site: Path, model: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in site.glob("*.png"))[:40]
    truth = dict(line.split(",") for line in (site / "public.csv").read_text().split()[2:])
    table = tmp_path / "labels.csv"
    rows = [f"{name},{truth.get(name, 0)},{1 + index % 3},Ada" for index, name in enumerate(names)]
    table.write_text("name,ground truth,weight,reader\n" + "\n".join(rows) + "\n", "utf-8")
    (made,) = run(options(site, model, labels=table))
    assert made.site.readers == ("Ada",)
    assert made.site.crops == 40
    assert made.site.effective_crops < 40


def test_names_are_found_as_predictions_csv_writes_them(site: Path, model: Path, tmp_path: Path) -> None:
    odd = site / "=S-1000_PAS_1of1_ffffffffffffffffffffffff.png"
    odd.write_bytes(next(site.glob("*.png")).read_bytes())
    table = tmp_path / "labels.csv"
    table.write_text((site / "public.csv").read_text() + f"'{odd.name},1\n")
    (made,) = run(options(site, model, labels=table))
    assert made.site.crops == 61


def test_shares_of_right_calls_are_weighted_and_a_loss_is_told(site: Path, tmp_path: Path) -> None:
    # This model is right where it stands, and the labels say the opposite of what it sees.
    path = tmp_path / "right.onnx"
    build_tiny_model(path, recipe="plain", bias=-1.0)
    names = sorted(crop.name for crop in site.glob("*.png"))
    truth = dict(line.split(",") for line in (site / "public.csv").read_text().splitlines()[1:])
    table = tmp_path / "labels.csv"
    wrong = [f"{name},{1 - int(truth[name])},1" for name in names[:12]]
    rows = [*wrong, *(f"{name},{truth[name]},4" for name in names[12:24])]
    table.write_text("name,ground truth,weight\n" + "\n".join(rows) + "\n", "utf-8")
    (made,) = run(options(site, path, labels=table))
    assert made.before.accuracy.k <= 14
    assert made.share_before > 0.7  # the right ones weigh four times as much
    assert (made.share_after < made.share_before) == any(note.startswith("CHECK: new.onnx") for note in made.notes)


def test_an_unreadable_crop_is_left_out_and_noted(site: Path, model: Path) -> None:
    broken = next(site.glob("*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    (made,) = run(options(site, model))
    assert made.site.crops == 59
    assert any("1 labelled crops could not be classified" in note and broken.name in note for note in made.notes)


@pytest.mark.parametrize(
    ("p", "slope", "offset"), [(0.5, 2.0, 0.0), (0.3, 0.5, 1.0), (1.0, 1.0, -3.0), (0.0, 2.0, 1.0)]
)
def test_the_self_test_moves_with_the_line(p: float, slope: float, offset: float) -> None:
    golden = Golden(
        seed=1, pixels_zlib_base64="", probability=p, pixel_tolerance=3, probability_tolerance=0.01
    )  # fmt: skip
    moved = shifted_golden(golden, slope, offset)
    q = min(max(p, 1e-7), 1 - 1e-7)
    assert moved.probability == pytest.approx(1 / (1 + (q / (1 - q)) ** -slope * math.exp(-offset)), rel=1e-9)
    assert moved.probability_tolerance >= 0.01
    if p == 0.5 and slope == 2.0:
        assert moved.probability_tolerance == pytest.approx(0.02)


# --- engines built for the parent -----------------------------------------------------------------------------------


@pytest.mark.openvino
def test_an_engine_built_for_the_parent_never_serves_the_child(site: Path, model: Path, tmp_path: Path) -> None:
    needs_openvino()
    cache = tmp_path / "cache"
    crop = min(site.glob("*.png"))

    def answer(path: Path) -> float:
        with glomedge.load(path, "openvino", cache_dir=cache) as engine:
            (prediction,) = engine.predict(crop)
        assert prediction.probability is not None
        return prediction.probability

    parent = answer(model)
    (made,) = run(options(site, model))
    child = answer(made.path)
    logit = made.site.slope * math.log(parent / (1 - parent)) + made.site.offset
    assert child == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
    assert abs(child - parent) > 0.01
    assert answer(model) == pytest.approx(parent, abs=1e-6)
    assert len([entry for entry in cache.iterdir() if len(entry.name) == 64]) == 2
