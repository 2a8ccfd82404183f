"""Errors that a user can act on.

Every message ends with what to do next. The command line prints it without a traceback and exits with
``exit_code``; anything that is not a ``GlomedgeError`` is a defect and keeps its traceback.
"""

from __future__ import annotations

import sys
from typing import Any

from glomedge.about import install_command

MAX_MESSAGE_CHARACTERS = 2_000
"""Enough for what happened, its cause and the remedy; longer text from a library or a file is shortened."""


def shortened(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """The text, with its middle omitted if it is longer than ``limit`` characters: the end says what to do.

    A library may put a whole configuration into its message, a data set a whole column.
    """
    if len(text) <= limit:
        return text
    gap = f" [... {len(text) - limit:,} more characters ...] "
    kept = limit - len(gap)
    # The beginning says what and where; the remedy at the end needs less room.
    head = kept * 2 // 3
    return f"{text[:head]}{gap}{text[len(text) - (kept - head) :]}"


class GlomedgeError(Exception):
    """Base of every error that glomedge raises on purpose. Its message has at most 2,000 characters."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))

    def __reduce__(self) -> tuple[Any, ...]:
        """For another process: by what the error has become, because the kinds are made of different arguments."""
        return _rebuilt, (type(self), self.args, self.__dict__)


def _rebuilt(kind: type[GlomedgeError], arguments: tuple[Any, ...], state: dict[str, Any]) -> GlomedgeError:
    error = kind.__new__(kind, *arguments)
    error.__dict__.update(state)
    return error


class UsageError(GlomedgeError):
    """An invalid argument, option or combination of options."""


class ImageError(GlomedgeError):
    """One input file that cannot be decoded.

    Attributes:
        code: short stable word, written to the results as ``error:<code>`` (``truncated``, ``format``,
            ``corrupt``, ``colourspace``, ``multiframe``, ``too_large``, ``too_small``, ``decoder``,
            ``permission``, ``vanished``, ``not_regular``, ``io``; of an outline on a slide also ``outline``,
            ``no_area``, ``outside``, ``mpp``; ``type`` in Python only).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StorageError(GlomedgeError):
    """Object storage that cannot be read.

    Attributes:
        code: as of ``ImageError``: ``vanished``, ``permission``, ``too_large``, ``io``; or ``bucket``: there is no such
            bucket.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AnnotationError(GlomedgeError):
    """A file of outlines that cannot be read: damaged, too large, or in no format that glomedge knows."""


class DatasetError(GlomedgeError):
    """A training or evaluation data set that is unusable; lists every problem found."""


class ModelError(GlomedgeError):
    """A model file that is missing, damaged, changed since export, or not made by glomedge."""


class SelfTestError(ModelError):
    """The golden self-test gave different pixels or a different probability on this device than at export."""


class ProviderUnavailableError(GlomedgeError):
    """The requested execution provider cannot run here; names the library and the package."""


class EngineError(GlomedgeError):
    """Inference failed on a loaded model: out of memory, device lost."""


class OutputError(GlomedgeError):
    """Results cannot be written, are locked by another run, or belong to another run."""


class GateError(GlomedgeError):
    """An exported file failed its gate: its answers differ from the reference."""


class MissingExtraError(GlomedgeError):
    """The packages of an optional part of glomedge are not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        cure = f"Install it with: {install_command(f'glomedge[{extra}]')}"
        if "export" in extra.split(",") and sys.version_info >= (3, 14):
            cure = (
                f"TensorFlow 2.21 has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}: use Python 3.11 "
                f"to 3.13, then run: {install_command(f'glomedge[{extra}]')}"
            )
        super().__init__(f"{what} needs the package '{package}', which is not installed here. {cure}")
