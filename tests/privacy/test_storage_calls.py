"""A run over object storage calls that storage, and nothing else: no metadata service, no other machine, no file."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.run_kit import write_crops
from helpers.s3_server import Objects, serving
from helpers.traced import run_traced

pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")

CODE = """
import os, sys
for pair in sys.argv[1].split():
    name, _, value = pair.partition("=")
    os.environ[name] = value
del sys.argv[1]
from glomedge.cli import main
main()
"""


@pytest.mark.parametrize("credentials", [True, False])
def test_only_the_storage_that_was_named_is_called(tmp_path: Path, tiny_model: Path, credentials: bool) -> None:
    write_crops(tmp_path / "crops", 6, broken=0)
    bodies = {f"night/{path.name}": path.read_bytes() for path in (tmp_path / "crops").rglob("*.png")}
    (tmp_path / "work").mkdir()
    with serving(Objects(bodies)) as objects:
        given = objects.environment()
        del given["AWS_METADATA_ENDPOINT"]  # it would be asked where it is, which is another machine
        if not credentials:
            del given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"]
        said = " ".join(f"{name}={value}" for name, value in given.items())
        asked = ["infer", "s3://crops/night", "-m", tiny_model, "--provider", "cpu", "-o", "out"]
        done = run_traced(CODE, [said, *asked, "--decode-in", "processes", "--workers", "2"], tmp_path)
    assert done.returncode == (0 if credentials else 1), done.text[-3000:]
    assert ("There are no credentials for S3" in done.text) is not credentials
    assert bool(objects.requests) is credentials
    assert not done.calls
    assert not done.created
    assert done.files == ()
