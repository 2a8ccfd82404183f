"""glomedge against what a user would run instead: Keras, the published script, a tutorial's loop, benchmark_app.

Each way runs in its own process, loaded and warm. Per round every way answers the same crops once, in rotating
order (A B C, B C A, ...), so that a slow moment of the machine hits all of them; a ratio is the median of the ratios
within rounds. Two tables: *engine* (enhanced crops in memory) and *files* (from image files to answers).

    .venv/bin/python -m benchmarks.speed.compare_ways [--quick] [--rounds 7] [--crops 48]
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import (
    WORK,
    Worker,
    alternate,
    environment,
    log,
    markdown_table,
    paired_ratio,
    parser,
    results_directory,
    set_results_directory,
    user_crops,
    write_result,
)
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from benchmarks.ways import WAYS
from glomedge.model.file import read_model_file
from glomedge.system.telemetry import import_matplotlib

BASELINE = {"engine": "Keras tf.function", "files": "published script"}
REFERENCE = "glomedge fp32 cpu"
BENCHMARK_APP = "OpenVINO benchmark_app fp32"
BENCHMARK_APP_INT8 = "OpenVINO benchmark_app int8"


class BenchmarkApp:
    """OpenVINO's own ``benchmark_app``, throughput mode, a few seconds a call; answers seconds for all crops."""

    def __init__(self, program: Path, model: Path, crops: int, seconds: int) -> None:
        self._command = [
            str(program), "-m", str(model), "-d", "CPU", "-hint", "throughput", "-t", str(seconds),
            "-shape", "images[4,224,224,3]",
        ]  # fmt: skip
        self._crops = crops

    def __call__(self) -> float:
        done = subprocess.run(self._command, capture_output=True, text=True, check=False)
        match = re.search(r"Throughput:\s*([\d.]+)\s*FPS", done.stdout)
        if match is None:
            raise RuntimeError(f"benchmark_app gave no throughput: {(done.stdout + done.stderr)[-500:]}")
        return self._crops / float(match.group(1))


