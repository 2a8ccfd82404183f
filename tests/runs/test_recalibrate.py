"""A model file made right for a site: the new file, what it says of itself, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glomedge
from glomedge.engine import loading
from glomedge.engine.options import EngineOptions
from glomedge.errors import DatasetError, ModelError, OutputError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.imaging import images
from glomedge.model.crop_digests import data_sha256, pack
from glomedge.model.file import read_model_file
from glomedge.model.graph import check_graph
from glomedge.model.spec import Golden
from glomedge.runs import recalibrate as recalibrate_run
from glomedge.runs.evaluate import evaluate_folder
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.recalibrate import RecalibrateOptions, Recalibration, recalibrate_models, shifted_golden
from helpers.builders import build_tiny_model, build_tiny_other
from helpers.needs import needs_openvino
from helpers.sites import training_provenance, write_labels, write_site

CPU = EngineOptions(provider="cpu")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_site(tmp_path / "crops")
    return tmp_path / "crops"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Right where its bias is -1; with -4 it finds hardly any positive."""
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-4.0, temperature=1.5)
    return tmp_path / "model.onnx"


def options(folder: Path, *models: Path, **changed: Any) -> RecalibrateOptions:
    output = folder.parent / "new.onnx" if len(models) == 1 else folder.parent / "new"
    return replace(
        RecalibrateOptions(models, folder / "public.csv", folder, "North Lab", output, engine=CPU), **changed
    )


def run(asked: RecalibrateOptions) -> list[Recalibration]:
    made = recalibrate_models(asked)
    assert made is not None
    return made


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


# --- what is refused ------------------------------------------------------------------------------------------------


def refused(kind: type[Exception], words: str, asked: RecalibrateOptions) -> None:
    with pytest.raises(kind, match=words) as error:
        recalibrate_models(asked)
    assert len(str(error.value)) < 500
    assert not any(path.exists() for path in asked.outputs() if path not in asked.models)


def test_a_recalibrated_model_is_refused(site: Path, model: Path) -> None:
    (made,) = run(options(site, model))
    refused(ModelError, "was recalibrated before, for 'North Lab'", options(site, made.path, output=site / "2.onnx"))


def test_models_of_other_weights_or_another_recipe_are_refused(site: Path, model: Path, tmp_path: Path) -> None:
    other, published = tmp_path / "other.onnx", tmp_path / "published.onnx"
    build_tiny_model(other, recipe="plain", bias=-1.0)
    refused(ModelError, "not of one model", options(site, model, other))
    build_tiny_model(published, recipe="published", weights_sha256=read_model_file(model).spec.weights_sha256)
    refused(ModelError, "differ in their preprocessing", options(site, model, published))


def test_too_few_labels_and_one_class_are_refused(site: Path, model: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in site.glob("*.png"))
    few = write_labels(tmp_path / "few.csv", {name: index % 2 for index, name in enumerate(names[:19])})
    refused(DatasetError, "19 labelled crops are too few", options(site, model, labels=few))
    same = write_labels(tmp_path / "same.csv", dict.fromkeys(names, 1))
    refused(DatasetError, "All 60 labelled crops are globally sclerotic", options(site, model, labels=same))


