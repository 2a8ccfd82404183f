"""The fuzz targets under a coverage-guided fuzzer, five minutes each (slow; needs atheris, extra ``fuzz``)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fuzz import test_fuzz_decode, test_fuzz_journal
from fuzz.spec_target import body
from helpers.export_specs import example_spec
from helpers.paths import ROOT

SECONDS = 300


def _decode(_tmp_path: Path, _model: Path) -> dict[str, bytes]:
    return test_fuzz_decode.seeds()


def _spec(_tmp_path: Path, model: Path) -> dict[str, bytes]:
    return {"spec": example_spec().to_json().encode(), "model": body(model.read_bytes())}


def _journal(tmp_path: Path, _model: Path) -> dict[str, bytes]:
    return {"journal": test_fuzz_journal.journal_bytes(tmp_path / "seed")}


@pytest.mark.slow
@pytest.mark.timeout(2 * SECONDS)
@pytest.mark.parametrize(
    ("target", "seeds"), [("decode_atheris", _decode), ("spec_target", _spec), ("journal_target", _journal)]
)
def test_nothing_is_found(
    target: str, seeds: Callable[[Path, Path], dict[str, bytes]], tmp_path: Path, tiny_model: Path
) -> None:
    pytest.importorskip("atheris", reason="atheris not installed: pip install 'glomedge[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, data in seeds(tmp_path, tiny_model).items():
        (corpus / name.replace(" ", "-")).write_bytes(data)
    longest = max(20_000, *(path.stat().st_size for path in corpus.iterdir()))
    limits = (f"-max_total_time={SECONDS}", f"-max_len={longest}", "-rss_limit_mb=4096", "-timeout=30", "-verbosity=0")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "fuzz" / f"{target}.py"), str(corpus), *limits],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        timeout=SECONDS + 200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:].decode(errors="replace")
