"""Models that glomedge did not train, from their files to proven ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import glomedge
from glomedge.cli import app
from glomedge.engine.golden import draw_crop
from glomedge.errors import GateError, GlomedgeError, ModelError, UsageError
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge.model.spec import Recipe
from glomedge_export.export import Request, Result, export
from glomedge_export.export_source.source import Said
from glomedge_export.graph.anatomy import Choices
from helpers.published_script import published_answers

pytestmark = pytest.mark.keras


def framework(name: str) -> Any:
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.frameworks import import_tf_keras, keras

    return keras if name == "keras" else import_tf_keras()


def saved(path: Path, module_name: str = "keras", **structure: Any) -> Path:
    """A small network with realistic statistics, saved where its suffix says how."""
    from helpers.foreign_models import settle, small

    module = framework(module_name)
    model = small(module, **structure)
    recipe = Recipe.named("published").model_copy(update={"size_px": model.input_shape[1]})
    crops = np.stack([enhance(draw_crop(seed), recipe) for seed in range(16)])
    settle(module, model, crops).save(path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 drawn crops of 12 biopsies, labelled."""
    from glomedge_export.synthetic.dataset import write_dataset

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder, crops=150, cases=12, seed=3)
    return folder


def exported(model: Path, said: Said, **options: Any) -> tuple[Result, list[str]]:
    from glomedge_export.export import Tell

    lines: list[str] = []
    return export(Request(model, said=said, **options), tell=Tell(found=lines.extend)), lines


def test_one_message_lists_everything_that_must_be_said(tmp_path: Path) -> None:
    model = saved(tmp_path / "mine.keras", front="none", head="two_logits")
    with pytest.raises(UsageError) as raised:
        exported(model, Said())
    message = str(raised.value)
    for option in (
        "--recipe seed, published or plain",
        "--input-scaling resnet,",
        "--logits",
        "--positive-class 0 or 1",
    ):
        assert option in message
    assert len(message) < 500
    with pytest.raises(UsageError) as raised:
        exported(model, Said("plain", Choices("unit", True)))
    assert str(raised.value).count("--") == 1
    assert "--positive-class" in str(raised.value)


def test_a_side_that_the_model_leaves_open_is_asked_for_with_the_rest(tmp_path: Path) -> None:
    from helpers.foreign_models import small

    path = tmp_path / "open.keras"
    small(framework("keras"), "none", side_px=None).save(path)
    with pytest.raises(UsageError) as raised:
        exported(path, Said())
    message = str(raised.value)
    assert all(option in message for option in ("--recipe ", "--input-side PX", "--input-scaling "))
    assert "--logits" not in message
    from glomedge_export.export_source.foreign import load_foreign

    source = load_foreign(path, Said("seed", Choices("unit"), side_px=96))
    assert source.recipe.size_px == 96


@pytest.mark.parametrize(("module_name", "file"), [
    ("keras", "best_model.keras"),
    ("tf_keras", "best_model.h5"),
    pytest.param("tf_keras", "best_model.keras", marks=pytest.mark.slow),
    pytest.param("tf_keras", "best_model", marks=pytest.mark.slow),
])  # fmt: skip
def test_the_published_way_answers_as_its_own_script_does(
    tmp_path: Path, data: Path, module_name: str, file: str
) -> None:
    """A small stand-in of the published structure (without a suffix: SavedModel); the slow suite has the whole one."""
    model = saved(tmp_path / file, module_name, side_px=224, front="augmented")
    result, lines = exported(model, Said("published"))
    assert "scaling resnet_v2: found in the model" in lines
    assert "activation map 56 x 56, exact: the logit is linear in the feature map" in lines
    spec = result.spec
    assert spec.source is not None
    assert spec.source.framework == spec.parity.reference if spec.parity is not None else False
    assert (spec.source.recipe_from, spec.source.scaling_from) == ("given", "found in the model")
    assert (spec.source.threshold_from, spec.source.temperature_from) == ("unknown", "unknown")
    assert (spec.threshold, spec.temperature, spec.operating_point, spec.training) == (0.5, 1.0, None, None)
    assert (spec.map, spec.map_cells, spec.backbone, spec.input_scaling) == ("exact", 56, "other", "resnet_v2")
    paths = sorted(data.rglob("*.png"))[::5]
    assert len(paths) >= 20
    right = published_answers(framework(module_name).models.load_model(model, compile=False), paths, tmp_path)
    assert np.ptp(right) > 0.1
    with glomedge.load(result.path, provider="cpu") as engine:
        said = engine.predict(paths)
    probabilities = np.array([one.probability for one in said], np.float64)
    assert np.abs(probabilities - right).max() <= 1e-5
    assert [one.label for one in said] == (right >= 0.5).astype(int).tolist()


