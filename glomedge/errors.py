"""Errors a user can do something about.

Every message ends with what to do next. The command line prints it without a traceback and exits with
``exit_code``; anything that is not a ``GlomedgeError`` is a defect and keeps its traceback.
"""

from __future__ import annotations

import sys

from glomedge.about import install_command

MAX_MESSAGE_CHARACTERS = 2_000
"""Room for what happened, its cause and the cure; what a library or a file adds to that is not read in full."""


def shortened(text: str, limit: int = MAX_MESSAGE_CHARACTERS) -> str:
    """The text, its middle left out where it is longer than ``limit`` characters: it ends with what to do.

    A library may put a whole configuration into its message, a data set a whole column.
    """
    if len(text) <= limit:
        return text
    gap = f" [... {len(text) - limit:,} more characters ...] "
    kept = limit - len(gap)
    # The beginning says what and where, and the cure needs less.
    head = kept * 2 // 3
    return f"{text[:head]}{gap}{text[len(text) - (kept - head) :]}"


class GlomedgeError(Exception):
    """Base of every error that glomedge raises on purpose. Its message has at most 2,000 characters."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(message))


class UsageError(GlomedgeError):
    """An argument, an option or a combination of them that cannot be carried out."""


class ImageError(GlomedgeError):
    """One input file that cannot become pixels.

    Attributes:
        code: short stable word that stands in the results as ``error:<code>`` (``truncated``, ``format``,
            ``corrupt``, ``colourspace``, ``multiframe``, ``too_large``, ``too_small``, ``decoder``,
            ``permission``, ``vanished``, ``not_regular``, ``io``; ``type`` in Python only).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DatasetError(GlomedgeError):
    """A training or evaluation data set that is not usable as it stands; lists every problem found."""


class ModelError(GlomedgeError):
    """A model file that is missing, damaged, changed since export, or not made by glomedge."""


class SelfTestError(ModelError):
    """The golden self-test gave other pixels or another probability on this device than at export."""


class ProviderUnavailableError(GlomedgeError):
    """The execution provider that was asked for cannot run here; names the library and the package."""


class EngineError(GlomedgeError):
    """Inference failed on a loaded model: out of memory, device lost."""


class OutputError(GlomedgeError):
    """Results cannot be written, are locked by another run, or belong to another run."""


class GateError(GlomedgeError):
    """An exported file failed its gate: it does not say what the reference said."""


class MissingExtraError(GlomedgeError):
    """A part of glomedge was asked for whose packages are not installed."""

    def __init__(self, what: str, package: str, extra: str) -> None:
        cure = f"Install it with: {install_command(f'glomedge[{extra}]')}"
        if "export" in extra.split(",") and sys.version_info >= (3, 14):
            cure = (
                f"TensorFlow 2.21 has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}: use Python 3.11 "
                f"to 3.13 for it. There: {install_command(f'glomedge[{extra}]')}"
            )
        super().__init__(f"{what} needs the package '{package}', which is not installed here. {cure}")
