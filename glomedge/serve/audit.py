"""The log: one JSON object a line, on standard error; the audit lines among them, or in a file of their own.

No line holds pixels, and none holds a name of a file: a crop is known by the SHA-256 of its bytes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import OutputError
from glomedge.files.descriptors import BINARY
from glomedge.pipeline.prepare import Answer

_MOST_ID_CHARACTERS = 128
_ENCODER = json.JSONEncoder()


class Log:
    """Writes lines; thread-safe.

    Args:
        audit_path: file to append audit lines to; None: standard error.
        failed: called when an audit line could not be written; it then goes to standard error.

    Raises:
        OutputError: the file cannot be opened.
    """

    def __init__(self, audit_path: Path | None, failed: Callable[[], None]) -> None:
        self._lock = threading.Lock()
        self._failed = failed
        self._audit: int | None = None
        if audit_path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | BINARY
            try:
                self._audit = os.open(audit_path, flags, 0o600)
            except OSError as error:
                raise OutputError(
                    f"--audit-log: {audit_path} cannot be written: {error.strerror}. Choose another file."
                ) from None

    def event(self, event: str, **facts: Any) -> None:
        """One line on standard error."""
        self._error(_line(event, facts))

    def audit(
        self, *, client: str, request_id: str, protocol: str, model_sha256: str, answers: Sequence[Answer]
    ) -> None:
        """One line for one answered request: who asked, and what was said of each crop."""
        line = _line(
            "answered",
            {
                "client": client,
                "id": request_id[:_MOST_ID_CHARACTERS],
                "protocol": protocol,
                "model_sha256": model_sha256,
                "crops": [
                    {"sha256": answer.sha256, "probability": answer.probability, "status": answer.status}
                    for answer in answers
                ],
                "notice": RESEARCH_USE_NOTICE,
            },
        )
        if self._audit is None:
            self._error(line)
            return
        try:
            with self._lock:
                written = os.write(self._audit, line)
            if written == len(line):
                return
        except OSError:
            pass
        self._failed()
        self._error(line)

    def close(self) -> None:
        """Close the file."""
        if self._audit is not None:
            os.close(self._audit)
            self._audit = None

    def _error(self, line: bytes) -> None:
        try:
            with self._lock:
                sys.stderr.buffer.write(line)
                sys.stderr.buffer.flush()
        except (OSError, ValueError):  # nobody reads it any more
            pass


def _line(event: str, facts: dict[str, Any]) -> bytes:
    now_ms = time.time_ns() // 1_000_000
    now = f"{_second(now_ms // 1000)}.{now_ms % 1000:03d}Z"
    # ASCII: what a client sends as its id cannot forge a line or drive a terminal.
    return _ENCODER.encode({"time": now, "event": event, **facts}).encode("ascii") + b"\n"


@functools.lru_cache(maxsize=1)
def _second(since_1970_s: int) -> str:
    """UTC as ISO 8601 has it; most lines are of the same second as the one before."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_1970_s))