def test_labelled_crops_give_threshold_temperature_and_counts(tmp_path: Path, data: Path) -> None:
    model = saved(tmp_path / "mine.keras", front="none", head="softmax", body="mobile")
    said = Said("plain", Choices("resnet_v2", positive_class=1), threshold="youden", data=data)
    result, lines = exported(model, said)
    spec = result.spec
    assert spec.source is not None
    assert (spec.source.threshold_from, spec.source.temperature_from) == ("measured", "measured")
    assert (spec.source.scaling_from, spec.source.class_order_from) == ("given", "given")
    assert spec.temperature != 1.0
    assert spec.operating_point is not None
    from glomedge_export.data.dataset import read_dataset
    from glomedge_export.data.split import split_in_halves

    dataset = read_dataset(data)
    split = split_in_halves(dataset)
    counted = [item for item in dataset.items if split.sides[item.name] == "test"]
    assert sum(spec.operating_point.model_dump().values()) == len(counted)
    assert spec.parity is not None
    assert spec.parity.source == "held-out crops of the given data"
    assert set(spec.parity.model_dump()) >= {"auroc"}
    # What the file says of the counting half, at its threshold, is what it carries.
    with glomedge.load(result.path, provider="cpu") as engine:
        labels = np.array([one.label for one in engine.predict([item.path for item in counted])])
    truth = np.array([item.label for item in counted])
    point = spec.operating_point
    assert point.true_positive == int(((labels == 1) & (truth == 1)).sum())
    assert point.false_positive == int(((labels == 1) & (truth == 0)).sum())
    assert any(line.startswith("temperature") for line in lines)
    report = json.loads(result.path.with_suffix(".export.json").read_text())
    assert report["found_in_the_model"] == lines


def test_int8_of_a_model_without_a_map(tmp_path: Path, data: Path) -> None:
    model = saved(tmp_path / "mine.keras", "tf_keras", head="hidden", body="dense")
    with pytest.raises(UsageError, match="--data DIR"):
        exported(model, Said("seed"), precision="int8")
    loose = {"max_flip_fraction": 0.2, "max_auroc_loss": None, "max_grade_change_fraction": None}
    result, _ = exported(
        model,
        Said("seed", data=data),
        precision="int8",
        calibration_crops=32,
        calibration_method="minmax",
        gate_overrides=loose,
    )
    found = read_model_file(result.path).spec
    assert found.map == "none"
    assert found.calibration is not None
    assert found.calibration.crops == 32
    assert found.parity is not None
    assert found.parity.min_map_rank_correlation is None
    assert {row.name for row in result.rows} >= {"flipped decisions, fraction"}
    assert "rank correlation of the map, at least" not in {row.name for row in result.rows}
    with glomedge.load(result.path, provider="cpu") as engine:
        (answer,) = engine.predict(next(data.rglob("*.png")))
    assert answer.probability is not None
    assert 0 <= answer.probability <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--threshold", "youden"], "fitted on labelled crops"),
        (["--threshold", "many"], "is not understood"),
        (["--input-scaling", "unit"], "scales its pixels itself"),
        (["--input-scaling", "affine"], "resnet, resnet_v2, torch, unit or none"),
        (["--input-side", "96"], "Omit --input-side"),
        (["--recipe", "mine"], "seed, published or plain"),
    ],
)
def test_user_errors_say_what_to_do(
    shared_model: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(shared_model.parent)
    recipe = [] if "--recipe" in arguments else ["--recipe", "published"]
    result = CliRunner().invoke(app, ["export", str(shared_model), *recipe, *arguments])
    assert isinstance(result.exception, GlomedgeError)
    assert message in str(result.exception)
    assert len(str(result.exception)) < 500
    assert not list(shared_model.parent.glob("*.onnx"))


@pytest.fixture(scope="module")
def shared_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "mine.keras")


def test_a_file_that_misses_a_gate_is_refused_and_leaves_nothing(
    shared_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_model.parent)
    before = set(shared_model.parent.iterdir())
    # Nearer to Keras than any rounding: what a wrong conversion is to the usual limit.
    arguments = ["--recipe", "published", "--gate-crops", "64", "--gate-probability", "1e-12"]
    result = CliRunner().invoke(app, ["export", str(shared_model), *arguments])
    assert isinstance(result.exception, GateError)
    assert "is refused" in str(result.exception)
    assert "REFUSED" in result.stdout
    assert set(shared_model.parent.iterdir()) == before


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError):
        exported(path, Said("seed"))
