"""The NVIDIA providers on a card: one command that tries everything, the likeliest failures first.

    pip install '.[gpu]'                  CUDA; for TensorRT also what `glomedge doctor` names (docs/gpu.md)
    python -m benchmarks.gpu --artifacts artifacts [--data CROPS]
    python -m benchmarks.gpu --rehearse --quick     the CPU stands in: every step, on a machine without a card

Each step runs in a process of its own, and its failure leaves the next to run: an error that a step leaves on the
card, a crash or a hang is that step's result. Everything goes into ``gpu.json`` and one table. The engines are built
in a cache of this run, so the user's stay. In order:

1. the machine, as ``glomedge doctor`` sees it; 2. the CPU's answers to each file; 3. each file on CUDA, then TensorRT,
then TensorRT-RTX, strictly placed, against those answers: fp32 within 1e-4 in probability, fp16 within 5e-3, int8 with
at most 0.5% of the decisions changed; 4. fp16 is faster than fp32, or tensor cores were not used; 5. fixed batch and
captured graphs; 6. an engine found again, a renamed model, damaged engines; 7. out of memory by a large batch; 8. two
processes on the card; 9. throughput of each batch size; 10. ``infer`` on the folder of crops.

Exit code 1 if a step failed, or no GPU provider can run.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.lib import common, gpu_checks
from benchmarks.lib.common import WORK, log, markdown_table, parser, set_results_directory, write_result
from benchmarks.lib.gpu_checks import Job
from benchmarks.lib.steps import Outcome, Step, run_step

PROVIDERS = ("cuda", "tensorrt", "tensorrt-rtx")
# The first of each precision is the one that the steps after agreement use.
FILES = {
    "fp32": ("model.onnx",),
    "fp16": ("model.fp16.onnx", "model.fp16.any.onnx", "model.fp16.tensorrt.onnx"),
    "int8": ("model.int8.tensorrt.onnx",),
}
BATCHES = (1, 8, 32, 64, 128, 256)


def pairs(models: dict[str, list[Path]], providers: Sequence[str]) -> list[tuple[Path, str]]:
    """Which file on which provider: every file, except int8 on CUDA, which has no integer convolutions."""
    return [
        (model, provider)
        for provider in providers
        for precision, files in models.items()
        for model in files
        if not (precision == "int8" and provider == "cuda")
    ]


def plan(job: Job, models: dict[str, list[Path]], providers: Sequence[str]) -> list[tuple[str, Step]]:
    """Every step after the machine's, in order, each with the provider that it needs (empty: none)."""

    def step(name: str, provider: str, check: Any, *arguments: Any) -> tuple[str, Step]:
        return provider, Step(name, partial(check, job, *arguments))

    every = pairs(models, providers)
    firsts = [files[0] for files in models.values() if files]
    files = [model for same in models.values() for model in same]
    steps = [step(f"reference of {model.name}", "", gpu_checks.reference, model) for model in files]
    steps += [step(f"{model.name} on {name}", name, gpu_checks.agrees, model, name) for model, name in every]
    if models["fp32"] and models["fp16"]:
        two = (models["fp32"][0], models["fp16"][0])
        steps += [step(f"tensor cores, {name}", name, gpu_checks.tensor_cores, *two, name) for name in providers]
    usual = [(model, name) for model, name in every if model in firsts]
    steps += [step(f"fixed batch, {m.name} on {name}", name, gpu_checks.fixed_batch, m, name) for m, name in usual]
    # CUDA keeps no engine; where TensorRT cannot run, its plugin for RTX is tried.
    one = firsts[:1]
    for what, check, names in (
        ("engine found again", gpu_checks.second_start, ("tensorrt", "tensorrt-rtx")),
        ("renamed model", gpu_checks.renamed_model, ("tensorrt", "tensorrt-rtx")),
        ("damaged engines", gpu_checks.corrupt_engine, ("tensorrt", "tensorrt-rtx")),
        ("out of memory", gpu_checks.out_of_memory, ("cuda", "tensorrt")),
        ("two processes", gpu_checks.two_processes, ("cuda", "tensorrt")),
    ):
        steps += [step(f"{what}, {name}", name, check, model, name) for model in one for name in names]
    # TensorRT builds an engine for each size, which takes minutes: each has a step's time for itself.
    steps += [
        step(f"throughput of batch {size}, {m.name} on {name}", name, gpu_checks.throughput, m, name, size)
        for m, name in usual
        for size in job.batches
    ]
    # The cores set its pace, so one file shows it: fp16, where there is one.
    fast = (models["fp16"] or models["int8"] or models["fp32"])[:1] if job.crops is not None else []
    steps += [
        step(f"infer, {m.name} on {name}", name, gpu_checks.from_files, m, name) for m in fast for name in providers
    ]
    return steps


