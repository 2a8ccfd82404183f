"""Requests of the Open Inference Protocol, written without the code that reads them."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt


def crop_png(seed: int, side_px: int = 90) -> bytes:
    """A crop of one colour with noise, as a PNG file."""
    import cv2

    rng = np.random.default_rng(seed)
    noise = rng.integers(-30, 30, (side_px, side_px, 3))
    pixels = np.clip(rng.integers(60, 200, 3) + noise, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def enhanced(seed: int, count: int, side_px: int = 224) -> npt.NDArray[np.uint8]:
    """Pixels as of enhanced crops, uint8 ``[count, side, side, 3]``, whose answers differ."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (count, 1, 1, 3))
    noise = rng.integers(-20, 20, (count, side_px, side_px, 3))
    found: npt.NDArray[np.uint8] = np.clip(colours + noise, 0, 255).astype(np.uint8)
    return found


def files_request(files: list[bytes], *outputs: str, **more: Any) -> tuple[dict[str, Any], bytes]:
    """JSON and binary data of a request with files."""
    binary = b"".join(struct.pack("<I", len(data)) + data for data in files)
    entry = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(files), 1],
        "parameters": {"binary_data_size": len(binary)},
    }
    return _document(entry, outputs, more), binary


def pixels_request(images: npt.NDArray[np.uint8], *outputs: str, **more: Any) -> tuple[dict[str, Any], bytes]:
    """JSON and binary data of a request with enhanced pixels."""
    binary = images.tobytes()
    entry = {
        "name": "images",
        "datatype": "UINT8",
        "shape": list(images.shape),
        "parameters": {"binary_data_size": len(binary)},
    }
    return _document(entry, outputs, more), binary


def _document(entry: dict[str, Any], outputs: tuple[str, ...], more: dict[str, Any]) -> dict[str, Any]:
    asked = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return {"inputs": [entry], **asked, **more}


def by_name(document: dict[str, Any]) -> dict[str, Any]:
    """Name of an output -> its data."""
    return {output["name"]: output.get("data") for output in document["outputs"]}