def main() -> None:
    """Measure both modes and write ``ways.json`` and ``ways.md``."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--crops", type=int, default=48, help="crops of a round")
    options.add_argument("--budget", type=float, help="seconds of rounds for each table; limits the number of rounds")
    options.add_argument("--way", action="append", help="only these ways (and the baselines); repeatable")
    options.add_argument("--mode", choices=["engine", "files"], action="append")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    rounds = 2 if arguments.quick else arguments.rounds
    crops = 16 if arguments.quick else arguments.crops
    artifacts = prepared_artifacts()
    folder = user_crops(crops)
    enhanced = _enhanced(folder, artifacts, crops)
    gpu = bool(environment()["gpus"])
    names = arguments.way or [name for name in WAYS if gpu or not name.endswith(("cuda", "tensorrt"))]
    document: dict[str, Any] = {"crops": crops, "rounds": rounds, "folder": _describe(folder)}
    texts = []
    setting = Setting(folder, artifacts, enhanced, crops, rounds, arguments.budget)
    for mode in arguments.mode or ["engine", "files"]:
        data, text = compare(mode, names, setting)
        document[mode] = data
        plot(data, crops, results_directory() / f"ways_{mode}.png", mode)
        texts.append(text)
    write_result("ways", document, "\n\n".join(texts), title="glomedge against other ways")


@dataclass(frozen=True)
class Setting:
    """What every way is given.

    Attributes:
        folder: image files.
        artifacts: exported models.
        enhanced: the same crops, enhanced.
        crops: how many there are.
        rounds: alternating rounds.
        budget_s: rounds end early after so long; None for never.
    """

    folder: Path
    artifacts: Path
    enhanced: Path
    crops: int
    rounds: int
    budget_s: float | None = None


@dataclass(frozen=True)
class Measured:
    """Of one mode, by way.

    Attributes:
        samples_s: seconds of each round.
        answers: probability of each crop.
        peak_rss_bytes: of the worker.
        missing: why a way could not run.
    """

    samples_s: dict[str, list[float]]
    answers: dict[str, list[float]]
    peak_rss_bytes: dict[str, int]
    missing: dict[str, str]


def compare(mode: str, names: list[str], setting: Setting) -> tuple[dict[str, Any], str]:
    """One mode: samples, ratios and answers of every way, and its Markdown table."""
    found = _measure(mode, names, setting)
    samples = found.samples_s
    spec = read_model_file(setting.artifacts / "model.onnx").spec
    # The graph divides the logit by the fitted temperature; Keras and the plain conversion know nothing of it.
    answers = {
        name: values if name.startswith("glomedge") else calibrated(values, spec.temperature)
        for name, values in found.answers.items()
    }
    parity = {name: _parity(answers.get(REFERENCE), values, spec.threshold) for name, values in answers.items()}
    baseline = BASELINE[mode] if BASELINE[mode] in samples else next(iter(samples))
    ratios = {name: paired_ratio(samples[baseline], values) for name, values in samples.items()}
    rows = []
    for name, values in samples.items():
        ratio, agreement = ratios[name], parity.get(name)
        rows.append(
            (
                name,
                round(setting.crops / float(np.median(values)), 1),
                f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f})",
                f"{found.peak_rss_bytes[name] / 2**20:.0f}" if name in found.peak_rss_bytes else "-",
                f"{agreement[0]} of {setting.crops}, {agreement[1]:.1e}" if agreement else "-",
            )
        )
    what = "Engine alone: enhanced crops in memory" if mode == "engine" else "From image files to answers"
    header = (
        "way", "crops/s", f"times {baseline} (95% interval)", "peak RSS, MB", "flips and largest difference from fp32",
    )  # fmt: skip
    text = f"**{what}**, {setting.crops} crops, {len(next(iter(samples.values())))} alternating rounds\n\n"
    text += markdown_table(header, rows)
    if any(name.startswith("OpenVINO benchmark_app") for name in samples):
        text += (
            "\nbenchmark_app leaves the precision to OpenVINO: bfloat16 for float files if the processor supports it.\n"
        )
    for name, why in found.missing.items():
        text += f"\nNot here: {name} ({why})"
    data = {
        "samples_s": samples,
        "baseline": baseline,
        "ratios": {name: vars(ratio) for name, ratio in ratios.items()},
        "parity": {name: {"flips": p[0], "max_difference": p[1]} for name, p in parity.items() if p},
        "peak_rss_bytes": found.peak_rss_bytes,
        "missing": sorted(found.missing),
    }
    return data, text


def _measure(mode: str, names: list[str], setting: Setting) -> Measured:
    """Start every way in its own process and time them in turn."""
    log(f"{mode}: starting {len(names)} ways ...")
    missing: dict[str, str] = {}
    with ExitStack() as stack:
        ways: dict[str, Callable[[], float]] = {}
        workers: dict[str, Worker] = {}
        for name in names:
            command = [
                sys.executable, "-m", "benchmarks.ways.worker", name, mode, str(setting.folder),
                str(setting.artifacts), str(setting.enhanced),
            ]  # fmt: skip
            try:
                worker = Worker(command)
            except RuntimeError as error:
                missing[name] = str(error)
                log(f"  {name}: {error}")
                continue
            stack.callback(worker.close)
            workers[name] = ways[name] = worker
        if mode == "engine":
            ways.update(_benchmark_apps(setting.artifacts, setting.crops))
        # Spinning threads of ways just loaded go to sleep.
        time.sleep(1.0)
        # Workers have answered once already; a program that cannot run here must not take the others with it.
        for name in ways.keys() - workers.keys():
            try:
                ways[name]()
            except RuntimeError as error:
                missing[name] = str(error)
                log(f"  {name}: {error}")
                del ways[name]
        samples = alternate(ways, rounds=setting.rounds, warmup=0, budget_s=setting.budget_s)
        answers = {name: [float(p) for p in worker.last["probabilities"]] for name, worker in workers.items()}
        memory = {name: int(worker.last["peak_rss_bytes"]) for name, worker in workers.items()}
    return Measured(samples, answers, memory, missing)


def plot(data: dict[str, Any], crops: int, path: Path, mode: str) -> None:
    """Throughput of every way: the median as a bar, each round as a dot."""
    import_matplotlib().use("Agg")
    plt = import_matplotlib("pyplot")

    names = list(data["samples_s"])
    rates = [[crops / seconds for seconds in data["samples_s"][name]] for name in names]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1.1), layout="constrained")
    colours = ["#0072B2" if name.startswith("glomedge") else "#AAAAAA" for name in names]
    medians = [float(np.median(values)) for values in rates]
    axes.barh(names, medians, color=colours, height=0.7)
    for row, values in enumerate(rates):
        axes.plot(values, [row] * len(values), "o", color="#222222", markersize=2.5)
        axes.annotate(
            f"{medians[row]:.1f}",
            (max(values), row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.invert_yaxis()
    what = "engine alone" if mode == "engine" else "from files to answers"
    axes.set_xlabel(f"crops/s, {what} (bar: median; dots: rounds)")
    axes.set_xlim(0, 1.12 * max(max(values) for values in rates))
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _benchmark_apps(artifacts: Path, crops: int) -> dict[str, Callable[[], float]]:
    program = Path(sys.executable).parent / "benchmark_app"
    if not program.is_file():
        return {}
    found = {BENCHMARK_APP: artifacts / "model.onnx", BENCHMARK_APP_INT8: artifacts / "model.int8.openvino.onnx"}
    return {name: BenchmarkApp(program, path, crops, seconds=3) for name, path in found.items() if path.is_file()}


def _parity(reference: list[float] | None, answers: list[float], threshold: float) -> tuple[int, float] | None:
    if reference is None:
        return None
    a, b = np.array(reference), np.array(answers)
    return int(((a >= threshold) != (b >= threshold)).sum()), float(np.abs(a - b).max())


def calibrated(probabilities: list[float], temperature: float) -> list[float]:
    """What the exported graph makes of Keras' probabilities: sigmoid(logit / temperature)."""
    p = np.clip(np.array(probabilities), 1e-12, 1 - 1e-12)
    return [float(value) for value in 1 / (1 + np.exp(-np.log(p / (1 - p)) / temperature))]


def _enhanced(folder: Path, artifacts: Path, crops: int) -> Path:
    from glomedge.imaging import enhance, images

    path = WORK / f"enhanced-{crops}.npy"
    recipe = read_model_file(artifacts / "model.onnx").spec.recipe
    files = sorted(folder.rglob("*.png"))
    np.save(path, np.stack([enhance.enhance(images.decode(images.read(f)).pixels_hwc, recipe) for f in files]))
    return path


def _describe(folder: Path) -> str:
    files = list(folder.rglob("*.png"))
    size = sum(path.stat().st_size for path in files) / len(files)
    return f"{len(files)} drawn RGBA PNG crops, {size / 1e3:.0f} kB on average"


if __name__ == "__main__":
    main()
