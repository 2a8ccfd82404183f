"""``glomedge serve``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from glomedge.cli.options import CasePattern, model_argument, model_option, one_model, takes_engine_options
from glomedge.engine.options import EngineOptions
from glomedge.errors import MissingExtraError, UsageError

NETWORK, LIMITS = "Network", "Limits"
_GRPC_PORT = 8081


@takes_engine_options()
def serve(
    model_path: Annotated[Path | None, model_argument("The exported model.")] = None,
    model: Annotated[Path | None, model_option()] = None,
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.", rich_help_panel=NETWORK)] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="HTTP port.", rich_help_panel=NETWORK)] = 8080,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"gRPC port. Default: {_GRPC_PORT} where grpcio is installed, else no gRPC.",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    no_grpc: Annotated[bool, typer.Option("--no-grpc", help="HTTP only.", rich_help_panel=NETWORK)] = False,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="One token a line; each request must carry one of them (Authorization: Bearer TOKEN).",
            show_default=False,
            rich_help_panel=NETWORK,
        ),
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Answer other machines without a token.", rich_help_panel=NETWORK),
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate chain, PEM.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="Its private key, PEM.", show_default=False, rich_help_panel=NETWORK)
    ] = None,
    optimise: Annotated[
        Literal["latency", "throughput"],
        typer.Option(help="latency: all cores for one batch. throughput: one core for each of several."),
    ] = "latency",
    engine: EngineOptions,
    queue: Annotated[
        int, typer.Option(min=1, help="Crops in work or waiting, after which 503.", rich_help_panel=LIMITS)
    ] = 128,
    max_crops: Annotated[int, typer.Option(min=1, help="Crops of one request.", rich_help_panel=LIMITS)] = 32,
    max_body: Annotated[int, typer.Option(min=1, help="MB of one request.", rich_help_panel=LIMITS)] = 64,
    request_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for one request.", rich_help_panel=LIMITS)
    ] = 60.0,
    header_timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds for the header of a request.", rich_help_panel=LIMITS)
    ] = 10.0,
    max_slides: Annotated[
        int,
        typer.Option(min=0, help="MB of all slides that the page keeps at once; 0: none.", rich_help_panel=LIMITS),
    ] = 8000,
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for its body.", rich_help_panel=LIMITS)] = 30.0,
    drain_timeout: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that requests in flight have after SIGTERM.", rich_help_panel=LIMITS),
    ] = 8.0,
    audit_log: Annotated[
        Path | None,
        typer.Option(help="File for the audit lines. Default: standard error, with the log.", show_default=False),
    ] = None,
    label_page: Annotated[
        Path | None,
        typer.Option(help="Page that glomedge label wrote; offered beside the page at /.", show_default=False),
    ] = None,
    case_pattern: CasePattern = None,
    site: Annotated[
        str | None,
        typer.Option(help="Where the crops come from, for corrected percentages.", show_default=False),
    ] = None,
) -> None:
    """Answer crops over the network: Open Inference Protocol v2 over HTTP and gRPC, and a page at / to drop crops on.

    SIGTERM finishes what is in flight and ends; SIGHUP loads the model file again and swaps it in.
    """
    for package in ("starlette", "uvicorn", "httptools", *(() if sys.platform == "win32" else ("uvloop",))):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("glomedge serve", package, "serve")
    from glomedge.serve.options import MEGABYTE, Limits, ServeOptions
    from glomedge.serve.server import serve as run

    limits = Limits(
        queue_crops=queue,
        request_crops=max_crops,
        slides_bytes=max_slides * MEGABYTE,
        body_bytes=max_body * MEGABYTE,
        request_s=request_timeout,
        header_s=header_timeout,
        body_s=body_timeout,
        drain_s=drain_timeout,
    )
    run(
        ServeOptions(
            model=one_model(model_path, model),
            host=host,
            port=port,
            grpc_port=_grpc_port(grpc_port, no_grpc=no_grpc),
            engine=engine,
            optimise=optimise,
            token_file=token_file,
            insecure=insecure,
            tls_cert=tls_cert,
            tls_key=tls_key,
            audit_log=audit_log,
            site=site,
            case_pattern=case_pattern,
            label_page=label_page,
            limits=limits,
        )
    )


def _grpc_port(asked: int | None, *, no_grpc: bool) -> int | None:
    if no_grpc:
        if asked is not None:
            raise UsageError("--grpc-port and --no-grpc contradict each other. Leave one of them out.")
        return None
    if importlib.util.find_spec("grpc") is None:
        if asked is not None:
            raise MissingExtraError("--grpc-port", "grpcio", "grpc")
        return None
    return _GRPC_PORT if asked is None else asked