def test_too_few_labels_are_refused_before_any_engine_opens(
    site: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("crops were scored")

    monkeypatch.setattr(recalibrate_run, "score", never)
    few = write_labels(tmp_path / "few.csv", {path.name: 1 for path in sorted(site.glob("*.png"))[:5]})
    refused(DatasetError, "5 labelled crops are too few", options(site, model, labels=few))


def test_crops_that_fail_are_blamed_and_not_the_labels(site: Path, model: Path, tmp_path: Path) -> None:
    truth = dict(line.split(",") for line in (site / "public.csv").read_text().splitlines()[1:])
    names = sorted(truth)[:24]
    table = write_labels(tmp_path / "labels.csv", {name: int(truth[name]) for name in names})
    for name in names[:6]:
        (site / name).write_bytes(b"\x89PNG")
    words = rf"6 labelled crops could not be classified \(\w+\) and are left out: {names[0]}.*The other 18 are too few"
    refused(DatasetError, words, options(site, model, labels=table))


@pytest.mark.parametrize("full", [False, True])
def test_a_label_against_the_class_folder_is_refused_however_the_crop_is_named(
    site: Path, model: Path, tmp_path: Path, full: bool
) -> None:
    folder = site / "globally_sclerotic_glomeruli"
    folder.mkdir()
    moved = sorted(site.glob("*.png"))[:3]
    labels = {path.name: index % 2 for index, path in enumerate(sorted(site.glob("*.png")))}
    for path in moved:
        path.rename(folder / path.name)
        label = labels.pop(path.name)
        labels[f"{folder.name}/{path.name}" if full else path.name] = label
    table = write_labels(tmp_path / "labels.csv", labels)
    words = f"2 labels contradict the class folder of their crop: .*{table.name}"
    refused(DatasetError, words, options(site, model, labels=table))


def test_names_without_a_file_are_refused(site: Path, model: Path, tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    table.write_text((site / "public.csv").read_text() + "absent.png,1\n")
    refused(DatasetError, r"have no file: absent\.png.*labels\.csv", options(site, model, labels=table))


def test_crops_that_the_model_was_trained_on_are_refused_by_their_bytes(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "trained.onnx"
    crops = sorted(site.glob("*.png"))
    build_tiny_model(path, recipe="plain", training=training_provenance(crop_digests=pack([sha256_of(crops[3])])))
    crops[3].rename(site / "S-1003_PAS_1of1_eeeeeeeeeeeeeeeeeeeeeeee.png")  # another name is no excuse
    table = site / "public.csv"
    table.write_text(table.read_text().replace(crops[3].name, "S-1003_PAS_1of1_eeeeeeeeeeeeeeeeeeeeeeee.png"))
    refused(DatasetError, "1 of the 60 labelled crops were used to train trained.onnx", options(site, path))


def test_crops_of_others_pass(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "trained.onnx"
    build_tiny_model(path, recipe="plain", training=training_provenance(crop_digests=pack(["ab" * 32, "cd" * 32])))
    assert run(options(site, path))[0].site.crops == 60


def test_the_data_set_of_an_older_model_is_known_by_its_hash(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "trained.onnx"
    rows = [line.split(",") for line in (site / "public.csv").read_text().splitlines()[1:]]
    digest = data_sha256(sorted((name, int(label), sha256_of(site / name)) for name, label in rows))
    build_tiny_model(path, recipe="plain", training=training_provenance(data_sha256=digest))
    refused(DatasetError, "60 of the 60 labelled crops were used to train", options(site, path))


@pytest.mark.parametrize("content", [b"\x00\x01", b"name,other\na,b\n", None])
def test_an_unusable_table_beside_the_crops_does_not_block(site: Path, tmp_path: Path, content: bytes | None) -> None:
    # A table of theirs that has nothing to do with the labels: it cannot be the one of the training.
    path, labels = tmp_path / "trained.onnx", tmp_path / "labels.csv"
    build_tiny_model(path, recipe="plain", training=training_provenance())
    labels.write_bytes((site / "public.csv").read_bytes())
    if content is None:
        for line in range(1, 61):  # as many rows as the training had, none with a file
            content = (content or b"name,ground truth\n") + b"absent%d.png,1\n" % line
    assert content is not None
    (site / "public.csv").write_bytes(content)
    assert run(options(site, path, labels=labels))[0].site.crops == 60


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"site": " "}, "--site must be"),
        ({"site": "a\nb"}, "--site must be"),
        ({"threshold": "best"}, "threshold rule"),
        ({"output": Path("new.txt")}, "must end in .onnx"),
        ({"workers": 0}, "--workers"),
        ({"case_pattern": "("}, "case pattern"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    site: Path, model: Path, changed: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        recalibrate_models(options(site, model, **changed))


def test_no_file_that_is_read_is_ever_overwritten(site: Path, model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other" / "model.North-Lab.onnx"  # what the first model becomes in that folder
    other.parent.mkdir()
    other.write_bytes(model.read_bytes())
    table = tmp_path / "labels.card.md"
    table.write_bytes((site / "public.csv").read_bytes())
    link = tmp_path / "link.onnx"
    link.symlink_to(model)
    asked = [
        options(site, model, output=model),
        options(site, model, output=link),
        options(site, model, other, output=other.parent),
        options(site, model, labels=table, output=tmp_path / "labels.onnx"),
    ]
    before = [path.read_bytes() for path in (model, other, table)]
    for one in asked:
        with pytest.raises(UsageError, match=r"is read and would be overwritten"):
            recalibrate_models(one)
    assert [path.read_bytes() for path in (model, other, table)] == before
    assert link.is_symlink()


def test_a_stopped_run_writes_nothing(site: Path, model: Path) -> None:
    asked = options(site, model)
    assert recalibrate_models(asked, stop=lambda: True) is None
    assert not asked.output.exists()


def test_a_card_that_cannot_be_written_leaves_the_model_and_names_both(site: Path, model: Path) -> None:
    asked = options(site, model)
    asked.output.with_suffix(".card.md").mkdir()
    with pytest.raises(OutputError, match=r"new\.card\.md cannot be written: .*The model new\.onnx itself is complete"):
        recalibrate_models(asked)
    assert read_model_file(asked.output).spec.site is not None


def test_an_engine_that_fails_is_not_called_a_full_disk(
    site: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loading.open_engine

    def fails(path: Any, *rest: Any, **more: Any) -> Any:
        if isinstance(path, Path) and path.name == "new.onnx":
            raise PermissionError(13, "No access to the device")
        return real(path, *rest, **more)

    monkeypatch.setattr(loading, "open_engine", fails)
    asked = options(site, model)
    with pytest.raises(PermissionError):
        recalibrate_models(asked)
    assert not asked.output.exists()
    assert not list(asked.output.parent.glob(".new*"))


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
