"""Genuine Keras 2 files, made by ``tests/tools/make_keras2.py`` with TensorFlow 2.12 and 2.15.

The committed ones have the structures that users save round a backbone of one convolution, so that they are small:
made with ``make_keras2.py tests/keras_files/genuine --tiny`` by the Python of an environment with
``tensorflow-cpu==2.15.1`` (and 2.12.1) and ``numpy<2``. ``make keras2-files`` makes the whole matrix.
"""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helpers.paths import ROOT

ARCHIVES = sorted((ROOT / "tests" / "keras_files" / "genuine").glob("keras-*.tar.xz"))
_SEED = 7


@dataclass(frozen=True)
class Genuine:
    """The files of one Keras version and what that Keras answers.

    Attributes:
        folder: holds ``STRUCTURE.keras``, ``STRUCTURE.h5``, ``STRUCTURE_savedmodel`` and ``answers.json``.
    """

    folder: Path

    @cached_property
    def made(self) -> dict[str, Any]:
        """What ``answers.json`` says."""
        found: dict[str, Any] = json.loads((self.folder / "answers.json").read_text("utf-8"))
        return found

    @property
    def version(self) -> str:
        """Of the Keras that wrote the files."""
        return str(self.made["keras_version"])

    def files(self, structure: str) -> list[Path]:
        """Every format of one structure."""
        suffixes = (".keras", ".h5", "_savedmodel", "_v3.keras")
        return [path for suffix in suffixes if (path := self.folder / f"{structure}{suffix}").exists()]

    def answers(self, structure: str) -> npt.NDArray[np.float32]:
        """Float32 [4, outputs], for ``images``."""
        return np.asarray(self.made["structures"][structure]["answers"], np.float32)

    def images(self) -> npt.NDArray[np.float32]:
        """The same four images that make_keras2.py drew, float32 [4, side, side, 3], 0..255."""
        side_px, draw = self.made["side_px"], np.random.RandomState(_SEED)
        colours, noise = draw.randint(0, 256, (4, 1, 1, 3)), draw.randint(0, 256, (4, side_px, side_px, 3))
        return np.round(0.7 * colours + 0.3 * noise).astype(np.float32)


def unpack(into: Path) -> list[Genuine]:
    """The committed files, oldest Keras first."""
    found = []
    for archive in ARCHIVES:
        with tarfile.open(archive) as opened:
            opened.extractall(into, filter="data")
        found.append(Genuine(into / archive.name.removesuffix(".tar.xz")))
    return found
