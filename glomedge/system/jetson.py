"""Whether this is an NVIDIA Jetson: an arm64 board whose CUDA comes with its system, not with pip's wheels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Jetson:
    """The board.

    Attributes:
        model: such as ``NVIDIA Jetson AGX Orin Developer Kit``; just ``NVIDIA Jetson`` where the system does not say.
        release: of Jetson Linux, such as ``R39.2.0``; empty where the system does not say.
    """

    model: str
    release: str

    @property
    def jetpack(self) -> str:
        """The JetPack of the release, such as ``6`` or ``7.2``; empty where that is not known."""
        # Jetson Linux 36 is JetPack 6, 38 is JetPack 7.0 and 7.1 (Thor), 39 is JetPack 7.2.
        return {"R36": "6", "R38": "7", "R39": "7.2"}.get(self.release.partition(".")[0], "")

    def __str__(self) -> str:
        return f"{self.model}, Jetson Linux {self.release}" if self.release else self.model


def find_jetson(root: Path = Path("/")) -> Jetson | None:
    """The Jetson that this machine is, None where it is none.

    Jetson Linux writes its release to ``/etc/nv_tegra_release``; the kernel shows the board's name in the device tree,
    inside containers as well. Either is enough.

    Args:
        root: the file system to look at.
    """
    model = _text(root / "proc/device-tree/model")
    release_file = root / "etc/nv_tegra_release"
    if "Jetson" not in model and not release_file.exists():
        return None
    # "# R36 (release), REVISION: 4.3, GCID: ..., BOARD: generic, EABI: aarch64, ..."
    release = re.search(r"\bR(\d+)\b.*?REVISION:\s*([\d.]+)", _text(release_file))
    return Jetson(model or "NVIDIA Jetson", f"R{release[1]}.{release[2]}" if release else "")


def _text(path: Path) -> str:
    """The file's text without the device tree's closing NUL; empty where it cannot be read."""
    try:
        return path.read_bytes()[:4096].decode("utf-8", "replace").strip("\0 \n")
    except OSError:
        return ""
