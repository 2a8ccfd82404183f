"""What shards have left in their folders, and whether they are all of one run."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomedge.cases.text import some
from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError, UsageError
from glomedge.files.addresses import address_of
from glomedge.files.names import escape_name, unescape_name
from glomedge.results.folder import JOURNAL, WORK_FOLDER
from glomedge.results.journal import Identity, read_head
from glomedge.runs.options import Options, SlideOptions
from glomedge.runs.shard import INPUTS_FILE, SCHEMA, SHARD_FILE
from glomedge.runs.shard_of import BY_CHOICES, MOST_SHARDS, Shard

_NOT_COMPARED = frozenset({"shard", "output", "workers", "decode_timeout_s", "decode_in", "resume", "overwrite"})
_RECORD = frozenset({"notes", "engine", "decoding", "rows", "started_utc", "times", "machine"})
"""What a merge reads of ``run.json``, besides its SHA-256 of the inputs."""
_WORDS = {"model_sha256": "model", "folder": "folder of crops"}


@dataclass(frozen=True)
class ShardFiles:
    """One shard as its folder describes it.

    Attributes:
        folder: where it is.
        described: its ``shard.json``.
        identity: what its rows depend on.
        record: its ``run.json``; empty where there is none, because it is not finished.
    """

    folder: Path
    described: dict[str, Any]
    identity: Identity
    record: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> ShardFiles:
        """Raises UsageError where the folder is not that of a shard, OutputError where its files cannot be used."""
        shown, path = escape_name(bytes(folder)), folder / WORK_FOLDER / SHARD_FILE
        described = _json_object(path)
        if described is None:
            raise UsageError(
                f"{shown} is not the folder of a shard, and has none in it. Give what glomedge infer --shard wrote."
            )
        if described.get("schema") != SCHEMA:
            raise OutputError(f"{shown} was written by another version of glomedge. Run that shard again.")
        identity = read_head(folder / WORK_FOLDER / JOURNAL)
        if identity is None:
            raise OutputError(f"{shown} has no journal, or a damaged one. Run that shard again with --overwrite.")
        record = _json_object(folder / "run.json")
        if record is not None and not _RECORD.issubset(record):
            raise _damaged(folder / "run.json")
        files = cls(folder, described, identity, record or {})
        try:
            files.check()
        except (KeyError, TypeError, ValueError, AttributeError):
            raise _damaged(path) from None
        return files

    def check(self) -> None:
        """Raise KeyError, TypeError, ValueError or AttributeError where ``shard.json`` lacks what a merge reads."""
        shard = self.shard
        if not 1 <= shard.number <= shard.of <= MOST_SHARDS or shard.by not in BY_CHOICES:
            raise ValueError("no share")
        for name in ("glomedge", "inputs_sha256", "inputs_of_all_shards"):
            self.described[name]
        _ = self.root, self.slides, self.run_output, self.options

    @property
    def shard(self) -> Shard:
        """Which share it is."""
        return Shard(**self.described["shard"])

    @property
    def named(self) -> str:
        """For messages."""
        return f"shard {self.shard.number} of {self.shard.of} ({escape_name(bytes(self.folder))})"

    @property
    def capital(self) -> str:
        """The same at the beginning of a sentence."""
        return self.named.replace("shard", "Shard", 1)

    @property
    def advice(self) -> str:
        """How it is brought to its end."""
        return f"Run it again: glomedge infer ... --shard {self.shard.number}/{self.shard.of} --resume"

    @property
    def inputs_sha256(self) -> str:
        """Of the whole run's list."""
        return str(self.described["inputs_sha256"])

    @property
    def journal_path(self) -> Path:
        """Its journal."""
        return self.folder / WORK_FOLDER / JOURNAL

    @property
    def thumbnails_path(self) -> Path:
        """Its pictures and maps."""
        return self.folder / WORK_FOLDER / "thumbnails"

    @property
    def root(self) -> bytes:
        """The folder that names are relative to."""
        return unescape_name(self.described["root"])

    @property
    def slides(self) -> list[bytes]:
        """The slides of the whole run."""
        return [unescape_name(name) for name in self.described["slides"]]

    @property
    def arguments(self) -> dict[str, Any]:
        """Its options, as in ``run.json``."""
        arguments: dict[str, Any] = self.described["arguments"]
        return arguments

    @property
    def run_output(self) -> Path:
        """``--output`` as it was given, in which the shard made its folder."""
        return _path(self.arguments["output"]).parent

    def names(self) -> list[bytes]:
        """Of its inputs, sorted. Raises OutputError."""
        path = self.folder / WORK_FOLDER / INPUTS_FILE
        try:
            return path.read_bytes().split(b"\0")[:-1]
        except OSError as error:
            raise OutputError(f"{path} cannot be read: {error.strerror}. {self.advice}") from None

    @property
    def options(self) -> Options:
        """Its options again; relative paths are those of its working folder, if they lead nowhere from here."""
        said = self.arguments
        base = _path(self.described["working_folder"])

        def found(text: str) -> Path:
            path = _path(text)
            return path if path.exists() else base / path

        address = address_of(unescape_name(said["folder"]))
        engine = {field.name: said[field.name] for field in dataclasses.fields(EngineOptions)}
        engine["cache_dir"] = None if engine["cache_dir"] is None else _path(engine["cache_dir"])
        plain: dict[str, Any] = {
            field.name: tuple(said[field.name]) if isinstance(said[field.name], list) else said[field.name]
            for field in dataclasses.fields(Options)
            if field.name
            not in ("folder", "model", "output", "heatmaps", "engine", "slides", "shard", "inputs", "address")
        }
        annotations, manifest = said.get("annotations"), said.get("inputs")
        return Options(
            folder=Path() if address is not None else found(said["folder"]),
            address=address,
            model=found(said["model"]),
            output=_path(said["output"]),
            heatmaps=None if said["heatmaps"] is None else _path(said["heatmaps"]),
            engine=EngineOptions(**engine),
            slides=SlideOptions(
                None if annotations is None else found(annotations), tuple(said.get("classes", ())), said.get("mpp")
            ),
            inputs=None if manifest is None else found(manifest),
            **plain,
        )


