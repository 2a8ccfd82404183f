"""Which crops a model was made with, by the hashes of their files: short enough for the spec, and no name in it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable

from glomedge.errors import ModelError

_BYTES = 6
"""Of each SHA-256. Fifty other crops against 100,000 of training agree by chance once in 5 x 10^7 times."""


def pack(sha256s: Iterable[str]) -> str:
    """The first bytes of each SHA-256 (hex), sorted, as base64."""
    return base64.b64encode(b"".join(sorted({bytes.fromhex(one)[:_BYTES] for one in sha256s}))).decode("ascii")


def among(packed: str, sha256s: Iterable[str]) -> set[str]:
    """Those of the SHA-256 (hex) that ``packed`` holds. Raises ModelError where it is damaged."""
    try:
        raw = base64.b64decode(packed, validate=True)
    except ValueError as error:
        raise ModelError(
            f"The list of training crops inside the model is damaged ({error}). Export it again."
        ) from None
    known = {raw[at : at + _BYTES] for at in range(0, len(raw), _BYTES)}
    return {one for one in sha256s if bytes.fromhex(one)[:_BYTES] in known}


def data_sha256(rows: Iterable[tuple[str, int, str]]) -> str:
    """Hash of a labelled data set: name, label and SHA-256 of the file of each crop, sorted by name."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
