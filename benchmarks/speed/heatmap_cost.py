"""The cost of ``--heatmaps`` for the uncertain crops: complete commands with and without, alternating.

    .venv/bin/python -m benchmarks.speed.heatmap_cost --run DATA artifacts/model.int8.onnxruntime.onnx --run drawn MODEL

Goal: under 5%. The cost grows with the share of uncertain crops, so that share is reported too; an untrained model
calls everything uncertain and cannot be used here. ``drawn`` means ``--crops`` drawn full-size crops. ``--pieces``
measures only what one heatmap takes of one core, step by step, without a model; the machine need not be idle for that.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lib.common import (
    ROOT,
    alternate,
    find_model,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    user_crops,
    write_result,
)
from glomedge.imaging import images

PLAIN, DRAWN = "without heatmaps", "with heatmaps for uncertain crops"


def infer(folder: Path, model: Path, shares: list[float], heatmaps: bool) -> None:
    """``glomedge infer`` once, on the CPU; appends the share of crops that got a heatmap."""
    scratch = Path(tempfile.mkdtemp())
    try:
        command = [
            sys.executable,
            "-m",
            "glomedge",
            "infer",
            str(folder),
            "-m",
            str(model),
            "--provider",
            "cpu",
            "--json",
        ]
        command += ["-o", str(scratch / "out")]
        if heatmaps:
            command += ["--heatmaps", str(scratch / "heat"), "--heatmaps-for", "uncertain"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")
        record = json.loads(done.stdout)
        if heatmaps:
            drawn = sum(1 for _ in (scratch / "heat").rglob("*.heatmap.jpg"))
            if drawn != record["counts"]["uncertain"]:
                raise SystemExit(f"{drawn} heatmaps for {record['counts']['uncertain']} uncertain crops")
            shares.append(drawn / record["rows"])
    finally:
        shutil.rmtree(scratch)


def pieces(files: list[Path], rounds: int) -> dict[str, float]:
    """Milliseconds of one core that each step of a heatmap takes: mean over the files, best of the rounds.

    ``grey`` is taken for every crop of a run, what follows for those that are drawn; reading, SHA-256 and decoding only
    for those that were not kept.
    """
    import hashlib

    import cv2
    import numpy as np

    from glomedge.reports import overlay
    from glomedge.results.grey_crops import GreyStore

    cv2.setNumThreads(1)
    activation = np.random.default_rng(0).normal(0.0, 3.0, (7, 7)).astype(np.float32)
    best: dict[str, float] = {}
    for _ in range(rounds):
        kept = GreyStore(ROOT / "build", lambda _: True)
        spent: defaultdict[str, float] = defaultdict(float)

        def step(name: str, run: Callable[[], Any], spent: defaultdict[str, float] = spent) -> Any:
            begin = time.thread_time()
            try:
                return run()
            finally:
                spent[name] += time.thread_time() - begin

        for path in files:
            data = step("read", partial(images.read, path))
            step("SHA-256", partial(hashlib.sha256, data))
            pixels = step("decode", partial(images.decode, data)).pixels_hwc
            grey = step("grey", partial(images.grey, pixels))
            step("keep", partial(kept.put, path.name, grey))
            grey = step("fetch", partial(kept.get, path.name))
            draw = partial(overlay.overlay, grey, activation, limits=(-9.0, 9.0), bgr=True)
            step("overlay without line", draw)
            picture = step("overlay", partial(draw, threshold_logit=0.0))
            step("JPEG", partial(overlay.to_jpeg, picture, bgr=True))
        kept.close()
        for name, seconds in spent.items():
            best[name] = min(best.get(name, seconds), seconds)
    return {name: round(1000.0 * seconds / len(files), 2) for name, seconds in best.items()}


def main() -> None:
    """Measure and write ``heatmap_cost.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument(
        "--run",
        nargs=2,
        action="append",
        metavar=("CROPS", "MODEL"),
        help="a folder, or the word drawn, and a trained model; repeatable. Default: drawn, and what others find",
    )
    options.add_argument("--crops", type=int, default=300, help="how many to draw")
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--pieces", action="store_true", help="only the steps of one heatmap")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    drawn = user_crops(48 if arguments.quick else arguments.crops)
    if arguments.pieces:
        print(json.dumps(pieces(sorted(drawn.rglob("*.png"))[:36], 3 if arguments.quick else 7)))
        return
    rounds = 2 if arguments.quick else arguments.rounds
    runs, rows = [], []
    for crops, model in arguments.run or [("drawn", find_model())]:
        folder, shares = drawn if crops == "drawn" else Path(crops), list[float]()
        ways = {
            PLAIN: partial(infer, folder, Path(model), shares, heatmaps=False),
            DRAWN: partial(infer, folder, Path(model), shares, heatmaps=True),
        }
        samples = alternate(ways, rounds=rounds, warmup=1)
        ratio = paired_ratio(samples[DRAWN], samples[PLAIN])
        cost = {name: round(100 * (getattr(ratio, name) - 1), 1) for name in ("value", "low", "high")}
        kind = "drawn, full size" if crops == "drawn" else folder.name
        name = f"{kind}, {Path(model).name}"
        runs.append({"name": name, "samples_s": samples, "uncertain_share": shares[-1], "cost_percent": cost})
        rows.append(
            (
                name,
                f"{100 * shares[-1]:.1f}%",
                f"{cost['value']}% ({cost['low']} to {cost['high']})",
                "yes" if cost["value"] < 5 else "no",
            )
        )
        log(f"  {rows[-1]}")
    text = f"{rounds} rounds, whole commands.\n\n" + markdown_table(
        ("crops, model", "uncertain crops", "cost of their heatmaps (95% interval)", "under 5%"), rows
    )
    document = {"runs": runs, "rounds": rounds}
    write_result("heatmap_cost", document, text, title="What heatmaps of uncertain crops cost")


if __name__ == "__main__":
    main()
