"""``glomedge doctor``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.cli.options import json_option, model_option, takes_engine_options
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions

if TYPE_CHECKING:
    from glomedge.engine.doctor import Diagnosis, ProviderReport


@takes_engine_options("allow_fallback")
def doctor(
    model: Annotated[
        Path | None,
        model_option(f"Try this model on every provider, or on --provider. Default: {DEFAULT_MODEL}, if it exists."),
    ] = None,
    *,
    engine: EngineOptions,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Check this machine: which providers can run a model, why the others cannot, and what to install.

    With --provider auto, every provider is tried; otherwise only that one. Exit code 1 if none works.
    """
    from glomedge.engine.doctor import diagnose

    if model is None and DEFAULT_MODEL.is_file():
        model = DEFAULT_MODEL
    diagnosis = diagnose(model, engine)
    if as_json:
        typer.echo(json.dumps(diagnosis.to_json_object(), indent=2, ensure_ascii=False))
    else:
        print_diagnosis(diagnosis)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def print_diagnosis(found: Diagnosis) -> None:
    """The same in words."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    machine = Table.grid(padding=(0, 2))
    rows = [
        ("glomedge", f"{found.glomedge} on Python {found.python}, {found.system}"),
        ("processor", f"{found.cpu}, {found.usable_cpus} usable CPUs, {' '.join(found.cpu_features) or 'no AVX2'}"),
    ]
    if found.jetson:
        rows.append(("board", f"{found.jetson}; see docs/jetson.md"))
    if found.gpus:
        rows += [
            ("GPU", f"{gpu.name}, compute {gpu.compute_capability}, {gpu.memory_bytes / 2**30:.1f} GiB")
            for gpu in found.gpus
        ]
        runs = f", runs CUDA up to {found.driver_cuda}" if found.driver_cuda else ""
        rows.append(("driver", f"{found.driver}{runs}"))
        rows.append(("TensorRT", ", ".join(found.tensorrt) or "none found"))
        rows += [("note", note) for note in found.gpu_notes]
    else:
        rows.append(("GPU", found.gpu_problem or "none"))
    rows.append(("packages", ", ".join(f"{name} {version}" for name, version in found.packages.items())))
    rows.append(("telemetry", telemetry_line(found)))
    if found.model is not None:
        described = found.model.problem or (
            f"{found.model.path}: {found.model.precision} for target '{found.model.target}', intact"
        )
        rows.append(("model", described))
    for name, text in rows:
        machine.add_row(f"[bold]{name}[/bold]", escape(text))
    console.print(machine)
    console.print()
    table = Table.grid(padding=(0, 2))
    for report in found.providers:
        mark = "[green]yes[/green]" if report.usable else "[red]no[/red]"
        table.add_row(f"[bold]{report.name}[/bold]", mark, escape(describe(report)))
    console.print(table)
    console.print()
    for problem in found.problems:
        console.print(f"[red]Problem:[/red] {escape(problem)}")
    if found.recommendation is not None and found.healthy:
        advice = found.recommendation
        console.print(
            f"Recommended: --provider {advice.provider} --batch-size {advice.batch_size}, precision "
            f"{advice.precision} ({escape(advice.why)})."
        )
    elif not found.healthy:
        console.print("[red]No provider can run here; the reasons are listed above.[/red]")
    console.print(found.notice)


def telemetry_line(found: Diagnosis) -> str:
    """Whether anything would be sent from this machine, in one sentence."""
    on = [f"{state.package}: {state.how}" for state in found.telemetry if not state.off]
    if on:
        return f"ON: {'; '.join(on)}"
    return "off: " + "; ".join(f"{state.package} ({state.how})" for state in found.telemetry)


def describe(report: ProviderReport) -> str:
    """One provider in one sentence."""
    if not report.usable:
        return report.reason.removeprefix(f"{report.name}: ")
    if report.load_s is None:
        return "can run"
    speeds = ", ".join(f"{speed.crops_per_s:.1f} at batch {speed.batch}" for speed in report.speeds)
    notes = f" ({'; '.join(report.notes)})" if report.notes else ""
    return f"self-test {report.self_test}, loaded in {report.load_s:.2f} s; crops/s: {speeds}{notes}"
