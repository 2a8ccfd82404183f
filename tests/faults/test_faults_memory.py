"""Memory stays flat over 100,000 crops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops

# The folder's list and the table of answers grow with the folder, some 300 bytes a crop; nothing else may, neither in
# the run's own process nor in those that decode for it.
_SCRIPT = """
import json, sys, time
from pathlib import Path
import psutil
from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options, infer_folder

own = psutil.Process()
seen = []  # crops answered, MB of this process, MB of its children

def rss_mb(process):
    try:
        return process.memory_info().rss / 1e6
    except psutil.Error:
        return 0.0

def progress(done, total):
    now = time.monotonic()
    if not seen or now - progress.asked > 0.1:
        progress.asked = now
        seen.append((done, rss_mb(own), sum(map(rss_mb, own.children()))))

crops, model, output, decode_in, heatmaps = sys.argv[1:]
options = Options(
    Path(crops), Path(model), Path(output), engine=EngineOptions("cpu"), decode_in=decode_in,
    heatmaps=Path(output) / "heatmaps" if heatmaps else None, heatmaps_for=heatmaps or "positives",
)
outcome = infer_folder(options, progress=progress)
warm = [mb for mb in seen if mb[0] <= max(600, outcome.inputs // 20)]
status = Path("/proc/self/status").read_text().splitlines()
peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6
print(json.dumps({
    "rows": outcome.answered,
    "heatmaps": sum(1 for _ in (Path(output) / "heatmaps").rglob("*.jpg")),
    "children_mb": max(children for _, _, children in seen),
    "running_growth_mb": max(own + kids for _, own, kids in seen) - max(own + kids for _, own, kids in warm),
    "peak_growth_mb": peak - max(own for _, own, _ in warm),
}))
"""


def _measure(tmp_path: Path, count: int, decode_in: str, heatmaps: str = "") -> dict[str, float]:
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
        [
            *(sys.executable, "-c", _SCRIPT, str(crops), str(tmp_path / "model.onnx"), str(tmp_path / "out")),
            *(decode_in, heatmaps),
        ],
        capture_output=True, text=True, check=False, timeout=3000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout)
    print(found)
    assert found["rows"] == count
    assert (found["heatmaps"] > count // 100) == bool(heatmaps)
    assert (found["children_mb"] > 50.0) == (decode_in == "processes")
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("decode_in", "heatmaps"), [("threads", ""), ("processes", ""), ("threads", "uncertain")])
def test_memory_over_100000_crops(tmp_path: Path, decode_in: str, heatmaps: str) -> None:
    found = _measure(tmp_path, 100_000, decode_in, heatmaps)
    # From warm (a twentieth of the run) to the greatest ever, the making of the files included.
    assert found["running_growth_mb"] < 100.0
    assert found["peak_growth_mb"] < 100.0


@pytest.mark.parametrize("heatmaps", ["", "uncertain"])
@pytest.mark.parametrize("decode_in", ["threads", "processes"])
def test_memory_over_2000_crops(tmp_path: Path, decode_in: str, heatmaps: str) -> None:
    assert _measure(tmp_path, 2_000, decode_in, heatmaps)["running_growth_mb"] < 40.0
