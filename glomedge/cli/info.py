"""``glomedge info``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option, model_argument, model_option, one_model

if TYPE_CHECKING:
    from glomedge.model.companion import CompanionFile
    from glomedge.model.file import ModelFile
    from glomedge.model.graph import GraphFacts

_BULKY = {"golden": {"pixels_zlib_base64"}, "calibration": {"names"}, "training": {"crop_digests"}}


def info(
    model_path: Annotated[
        Path | None, model_argument("The exported model, or a Keras file: .keras, .h5, SavedModel folder.")
    ] = None,
    model: Annotated[Path | None, model_option()] = None,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Show what is in an exported model, or in a Keras file and which export command that needs.

    A file that is damaged or of another kind is rejected with the reason.
    """
    path = one_model(model_path, model)
    if _is_keras(path):
        _describe_keras(path, as_json)
        return
    from glomedge.model.companion import companion_of, is_companion
    from glomedge.model.file import model_of, read_sealed
    from glomedge.model.graph import check_graph

    sealed = read_sealed(path)
    if is_companion(sealed):
        companion = companion_of(sealed)
        document, show = describe_companion(companion), print_companion
    else:
        file = model_of(sealed)
        document, show = describe(file, check_graph(path, file.spec)), print_info
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        show(document)


def _is_keras(path: Path) -> bool:
    if path.is_dir():
        return (path / "saved_model.pb").exists()
    if not path.is_file():
        return False  # a pipe or a device would be waited for
    try:
        with path.open("rb") as handle:
            head = handle.read(8)
    except OSError:
        return False
    return head.startswith((b"PK\x03\x04", b"\x89HDF")) or path.suffix in (".keras", ".h5", ".hdf5")


def _describe_keras(path: Path, as_json: bool) -> None:
    # The one command of the edge that reads Keras files; this part of glomedge_export needs no framework.
    from glomedge_export.keras_files.describe import describe as describe_keras
    from glomedge_export.keras_files.describe import in_rows

    found = describe_keras(path)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
        return
    _print_rows(in_rows(found))
    typer.echo(RESEARCH_USE_NOTICE)


