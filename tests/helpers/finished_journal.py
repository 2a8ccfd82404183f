"""The journal of a finished run, written line by line as the format says, without the code that is tested."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
import zlib
from pathlib import Path
from typing import Any

CSV_INJECTION = "=HYPERLINK(\"x\")\r\nnot, a 'formula'"

ODD_NAMES = (
    b"\xff-1.png", b"=cmd-2.png", b'q"uo,te-3.png', b"new\nline-4.png", b"back\\slash-5.png", "ü-6.png".encode(),
    "\u202egnp-7.png".encode(), b"plain.png", b"'apostrophe-8.png", b"globally_sclerotic_glomeruli/x.png",
    b"was locked/inside-9.png", b"a b/c-d_PAS_1of2_x.png", b"a/z.png", b"a-b.png", b"zz/\xe2\x82-1.png",
)  # fmt: skip
"""Names that sort otherwise by their bytes than by their text, that must be quoted, escaped or neutralised."""


def names(rows: int) -> list[bytes]:
    """The files of the run, sorted."""
    plain = [f"{'ab'[k % 2]}/B{k % 9}-{k % 7}_PAS_{k % 3 + 1}of3_{k:05d}.png".encode() for k in range(rows)]
    return sorted([*plain, *ODD_NAMES])


def row(name: bytes, rng: random.Random) -> list[Any]:
    """A row of the journal; one in ten an error, one in ten flagged, one in ten a copy of another file."""
    kind = rng.randrange(10)
    sha256 = hashlib.sha256(b"one file" if kind == 0 else name).hexdigest()
    if kind == 1:
        code, digest = rng.choice([("truncated", sha256), ("decoder", sha256), ("too_large", None)])
        message = rng.choice(["cut short", CSV_INJECTION, "naïve – “quoted”"])
        return [escaped(name), f"error:{code}", None, digest, None, None, message, None, None]
    status = rng.choice(["flagged:blurred", "flagged:blank+blurred"]) if kind == 2 else "ok"
    probability = rng.choice([0.0, 1.0, 0.5, 0.2, 0.8, 1e-7, _float32(rng.random()), _float32(rng.random())])
    return [escaped(name), status, probability, sha256, 10, None, "", _float32(rng.random()), None]


def _float32(value: float) -> float:
    return float(f"{struct.unpack('<f', struct.pack('<f', value))[0]:.7g}")


def escaped(name: bytes) -> str:
    """As the journal names it."""
    from glomedge.files.names import escape_name

    return escape_name(name)


def lines(identity: dict[str, Any], files: list[bytes], *, shuffled: bool = True, batch: int = 7) -> list[bytes]:
    """Whole journal: rows out of order, some twice (the last counts), one of a folder that can be listed by now, two of
    files that are gone since."""
    rng = random.Random(14)
    rows = [row(name, rng) for name in [*files, b"a/gone-1.png", b"\xfegone-2.png"]]
    again = [row_ for row_ in rows if row_[2] is not None][::11]
    rows += [["was locked/", "error:permission", None, None, None, None, "permission denied", None, None]]
    if shuffled:
        rng.shuffle(rows)
    rows = [[row_[0], "error:io", None, None, None, None, "read again", None, None] for row_ in again] + rows
    payloads: list[dict[str, Any]] = [{"kind": "engine", "provider": "cpu"}]
    for begin in range(0, len(rows), batch):
        part = rows[begin : begin + batch]
        payloads += [{"kind": "start", "keys": [row_[0] for row_ in part]}, {"kind": "rows", "rows": part}]
    head = _body({"kind": "head", "format": 2, "identity": identity})
    seed = zlib.crc32(head)
    return [
        _line(head, 0),
        *(_line(_body(payload), seed) for payload in payloads),
        _line(_body({"kind": "done", "rows": len(rows)}), seed),
    ]


def _body(payload: dict[str, Any]) -> bytes:
    return json.dumps(payload, separators=(",", ":")).encode("ascii")


def _line(body: bytes, seed: int) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(body, seed), body)


def finished_run(folder: Path, model_sha256: str, recipe: str, *, rows: int = 200, shuffled: bool = True) -> bytes:
    """Empty files ``crops/*`` and ``out/.glomedge/journal`` of a run over them (``--tta 8``); returns the journal."""
    crops, work = folder / "crops", folder / "out" / ".glomedge"
    files = names(rows)
    for name in files:
        path = crops / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    work.mkdir(parents=True)
    identity = {
        "folder": escaped(bytes(crops.resolve())), "model_sha256": model_sha256, "recipe": recipe,
        "threshold": 0.5, "tta": 8, "batch_size": 4, "bf16": False,
    }  # fmt: skip
    journal = b"".join(lines(identity, files, shuffled=shuffled))
    (work / "journal").write_bytes(journal)
    return journal
