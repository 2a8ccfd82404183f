"""Memory stays flat over 100,000 crops (FAULTS 35)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import build_tiny_model
from runkit import write_crops

# The folder's list and the journal's index grow with the folder, some 300 bytes a crop; nothing else may.
_SCRIPT = """
import json, sys
from pathlib import Path
from glomedge.folderrun import Options, infer_folder

def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

seen = []

def progress(done, total):
    seen.append((done, rss_mb()))

crops, model, output = sys.argv[1:]
outcome = infer_folder(Options(Path(crops), Path(model), Path(output), provider="cpu"), progress=progress)
warm = max(rss for done, rss in seen if done <= outcome.inputs // 20)
status = Path("/proc/self/status").read_text().splitlines()
peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e3
running = max(rss for _, rss in seen)
print(json.dumps({"rows": outcome.answered, "warm_mb": warm, "running_mb": running, "peak_mb": peak}))
"""


def _measure(tmp_path: Path, count: int) -> dict[str, float]:
    drawn = tmp_path / "drawn"
    names = write_crops(drawn, 50, broken=1)
    crops = tmp_path / "crops"
    for index in range(count):
        folder = crops / f"{index // 1000:03d}"
        if index % 1000 == 0:
            folder.mkdir(parents=True)
        os.link(drawn / names[index % len(names)], folder / f"case{index % 400}-{index}.png")
    build_tiny_model(tmp_path / "model.onnx")
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(crops), str(tmp_path / "model.onnx"), str(tmp_path / "out")],
        capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    print(found)
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_memory_over_100000_crops(tmp_path: Path) -> None:
    found = _measure(tmp_path, 100_000)
    assert found["rows"] == 100_000
    # From warm (a twentieth of the run) to the greatest ever, the making of the files included.
    assert found["peak_mb"] - found["warm_mb"] < 100.0


def test_memory_over_2000_crops(tmp_path: Path) -> None:
    found = _measure(tmp_path, 2_000)
    assert found["rows"] == 2_000
    assert found["running_mb"] - found["warm_mb"] < 40.0