def describe(file: ModelFile, facts: GraphFacts) -> dict[str, Any]:
    """The file, its graph and its spec as plain values, without the golden pixels and the calibration names."""
    from glomedge.model import origin

    spec = _without_bulk(file.spec.model_dump(mode="json"))
    return {
        "file": {"path": str(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256, "seal": "intact"},
        "graph": {"opset": facts.opset, "operators": dict(sorted(facts.operators.items()))},
        "said": {
            "network": origin.network(file.spec),
            "source": origin.source(file.spec),
            "unknown": origin.unknown(file.spec),
        },
        "spec": spec,
    }


def _without_bulk(spec: dict[str, Any]) -> dict[str, Any]:
    for part, fields in _BULKY.items():
        if spec[part] is not None:
            spec[part] = {key: value for key, value in spec[part].items() if key not in fields}
    return spec


def describe_companion(file: CompanionFile) -> dict[str, Any]:
    """The same of a file for other programs: the enhancement alone, or merged with a model."""
    spec = file.spec.model_dump(mode="json")
    if "model" in spec:
        spec["model"] = _without_bulk(spec["model"])
    return {
        "file": {"path": str(file.path), "size_bytes": file.size_bytes, "sha256": file.sha256, "seal": "intact"},
        "graph": {"opset": file.facts.opset, "operators": dict(sorted(file.facts.operators.items()))},
        "spec": spec,
    }


def print_companion(document: dict[str, Any]) -> None:
    """What such a file takes and gives, and what it was compared with."""
    spec, file, model = document["spec"], document["file"], document["spec"].get("model")
    recipe = spec["recipe"] if model is None else model["recipe"]
    gate, side_px = spec["gate"], recipe["size_px"]
    what = (
        "the colour enhancement alone, for programs other than glomedge"
        if model is None
        else "enhancement and model in one, for programs other than glomedge"
    )
    shape = "[height, width, 3]" if model is None else "[N, height, width, 3], the crops of a batch of one size"
    rows = [
        ("file", f"{file['path']}, {file['size_bytes'] / 1e6:.2f} MB, seal intact"),
        ("sha256", file["sha256"]),
        ("holds", what),
        ("made by", f"{spec['producer']}, {spec['created_utc']}"),
        ("input", f"'{spec['input']['name']}', uint8 {shape}, RGB, any size"),
        ("recipe", f"'{recipe['name']}' ({_recipe_steps(recipe)})"),
    ]
    if model is None:
        rows.append(
            ("output", f"'{spec['output']}', uint8 [{side_px}, {side_px}, 3], as a model of this recipe sees it")
        )
    else:
        rows += [
            ("model", f"{spec['exported_as']}, sha256 {spec['model_sha256']}, {model['precision']}"),
            _answers(model),
        ]
    rows += [
        ("compared", f"0 differing bytes on {gate['crops']} crops: {gate['reference']} ({gate['runtime']})"),
        ("opset", f"{document['graph']['opset']}, standard operators: {len(document['graph']['operators'])} kinds"),
    ]
    _print_rows(rows)
    typer.echo(spec["notice"])


def _recipe_steps(recipe: dict[str, Any]) -> str:
    return (
        f"equalise {'on' if recipe['equalise'] else 'off'}, saturation x{recipe['saturation_factor']:g}, "
        f"hue {recipe['hue_degrees']:+g} degrees"
    )


def _answers(spec: dict[str, Any]) -> tuple[str, str]:
    return (
        "answers",
        f"'{spec['class_names'][1]}' from probability {spec['threshold']:g}, else '{spec['class_names'][0]}'; "
        f"temperature {spec['temperature']:g}",
    )


def print_info(document: dict[str, Any]) -> None:
    """The same as a table: the file, its output, its training, and its agreement with Keras."""
    spec, file, graph = document["spec"], document["file"], document["graph"]
    recipe = spec["recipe"]
    rows = [
        ("file", f"{file['path']}, {file['size_bytes'] / 1e6:.1f} MB, seal intact"),
        ("sha256", file["sha256"]),
        ("made by", f"{spec['producer']}, {spec['created_utc']}"),
        ("precision", f"{spec['precision']} for target '{spec['target']}', opset {graph['opset']}"),
        ("graph", ", ".join(f"{count} {name}" for name, count in graph["operators"].items())),
        ("work", f"{spec['multiply_adds'] / 1e9:.3f} G multiply-adds a crop"),
        *((name, sentence) for name, sentence in document["said"].items() if sentence is not None),
        (
            "input",
            f"uint8 [N, {spec['input']['height_px']}, {spec['input']['width_px']}, 3] "
            f"{spec['input']['channel_order']}, recipe '{recipe['name']}' ({_recipe_steps(recipe)}), "
            f"scaling {spec['input_scaling']}",
        ),
        _answers(spec),
        *([("scale", f"trained on crops of {spec['mpp']:g} microns per pixel")] if spec.get("mpp") else []),
        ("batches", "min {min}, usual {opt}, max {max}".format(**spec["batch_profile"])),
        (
            "self-test",
            f"crop {spec['golden']['seed']} must give probability {spec['golden']['probability']:.6f} "
            f"(+-{spec['golden']['probability_tolerance']:g})",
        ),
    ]
    rows += _site(spec["site"]) + _training(spec["training"]) + _parity(spec["parity"])
    if spec["calibration"] is not None:
        calibration = spec["calibration"]
        rows.append(
            (
                "calibrated",
                f"{calibration['method']} on {calibration['crops']} crops of {calibration['cases']} biopsies",
            )
        )
    _print_rows(rows)
    typer.echo(spec["notice"])


def _print_rows(rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    for name, text in rows:
        table.add_row(f"[bold]{name}[/bold]", escape(text))
    Console(highlight=False).print(table)


def _site(site: dict[str, Any] | None) -> list[tuple[str, str]]:
    if site is None:
        return []
    return [
        (
            "site",
            f"recalibrated for {site['site']}, {site['created_utc']}: {site['crops']} labelled crops of "
            f"{site['cases']} biopsies; slope {site['slope']:.3f}, offset {site['offset']:+.3f}; "
            f"from {site['parent_sha256']}",
        )
    ]


def _training(training: dict[str, Any] | None) -> list[tuple[str, str]]:
    if training is None:
        return [("trained", "not recorded")]
    splits = ", ".join(
        f"{name} {part['crops']} ({part['positive']} positive, {part['cases']} biopsies)"
        for name, part in training["splits"].items()
    )
    rows = [
        ("trained", f"on {training['data_name']}: {splits}; split by {training['split_method']}"),
        ("weights", f"{training['weights']}; best epoch {training['best_epoch']} of {training['epochs']}"),
    ]
    metrics = ", ".join(f"{name} {_interval(value)}" for name, value in training["metrics"].items())
    return [*rows, ("metrics", metrics)] if metrics else rows


def _interval(value: dict[str, Any]) -> str:
    if value["low"] is None or value["high"] is None:
        return f"{value['value']:.4g}"
    return f"{value['value']:.4g} ({value['low']:.4g}-{value['high']:.4g})"


def _parity(parity: dict[str, Any] | None) -> list[tuple[str, str]]:
    if parity is None:
        return [("parity", "not recorded")]
    return [
        (
            "parity",
            f"against {parity['reference']} on {parity['crops']} crops: worst probability difference "
            f"{parity['max_probability_difference']:.2g}, {parity['flips']} flips",
        )
    ]