def _damaged(path: Path) -> OutputError:
    shown = escape_name(bytes(path))
    return OutputError(f"{shown} is damaged. Run that shard again with --overwrite.")


def _unreadable(path: Path, error: OSError) -> OutputError:
    shown = escape_name(bytes(path))
    return OutputError(f"{shown} cannot be read: {error.strerror}. Make it readable, then merge again.")


def _json_object(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where there is no such file. Raises OutputError."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError):
        raise _damaged(path) from None
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def _path(text: str) -> Path:
    return Path(os.fsdecode(unescape_name(text)))


def _is_shard(folder: Path) -> bool:
    """Whether a shard has begun there. Raises OutputError where that cannot be seen: it would be called missing."""
    path = folder / WORK_FOLDER / SHARD_FILE
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def find_shards(folders: Sequence[Path]) -> list[ShardFiles]:
    """The shards in those folders, by their number. Raises UsageError, OutputError."""
    found = list[Path]()
    for folder in folders:
        found += sorted(path for path in folder.glob("shard-*-of-*") if _is_shard(path)) or [folder]
    if not found:
        raise UsageError("No shard was given. Give the folders that glomedge infer --shard wrote.")
    shards = [ShardFiles.read(folder) for folder in {path.resolve(): path for path in found}.values()]
    return sorted(shards, key=lambda each: (each.shard.of, each.shard.number))


def require_one_run(shards: Sequence[ShardFiles]) -> None:
    """Raise OutputError unless these are all shards of one run, each once and finished."""
    first = shards[0]
    for other in shards[1:]:
        if differences := _differences(first, other):
            raise OutputError(
                f"{other.capital} is of another run than {first.named}: {'; '.join(differences)}. "
                "Merge the shards of one run only."
            )
    by_number: dict[int, ShardFiles] = {}
    for shard in shards:
        if (twin := by_number.setdefault(shard.shard.number, shard)) is not shard:
            raise OutputError(f"{shard.capital} is there twice: also {twin.named}. Give one of them.")
    if missing := [str(number) for number in range(1, first.shard.of + 1) if number not in by_number]:
        raise OutputError(
            f"Of {first.shard.of} shards {len(missing)} {'is' if len(missing) == 1 else 'are'} missing: "
            f"{some(missing, 10)}. Run what is missing with glomedge infer ... --shard, or give those folders, too."
        )
    for shard in shards:
        if not shard.record or shard.record.get("inputs_sha256") != shard.inputs_sha256:
            raise OutputError(f"{shard.capital} is not finished. {shard.advice}")


def _differences(one: ShardFiles, other: ShardFiles) -> list[str]:
    """In what two shards are not of the same run, in words."""
    found = []
    if (one.shard.of, one.shard.by) != (other.shard.of, other.shard.by):
        found.append(f"{one.shard} and {other.shard}")
    mine, theirs = dataclasses.asdict(one.identity), dataclasses.asdict(other.identity)
    # Outlines may have been added since: the merge compares them when it has read the journals.
    found += [
        f"{_WORDS.get(name, name)} {_short(mine[name])} and {_short(theirs[name])}"
        for name in mine
        if name not in ("shard", "outlines") and mine[name] != theirs[name]
    ]
    if one.inputs_sha256 != other.inputs_sha256:
        counts = [each.described["inputs_of_all_shards"] for each in (one, other)]
        found.append(
            f"list of inputs {_short(one.inputs_sha256)} ({counts[0]}) and {_short(other.inputs_sha256)} ({counts[1]})"
        )
    if one.described.get("manifest_sha256") != other.described.get("manifest_sha256"):
        found.append("the manifests differ")
    if one.described["glomedge"] != other.described["glomedge"]:
        found.append(f"glomedge {one.described['glomedge']} and {other.described['glomedge']}")
    compared = (one.arguments.keys() | other.arguments.keys()) - _NOT_COMPARED - mine.keys()
    for name in sorted(compared):
        values = [each.arguments.get(name) for each in (one, other)]
        found += [f"{name} {_short(values[0])} and {_short(values[1])}"] if values[0] != values[1] else []
    return found[:4]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
