"""Going on with a run, and what may have changed since."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine import engine, loading
from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError
from glomedge.pipeline.prepare import default_decoder
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.needs import needs_openvino
from helpers.run_kit import outputs, table, write_crops


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"threshold": 0.7}, "threshold"),
        ({"tta": 8}, "tta"),
        ({"folder": "other"}, "folder"),
        ({"model": "m"}, "model_sha256"),
    ],
)
def test_resume_with_other_settings_is_refused(
    options: Options, tmp_path: Path, changes: dict[str, object], name: str
) -> None:
    infer_folder(options)
    build_tiny_model(tmp_path / "second.onnx", bias=-3.0)
    shutil.copytree(options.folder, tmp_path / "other")
    real = {"folder": tmp_path / "other", "model": tmp_path / "second.onnx"}
    changed = replace(options, resume=True, **{k: real.get(k, v) for k, v in changes.items()})  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=rf"{name}: "):
        infer_folder(changed)


def test_resume_with_another_recipe_is_refused(options: Options, tmp_path: Path) -> None:
    infer_folder(options)
    build_tiny_model(tmp_path / "plain.onnx", recipe="plain")
    with pytest.raises(OutputError, match=r"recipe: .*seed.* in the unfinished run, .*plain.* now"):
        infer_folder(replace(options, model=tmp_path / "plain.onnx", resume=True))


def test_resume_on_another_provider_is_refused(options: Options) -> None:
    needs_openvino()
    write_crops(options.folder, 40, broken=2)
    infer_folder(options)
    path = options.output / ".glomedge" / "journal"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-4]))
    with pytest.raises(OutputError, match="cpu in the unfinished run, openvino now"):
        infer_folder(replace(options, resume=True, engine=replace(options.engine, provider="openvino")))


def test_new_and_changed_files_are_taken_up_by_resume(options: Options) -> None:
    infer_folder(options)
    before = {row["path"]: row for row in table(options.output)}
    changed, added = "a/case1-10.png", "b/new-1.png"
    donor = (options.folder / "b" / "case0-9.png").read_bytes()
    for name in (changed, added):
        (options.folder / name).write_bytes(donor)
    (options.folder / "a" / "case0-12.png").unlink()
    infer_folder(replace(options, resume=True))
    after = {row["path"]: row for row in table(options.output)}
    assert set(after) == set(before) | {added}  # what was answered stays answered
    assert after[changed]["sha256"] == after[added]["sha256"] == hashlib.sha256(donor).hexdigest()
    assert {path for path in before if before[path] != after[path]} == {changed}


def test_faults_that_may_pass_are_tried_again(options: Options) -> None:
    link = options.folder / "a" / "case1-10.png"
    data = link.read_bytes()
    link.unlink()
    link.symlink_to(options.folder / "later")
    infer_folder(replace(options, follow_symlinks=True))
    assert [row["status"] for row in table(options.output) if "case1-10" in row["path"]] == ["error:vanished"]
    (options.folder / "later").write_bytes(data)
    infer_folder(replace(options, follow_symlinks=True, resume=True))
    assert [row["status"] for row in table(options.output) if "case1-10" in row["path"]] != ["error:vanished"]


def test_resuming_a_finished_run_says_that_it_had_finished(options: Options) -> None:
    before = infer_folder(options)
    again = infer_folder(replace(options, resume=True))
    assert again.predicted == 0
    assert again.counts == before.counts
    assert any(note.startswith("The earlier run had finished, with 30 results") for note in again.notes)


def test_a_journal_that_others_wrote_into_is_never_published_short(options: Options) -> None:
    expected = infer_folder(replace(options, output=options.output.with_name("whole")))
    inner = default_decoder()
    path = options.output / ".glomedge" / "journal"

    def read(name: bytes) -> bytes:
        if name.endswith(b"case2-17.png"):
            with path.open("ab") as journal:
                journal.write(b"junk\n")
        return inner.read(name)

    with pytest.raises(OutputError, match=r"of 30 inputs have no result.*No result file was written.*--resume"):
        infer_folder(options, decoder=inner._replace(read=read))
    assert not (options.output / "predictions.csv").exists()
    outcome = infer_folder(replace(options, resume=True))
    assert any("journal was damaged" in note for note in outcome.notes)
    assert outcome.counts == expected.counts
    assert outputs(options.output) == outputs(options.output.with_name("whole"))


def test_an_unfinished_run_is_not_dropped_for_one_flipped_bit(options: Options) -> None:
    infer_folder(options)
    path = options.output / ".glomedge" / "journal"
    data = path.read_bytes()
    path.write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    for resume in (False, True):
        with pytest.raises(OutputError, match=r"damaged.*--overwrite"):
            infer_folder(replace(options, resume=resume))
    assert path.stat().st_size == len(data)
    assert infer_folder(replace(options, overwrite=True)).predicted == 30


def test_what_is_no_probability_is_the_error_of_its_crop(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    real = loading.open_engine

    def load(*arguments: Any, **options: Any) -> engine.Engine:
        loaded = real(*arguments, **options)
        infer = loaded.infer

        def poisoned(images_nhwc: npt.NDArray[np.uint8]) -> engine.Output:
            output = infer(images_nhwc)
            probability = output.probability.copy()
            probability[0] = next(bad)
            return engine.Output(probability, output.activation)

        monkeypatch.setattr(loaded, "infer", poisoned)
        return loaded

    bad = itertools.cycle([np.float32(1.0000001), np.float32(2e38)])
    monkeypatch.setattr(loading, "open_engine", load)
    outcome = infer_folder(options)
    rows = table(options.output)
    assert len(rows) == 30
    assert outcome.exit_code == 2
    messages = {row["message"] for row in rows if row["status"] == "error:nonfinite"}
    assert [any(text in message for message in messages) for text in ("1.0000001", "2e+38")] == [True, True]
    assert all(0.0 <= float(row["probability"]) <= 1.0 for row in rows if row["probability"])
