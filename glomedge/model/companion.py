"""Files for other programs, which export writes beside a model: the enhancement alone, or enhancement and model in one.

They are sealed as a model is and describe themselves as fully, but under keys of their own: no command of glomedge
takes one for a model, because glomedge enhances crops by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import ModelError
from glomedge.model.file import ENHANCEMENT_KEY, MERGED_KEY, SealedFile, read_sealed, sealed_with
from glomedge.model.frozen import Frozen, Sha256
from glomedge.model.graph import GraphFacts, check_self_contained, read_graph_facts
from glomedge.model.spec import ModelSpec, Recipe


class CropInput(Frozen):
    """One decoded crop of any size from 1 x 1: uint8 ``[height, width, 3]``, RGB."""

    name: Literal["crop"] = "crop"
    layout: Literal["HWC"] = "HWC"
    channel_order: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"


class CropsInput(Frozen):
    """Decoded crops of one size from 1 x 1, at least one: uint8 ``[N, height, width, 3]``, RGB."""

    name: Literal["crops"] = "crops"
    layout: Literal["NHWC"] = "NHWC"
    channel_order: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"


class ExactGate(Frozen):
    """What was compared at export, without any difference.

    Attributes:
        crops: how many drawn crops, one for each way of resizing and a flat one.
        reference: what they had to equal.
        runtime: what ran the file.
    """

    crops: int = Field(ge=1)
    differing_bytes: Literal[0] = 0
    reference: str
    runtime: str


class EnhancementSpec(Frozen):
    """A file with one step: ``crop`` to ``image``, uint8 ``[side, side, 3]`` as the network sees it.

    Attributes:
        recipe: what it does; ``size_px`` is the side.
        gate: it gave the bytes of ``glomedge.enhance``.
    """

    kind: Literal["enhancement"] = "enhancement"
    schema_version: Literal[1] = 1
    producer: str
    created_utc: str
    notice: str = RESEARCH_USE_NOTICE
    input: CropInput = CropInput()
    output: Literal["image"] = "image"
    recipe: Recipe
    opset: int
    gate: ExactGate


class MergedSpec(Frozen):
    """A file from pixels to answers: ``crops`` to the outputs of ``model``.

    Attributes:
        model: the spec of the model inside; its recipe comes first.
        exported_as: the name under which that model was exported.
        model_sha256: by which every record knows it.
        gate: it gave the answers of enhancement and model one after the other.
    """

    kind: Literal["merged"] = "merged"
    schema_version: Literal[1] = 1
    producer: str
    created_utc: str
    notice: str = RESEARCH_USE_NOTICE
    input: CropsInput = CropsInput()
    model: ModelSpec
    exported_as: str
    model_sha256: Sha256
    opset: int
    gate: ExactGate


CompanionSpec = EnhancementSpec | MergedSpec
_KEYS: dict[str, type[EnhancementSpec] | type[MergedSpec]] = {
    ENHANCEMENT_KEY: EnhancementSpec,
    MERGED_KEY: MergedSpec,
}


@dataclass(frozen=True)
class CompanionFile:
    """One of these files, intact.

    Attributes:
        path: where it is.
        spec: what it declares about itself.
        facts: what its graph declares.
        sha256: of the sealed bytes.
        size_bytes: the file's size.
    """

    path: Path
    spec: CompanionSpec
    facts: GraphFacts
    sha256: str
    size_bytes: int


def sealed_companion(graph: bytes, spec: CompanionSpec) -> bytes:
    """The bytes of a complete file: a serialised ModelProto without glomedge entries, plus spec, plus seal."""
    key = next(key for key, kind in _KEYS.items() if isinstance(spec, kind))
    return sealed_with(graph, key, spec.model_dump_json())


def is_companion(file: SealedFile) -> bool:
    """Whether a sealed file is of a kind of this module."""
    return any(key in file.entries for key in _KEYS)


def read_companion(path: Path | str) -> CompanionFile:
    """Check the seal, the spec and the graph of such a file. Raises ModelError."""
    return companion_of(read_sealed(path))


def companion_of(file: SealedFile) -> CompanionFile:
    """The same of a file whose seal has been checked. Raises ModelError."""
    for key, kind in _KEYS.items():
        if key in file.entries:
            return _companion(file, _parsed(file, key, kind))
    raise ModelError(f"{file.path} is no enhancement and no merged file. Make one with: glomedge export --help")


def _parsed(file: SealedFile, key: str, kind: type[EnhancementSpec] | type[MergedSpec]) -> CompanionSpec:
    try:
        return kind.model_validate_json(file.entries[key])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ModelError(
            f"The spec inside {file.path} is not one this glomedge understands: {where}: {first['msg']}. "
            "Export it again with this version, or install the version that made it."
        ) from error


def _companion(file: SealedFile, spec: CompanionSpec) -> CompanionFile:
    facts = read_graph_facts(file.path)
    check_self_contained(file.path, facts)
    if facts.opset != spec.opset:
        raise ModelError(
            f"The spec inside {file.path} and its graph disagree on opset: spec {spec.opset}, graph {facts.opset}. "
            "Export it again."
        )
    return CompanionFile(file.path, spec, facts, file.sha256, file.size_bytes)
