"""What an export refuses before it converts anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.errors import OutputError, UsageError
from glomedge_export.export import Request, export


def test_an_output_folder_that_is_missing_or_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    missing = Request(tmp_path / "gone.keras", output=tmp_path / "none" / "model.onnx")
    with pytest.raises(UsageError, match="does not exist"):
        export(missing)
    if not Path("/proc/self").is_dir():
        pytest.skip("needs a folder that even root cannot write to: /proc")
    unwritable = Request(tmp_path / "gone.keras", output=Path("/proc/self/model.onnx"))
    with pytest.raises(OutputError, match=r"cannot be written: .* Choose another --output\."):
        export(unwritable)
