"""What ``glomedge recalibrate`` refuses, and what it leaves behind then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glomedge.engine import loading
from glomedge.errors import DatasetError, ModelError, OutputError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.model.crop_digests import data_sha256, pack
from glomedge.model.file import read_model_file
from glomedge.runs import recalibrate as recalibrate_run
from glomedge.runs.recalibrate import RecalibrateOptions, recalibrate_models
from helpers.builders import build_tiny_model
from helpers.recalibrating import options, run
from helpers.sites import training_provenance, write_labels, write_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    write_site(tmp_path / "crops")
    return tmp_path / "crops"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Right where its bias is -1; with -4 it finds hardly any positive."""
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-4.0, temperature=1.5)
    return tmp_path / "model.onnx"


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