def run_all(job: Job, models: dict[str, list[Path]]) -> list[Outcome]:
    """Every step, one after the other; none of their failures stops this."""
    outcomes = [_told(run_step(Step("machine", partial(gpu_checks.machine, job, PROVIDERS))))]
    not_usable: dict[str, str] = (outcomes[0].found or {}).get("not_usable", {})
    for provider, step in plan(job, models, PROVIDERS):
        if provider in not_usable:
            outcomes.append(Outcome(step.name, "not run", not_usable[provider]))
        elif len(not_usable) == len(PROVIDERS):
            outcomes.append(Outcome(step.name, "not run", "no GPU provider can run here"))
        else:
            outcomes.append(_told(run_step(step)))
    return outcomes


def _told(outcome: Outcome) -> Outcome:
    log(f"  {outcome.result:7} {outcome.seconds:6.1f} s  {outcome.name}  {outcome.why}")
    return outcome


def summary(found: dict[str, Any] | None) -> str:
    """What a step found, in a few words for the table."""
    if not found:
        return ""
    if "max_probability_difference" in found:
        words = f"{found['max_probability_difference']:.1e} from the CPU, {found['flips']} flips of {found['crops']}"
        return words + (f", loaded in {found['load_s']:.1f} s" if "load_s" in found else "")
    if "throughput" in found:
        return (
            ", ".join(f"{entry['crops_per_s']:.0f} at {entry['batch']}" for entry in found["throughput"]) + " crops/s"
        )
    if "ratio" in found:
        return f"fp16 {found['ratio']:.2f} times fp32"
    if "usual" in found:
        fixed = [note for note in found["fixed batch"]["notes"] if "out of memory" in note]
        return f"{found['batch']} became {found['usual']['batch_afterwards']}; {'; '.join(fixed)}"
    if "rows" in found:
        return (
            f"{found['crops_per_s']:.0f} crops/s, {found['decoding']['workers']} decoders in {found['decoding']['in']}"
        )
    if "notes" in found:
        return f"loaded in {found['load_s']:.2f} s"
    return str(found.get("what", ""))


def report(outcomes: list[Outcome], job: Job) -> int:
    """Write record and table; the exit code."""
    rows = [
        [outcome.name, outcome.result, round(outcome.seconds, 1), outcome.why or summary(outcome.found)]
        for outcome in outcomes
    ]
    limits = {**gpu_checks.LIMITS, "int8_flips": gpu_checks.INT8_FLIPS}
    title = "NVIDIA providers"
    if job.rehearsal:
        title = "REHEARSAL of benchmarks/gpu.py: the CPU stood in, nothing here is a figure of a GPU"
    write_result(
        "gpu-rehearsal" if job.rehearsal else "gpu",
        {"rehearsal": job.rehearsal, "limits": limits, "steps": [asdict(outcome) for outcome in outcomes]},
        markdown_table(["step", "result", "seconds", "found"], rows),
        title=title,
    )
    failed = [outcome for outcome in outcomes if outcome.result == "FAILED"]
    passed = [outcome for outcome in outcomes if outcome.result == "passed"]
    log(f"{len(passed)} steps passed, {len(failed)} failed, {len(outcomes) - len(passed) - len(failed)} not run")
    return 1 if failed else 0


def found_models(artifacts: Path) -> dict[str, list[Path]]:
    """The exported files that are there, by precision."""
    return {
        precision: [artifacts / name for name in names if (artifacts / name).is_file()]
        for precision, names in FILES.items()
    }


def main() -> int:
    """Parse, try everything, write; the exit code."""
    options = parser(__doc__)
    options.add_argument("--artifacts", type=Path, default=common.ROOT / "artifacts", help="folder of exported files")
    options.add_argument("--data", type=Path, help="folder of real crops; drawn ones otherwise")
    options.add_argument("--crops", type=int, help="at most so many crops (256; 64 with --quick)")
    options.add_argument("--rehearse", action="store_true", help="let the CPU stand in for the card")
    options.add_argument("--child", help="used by the step with two processes")
    arguments = options.parse_args()
    if arguments.child:
        gpu_checks.child(arguments.child)
        return 0
    set_results_directory(arguments.results)
    models = found_models(arguments.artifacts)
    if not any(models.values()):
        log(f"No exported model in {arguments.artifacts.name}: run glomedge export first, or give --artifacts.")
        return 1
    WORK.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="gpu-", dir=WORK))
    job = Job(
        crops=arguments.data,
        count=arguments.crops or (64 if arguments.quick else 256),
        cache=work / "engines",
        work=work,
        batches=(1, 8) if arguments.rehearse else BATCHES[:: 2 if arguments.quick else 1],
        seconds=0.0 if arguments.rehearse else 0.5 if arguments.quick else 2.0,
        rehearsal=arguments.rehearse,
    )
    try:
        return report(run_all(job, models), job)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
