"""Options that several commands share: one name, one help text and one panel of ``--help`` for each.

A command that opens a model takes ``engine: EngineOptions`` and is decorated with ``takes_engine_options``; on the
command line that one parameter is an option for each of the object's fields.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

MODEL, ENGINE, RESULTS, DECODING = "Model", "Engine", "Results", "Decoding"
BIOPSIES, CONTINUING, LABELS, SLIDES = "Biopsies", "Continuing a run", "Labels", "Slides"
SHARDS = "One run by several processes"
"""Panels of ``--help``."""

PROVIDER_HELP = "auto, cpu, cuda, tensorrt, tensorrt-rtx or openvino. Exactly this one is used."
CASE_PATTERN_HELP = "Regular expression with the group (?P<case>...) and, optionally, (?P<slide>...)."

Model = Annotated[Path, typer.Option("--model", "-m", help="The exported model.", rich_help_panel=MODEL)]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        help="Crops at or above this probability are called globally sclerotic. Default: the model's.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        help="Decode threads. Default: one per core; eight per core from storage.",
        show_default=False,
        rich_help_panel=DECODING,
    ),
]
CasePattern = Annotated[
    str | None,
    typer.Option("--case-pattern", help=CASE_PATTERN_HELP, show_default=False, rich_help_panel=BIOPSIES),
]


def model_argument(help_text: str, default: Path = DEFAULT_MODEL) -> Any:
    """``MODEL``, for commands that take the model as an argument as well as with ``--model`` (``one_model``)."""
    return typer.Argument(metavar="MODEL", help=f"{help_text} Default: {default}.", show_default=False)


def model_option(help_text: str = "Same as the argument MODEL.") -> Any:
    """``--model``, where there is no default, or in addition to the argument."""
    return typer.Option("--model", "-m", help=help_text, show_default=False, rich_help_panel=MODEL)


def json_option(help_text: str = "Print one JSON object instead of text.") -> Any:
    """``--json``."""
    return typer.Option("--json", help=help_text, rich_help_panel=RESULTS)


def one_model(argument: Path | None, option: Path | None, default: Path = DEFAULT_MODEL) -> Path:
    """The model given as an argument or with ``--model``, else the default. Raises UsageError if both differ."""
    if argument is not None and option is not None and argument != option:
        raise UsageError(f"Two models were given: {argument} and --model {option}. Give only one.")
    return option or argument or default


# In the order in which --help lists them.
_ENGINE: dict[str, Any] = {
    "provider": Annotated[str, typer.Option("--provider", "-p", help=PROVIDER_HELP, rich_help_panel=ENGINE)],
    "allow_fallback": Annotated[
        bool,
        typer.Option(
            "--allow-fallback",
            help="Use another provider if --provider cannot run, and report it.",
            rich_help_panel=ENGINE,
        ),
    ],
    "strict_placement": Annotated[
        bool,
        typer.Option(
            "--strict-placement",
            help="Fail if part of the model would run on another provider.",
            rich_help_panel=ENGINE,
        ),
    ],
    "batch_size": Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            help="Crops per model call. Default: 4; on a GPU, 32.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ],
    "max_batch": Annotated[
        int | None,
        typer.Option(
            "--max-batch",
            help="Largest batch size on the device. Default: the model's.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ],
    "fixed_batch": Annotated[
        bool,
        typer.Option(
            "--fixed-batch", help="For GPUs: run one batch size only, as a captured CUDA graph.", rich_help_panel=ENGINE
        ),
    ],
    "bf16": Annotated[
        bool,
        typer.Option("--bf16", help="Compute an fp32 model in bfloat16 (openvino).", rich_help_panel=ENGINE),
    ],
    "cache_dir": Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            help="Folder for engines built on this machine, not writable by others. Default: your cache folder.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ],
}


def takes_engine_options(*omitted: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter ``engine: EngineOptions`` is, on the command line, one option for each field.

    Args:
        omitted: fields that do not apply to the command, or that it declares itself; they keep their defaults.
    """
    names = [name for name in _ENGINE if name not in omitted]
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(EngineOptions, name), annotation=_ENGINE[name]
        )
        for name in names
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.name != "engine"
        ]
        # The engine's options take the place of the parameter.
        place = list(signature.parameters).index("engine")
        parameters = [*own[:place], *options, *own[place:]]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            engine = EngineOptions(**{name: given.pop(name) for name in names})
            engine.check()
            command(engine=engine, **given)

        # typer asks for both.
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        setattr(run, "__signature__", signature.replace(parameters=parameters))  # noqa: B010 - mypy knows no such name
        return run

    return decorate
