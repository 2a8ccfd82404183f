"""An entry of the engine cache, and its damage."""

from __future__ import annotations

from pathlib import Path

from glomedge.engine.cache import EngineKey

KEY = EngineKey(
    provider="tensorrt",
    file_sha256="a" * 64,
    shapes="1-8-32",
    precision="fp16",
    onnxruntime="1.31.1",
    runtime="10.13.3",
    driver="570.86",
    device="NVIDIA L4 compute 8.9",
    options="{}",
)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
