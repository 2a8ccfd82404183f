"""Starting a measuring process and collecting its result or error."""

from __future__ import annotations

import subprocess
from pathlib import Path

from glomedge.bench.worker import Job, Result
from glomedge.errors import (
    EngineError,
    GlomedgeError,
    ModelError,
    OutputError,
    ProviderUnavailableError,
    SelfTestError,
    UsageError,
)
from glomedge.system.children import child_environment, python_command

_REPORTED: dict[str, type[GlomedgeError]] = {
    kind.__name__: kind
    for kind in (EngineError, ModelError, OutputError, ProviderUnavailableError, SelfTestError, UsageError)
}
"""Errors that a measuring process reports by name and that are raised again here."""


def run_job(job: Job, scratch: Path) -> Result:
    """Run one measuring process. Raises the GlomedgeError it reports, EngineError when it dies."""
    job_path, result_path = scratch / "job.json", scratch / "result.json"
    job_path.write_text(job.model_dump_json(), encoding="utf-8")
    done = subprocess.run(
        python_command("glomedge.bench.worker", str(job_path), str(result_path)),
        capture_output=True, text=True, errors="replace", check=False,
        env=child_environment(),
    )  # fmt: skip
    if not result_path.is_file():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise EngineError(
            f"Measuring {job.model.name} on {job.engine.provider} ended with {how}: {last}. Run: glomedge doctor"
        )
    result = Result.model_validate_json(result_path.read_bytes())
    if result.error is not None:
        raise _REPORTED.get(result.error, GlomedgeError)(result.message)
    return result
