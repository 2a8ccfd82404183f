"""``glomedge train``: bad data fail before TensorFlow is loaded; a whole run writes all it promises."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.files.writing import sha256_of
from glomedge.model.crop_digests import among
from glomedge_export.training.checkpoint import Checkpoint, Checkpoints, EpochRow
from helpers.labelled import SIX_CROPS, write_crops, write_csv
from helpers.paths import ROOT

# Any attempt to load these ends the process with a traceback, not with a clear error.
_WITHOUT_TENSORFLOW = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "keras", "tf2onnx", "onnx"):
            raise RuntimeError(name + " was loaded")
sys.meta_path.insert(0, Refuse())
from glomedge.cli import main
main()
"""


def glomedge(
    *arguments: object, code: str = "from glomedge.cli import main; main()"
) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'export')!r}]\n"
    command = [sys.executable, "-c", path + code, *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


@pytest.mark.parametrize(
    ("rows", "header", "expected"),
    [
        (SIX_CROPS, ("name", "class"), "no column 'ground truth'; it has name, class"),
        ([(SIX_CROPS[0][0], 2), *SIX_CROPS[1:]], ("name", "ground truth"), "label '2' of '"),
        ([*SIX_CROPS, ("gone.png", 1)], ("name", "ground truth"), "gone.png: in public.csv but in neither folder"),
    ],
)
def test_bad_data_is_one_clear_error_without_tensorflow(
    tmp_path: Path, rows: list[tuple[str, object]], header: tuple[str, str], expected: str
) -> None:
    data = write_crops(tmp_path / "data")
    write_csv(data, rows, header)
    done = glomedge("train", data, "--output", tmp_path / "out", code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--threshold", "best"], "threshold rule 'best'"),
        (["--case-pattern", "("], "not a regular expression"),
        (["--weights", "gone.h5"], "no weights file at gone.h5"),
        (["--learning-rate", "-1"], "not above 0"),
        (["--split-file", "gone.csv"], "split file gone.csv cannot be read"),
        (["--saturation", "-1"], "saturation_factor"),
        (["--recipe", "published", "--hue-degrees", "3"], "fixed except for its saturation"),
    ],
)
def test_bad_options_are_one_clear_error_without_tensorflow(tmp_path: Path, options: list[str], expected: str) -> None:
    data = write_crops(tmp_path / "data")
    done = glomedge("train", data, "--output", tmp_path / "out", *options, code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def _stopped(out: Path, *, pretraining: bool) -> Path:
    """A checkpoint as a killed run leaves it."""
    folder = out / "checkpoint" / "pretraining" if pretraining else out / "checkpoint"
    history = (EpochRow(1, 0.5, 0.7, 0.6, 0.6, 3.0),)
    Checkpoints(folder).save(Checkpoint([np.ones(3)], [np.zeros(2)], history, {"seed": 42}))
    return folder / "last.npz"


@pytest.mark.parametrize(
    ("left", "found"),
    [
        ("finished", "out already holds a trained model (model.keras): "),
        ("stopped", "out already holds a stopped training run: "),
        ("stopped pretraining", "out already holds a stopped training run: "),
    ],
)
def test_an_earlier_run_is_never_replaced_unasked(tmp_path: Path, left: str, found: str) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    out.mkdir()
    kept = out / "model.keras"
    if left == "finished":
        kept.write_bytes(b"hours of training")
    else:
        kept = _stopped(out, pretraining=left == "stopped pretraining")
    before = kept.read_bytes()
    done = glomedge("train", data, "--output", out, code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert found in done.stderr
    assert "--resume" in done.stderr
    assert "--overwrite" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert kept.read_bytes() == before
    assert not (out / "split.csv").exists()
    assert not (out / "cache").exists(), "crops were enhanced before the refusal"
    # Either option goes on: it stops at the first thing that needs TensorFlow.
    for option in ["--overwrite"] if left == "finished" else ["--overwrite", "--resume"]:
        goes_on = glomedge("train", data, "--output", out, option, code=_WITHOUT_TENSORFLOW)
        assert "was loaded" in goes_on.stderr, goes_on.stderr
        assert (out / "split.csv").exists()


def test_resuming_a_finished_run_says_that_it_has_finished(tmp_path: Path) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    out.mkdir()
    (out / "model.keras").write_bytes(b"hours of training")
    done = glomedge("train", data, "--output", out, "--resume", code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert "has finished" in done.stderr
    assert "--overwrite" in done.stderr
    assert (out / "model.keras").read_bytes() == b"hours of training"


def test_the_default_output_is_guarded_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_crops(tmp_path / "data")
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model.keras").write_bytes(b"hours of training")
    done = glomedge("train", "data", code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert "artifacts already holds a trained model" in done.stderr


def test_resume_and_overwrite_exclude_each_other(tmp_path: Path) -> None:
    data = write_crops(tmp_path / "data")
    done = glomedge("train", data, "--output", tmp_path / "out", "--resume", "--overwrite", code=_WITHOUT_TENSORFLOW)
    assert done.returncode == 1
    assert "--resume and --overwrite exclude each other" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.keras
def test_a_whole_run_writes_what_it_promises(tmp_path: Path) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    options = [
        "--weights",
        "none",
        "--epochs",
        1,
        "--batch-size",
        2,
        "--threshold",
        "youden",
        "--json",
        "--site",
        "Lab",
        "--mpp",
        0.25,
    ]
    done = glomedge("train", data, "--output", out, "--tensorboard", tmp_path / "board", *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["notice"] == RESEARCH_USE_NOTICE
    assert summary["splits"]["train"] == {"crops": 2, "positive": 1, "cases": 1}
    assert json.loads((out / "metrics.json").read_text()) == summary
    with (out / "history.csv").open(newline="") as handle:
        (row,) = csv.DictReader(handle)
    assert list(row) == ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds"]
    with (out / "split.csv").open(newline="") as handle:
        assert {line["name"] for line in csv.DictReader(handle)} == {name for name, _ in SIX_CROPS}
    report = (out / "training-report.html").read_text()
    assert RESEARCH_USE_NOTICE in report
    assert 'src="http' not in report
    assert report.count("data:image/png;base64,") >= 4
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    (events,) = (tmp_path / "board").iterdir()
    assert all(name in events.read_bytes() for name in (b"val_loss", b"val_accuracy", b"scalars"))

    from glomedge_export.network.network import load_model
    from glomedge_export.training_record import read_record

    record = read_record(out / "model.keras")
    assert record.threshold == summary["threshold"]
    assert set(record.split) == {name for name, _ in SIX_CROPS}
    assert (record.training.site, record.mpp) == ("Lab", 0.25)
    # The crops that it was made with are known by their bytes, so that no site recalibrates on them.
    sha256_of_name = {path.name: sha256_of(path) for path in data.rglob("*.png")}
    assert record.training.crop_digests is not None
    known = among(record.training.crop_digests, sha256_of_name.values())
    assert {name for name in record.split if sha256_of_name[name] in known} == {
        name for name, side in record.split.items() if side != "test"
    }
    assert load_model(out / "model.keras").name == "glomedge"
    # Complete: nothing is left to resume, only the lock.
    assert [path.name for path in (out / "checkpoint").iterdir()] == ["lock"]
