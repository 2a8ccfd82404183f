"""What ``glomedge export --with-preprocessing`` and ``--merged`` write beside a model: made, proven, sealed."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import onnx

from glomedge.about import __version__
from glomedge.errors import ModelError, UsageError
from glomedge.model.companion import EnhancementSpec, MergedSpec, read_companion, sealed_companion
from glomedge.model.spec import ModelSpec, Recipe, Target
from glomedge_export.enhancement import gate
from glomedge_export.enhancement.graph import enhancement_graph
from glomedge_export.enhancement.merged import merged_graph

ENHANCEMENT_FILE = "enhance.onnx"


@dataclass(frozen=True)
class Companions:
    """Which files for other programs are written beside the model.

    Attributes:
        enhancement: ``enhance.onnx``, pixels to pixels.
        merged: ``<model>.merged.onnx``, pixels to answers.
    """

    enhancement: bool = False
    merged: bool = False

    def check_target(self, target: Target) -> None:
        """A merged file is proven on onnxruntime and made for it alone. Raises UsageError for another target."""
        if self.merged and target not in ("any", "onnxruntime"):
            why = {
                "tensorrt": "NVIDIA's parser takes neither its uint8 operators nor its scatter",
                "openvino": "OpenVINO does not give the same bytes for every size",
            }[target]
            raise UsageError(
                f"--merged is for onnxruntime, and this file is laid out for {target}: {why}. Use "
                "--with-preprocessing, and enhance on the CPU before the network."
            )

    def check_place(self, output: Path, recipe: Recipe) -> None:
        """``enhance.onnx`` serves all models of a recipe in a folder. Raises UsageError where that name is taken."""
        path = output.with_name(ENHANCEMENT_FILE)
        if not self.enhancement:
            return
        if path == output:
            raise UsageError(f"--output cannot be {path}: the enhancement is written there. Choose another name.")
        if not path.exists():
            return
        try:
            there = read_companion(path).spec
        except ModelError as error:
            raise UsageError(
                f"{path} exists and is no enhancement of glomedge, so it is not replaced. Move it, or choose another "
                "folder with --output."
            ) from error
        if not isinstance(there, EnhancementSpec) or there.recipe != recipe:
            raise UsageError(
                f"{path} belongs to models of another recipe or side than this one ({recipe.name}, {recipe.size_px} "
                "px), so it is not replaced. Choose another folder with --output."
            )


def made(
    wanted: Companions, output: Path, model: onnx.ModelProto, spec: ModelSpec, sha256: str
) -> dict[Path, tuple[bytes, EnhancementSpec | MergedSpec]]:
    """The files that are wanted, by path: their bytes, and what they say of themselves. Nothing is written.

    Args:
        wanted: which.
        output: where the model will be.
        model: its graph, without spec and seal.
        spec: its spec.
        sha256: of the model file's sealed bytes.

    Raises:
        GateError: a byte or an answer differs.
        ModelError: the model cannot be merged.
    """
    files: dict[Path, tuple[bytes, EnhancementSpec | MergedSpec]] = {}
    if wanted.enhancement:
        files[output.with_name(ENHANCEMENT_FILE)] = sealed_enhancement(spec.recipe)
    if wanted.merged:
        graph = _checked(merged_graph(model, spec.recipe))
        both = MergedSpec(
            producer=f"glomedge {__version__}",
            created_utc=_now_utc(),
            model=spec,
            exported_as=output.name,
            model_sha256=sha256,
            opset=spec.opset,
            gate=gate.enforce_merged(graph.SerializeToString(), model.SerializeToString(), spec.recipe),
        )
        files[output.with_suffix(".merged.onnx")] = sealed_companion(graph.SerializeToString(), both), both
    return files


def sealed_enhancement(recipe: Recipe) -> tuple[bytes, EnhancementSpec]:
    """The bytes of ``enhance.onnx`` and what it says of itself. Raises GateError where a byte differs."""
    graph = _checked(enhancement_graph(recipe))
    spec = EnhancementSpec(
        producer=f"glomedge {__version__}",
        created_utc=_now_utc(),
        recipe=recipe,
        opset=graph.opset_import[0].version,
        gate=gate.enforce_enhancement(graph.SerializeToString(), recipe),
    )
    return sealed_companion(graph.SerializeToString(), spec), spec


def _now_utc() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _checked(graph: onnx.ModelProto) -> onnx.ModelProto:
    onnx.checker.check_model(graph, full_check=True)
    return graph
