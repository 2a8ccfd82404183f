"""``run.json``: what was done, on what, and how."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.imaging import images
from glomedge.pipeline.settings import DecodePlan, Settings, decode_plan
from glomedge.runs.folder import Options, infer_folder
from glomedge.system.cpu import usable_cpus


def test_the_run_record_says_what_was_done(options: Options) -> None:
    outcome = infer_folder(options)
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    assert record == json.loads(json.dumps(outcome.record))
    assert record["notice"] == RESEARCH_USE_NOTICE
    assert record["counts"]["error"] == 2
    assert record["inputs"] == record["rows"] == 30
    assert record["counts"]["ok"] + record["counts"]["flagged"] == 28
    assert record["counts"]["positive"] + record["counts"]["negative"] == 28
    assert record["arguments"]["model"] == str(options.model)
    for name, digest in record["files_sha256"].items():
        assert hashlib.sha256((options.output / name).read_bytes()).hexdigest() == digest
    assert set(record["files_sha256"]) == {"predictions.csv", "cases.csv", "report.html"}
    assert record["decoding"] == {"png_decoder": images.png_decoder(), "workers": usable_cpus(), "in": "threads"}
    assert "pyarrow" not in record["versions"]
    assert infer_folder(replace(options, resume=True)).record["decoding"] is None


def test_the_run_record_says_how_it_was_decoded_and_written(options: Options) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    record = infer_folder(replace(options, workers=3, decode_in="processes", formats=("parquet",))).record
    assert record["decoding"] == {"png_decoder": images.png_decoder(), "workers": 3, "in": "processes"}
    assert record["versions"]["pyarrow"] == version("pyarrow")


@pytest.mark.parametrize(
    ("fast", "gpu", "workers", "processes"),
    [
        (True, False, 3, False),
        (True, False, 4, True),
        (True, True, 1, False),
        (True, True, 2, True),
        (False, False, 64, False),
        (False, True, 3, False),
        (False, True, 4, True),
    ],
)
def test_who_decodes_follows_the_decoder_and_the_gpu(
    monkeypatch: pytest.MonkeyPatch, fast: bool, gpu: bool, workers: int, processes: bool
) -> None:
    monkeypatch.setattr("glomedge.imaging.decoders.fast_png_decoder", lambda: (lambda *_: None) if fast else None)
    assert decode_plan(workers, gpu=gpu) == DecodePlan(workers, processes)
    assert decode_plan(workers, gpu=gpu, decode_in="threads") == DecodePlan(workers, processes=False)
    assert decode_plan(workers, gpu=gpu, decode_in="processes") == DecodePlan(workers, processes=True)
    monkeypatch.setattr("glomedge.system.cpu.usable_cpus", lambda: workers)
    assert decode_plan(None, gpu=gpu) == DecodePlan(workers, processes)


@pytest.mark.parametrize(
    ("decode_in", "gpu", "workers", "expected"),
    [
        ("auto", False, 3, "threads"),
        ("auto", False, 4, "processes"),
        ("auto", True, 1, "threads"),
        ("auto", True, 2, "processes"),
        ("threads", True, 16, "threads"),
        ("processes", False, 1, "processes"),
    ],
)
def test_where_it_is_decoded(
    options: Options, monkeypatch: pytest.MonkeyPatch, decode_in: str, gpu: bool, workers: int, expected: str
) -> None:
    from glomedge.engine import providers
    from glomedge.imaging import decoders

    # On a GPU that is not there, the run ends when the model is loaded: what it chose until then is looked at.
    monkeypatch.setattr(providers, "runs_on_gpu", lambda *_: gpu)
    monkeypatch.setattr(decoders, "fast_png_decoder", lambda: lambda *_: None)
    chosen: list[Settings] = []

    class SeenError(Exception):
        pass

    def pipeline(root: bytes, settings: Settings, *others: object, **more: object) -> None:
        chosen.append(settings)
        raise SeenError

    monkeypatch.setattr("glomedge.runs.pipeline_run.Pipeline", pipeline)
    with pytest.raises(SeenError):
        infer_folder(replace(options, decode_in=decode_in, workers=workers))
    assert ("processes" if chosen[0].decode_processes else "threads") == expected
    assert chosen[0].decode_workers == workers
