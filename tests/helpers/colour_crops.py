"""Crops that exercise colour: noise, tissue-like, extremes, every colour there is."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def random_crop(seed: int, height_px: int = 224, width_px: int = 224) -> Pixels:
    """Noise, smooth tissue-like fields, flat colours and extremes by turns."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 256, (height_px, width_px, 3), np.uint8)
    match seed % 4:
        case 0:
            return noise
        case 1:  # pink and blue, slowly varying
            smooth = cv2.GaussianBlur(noise, (0, 0), 5).astype(np.int16)
            stretched = (smooth - 128) * 6 + np.array([190, 130, 180], np.int16)
            tissue: Pixels = np.clip(stretched, 0, 255).astype(np.uint8)
            return tissue
        case 2:
            return np.where(noise > 127, np.uint8(255), np.uint8(0))
    return np.broadcast_to(noise[:1, :1], noise.shape).copy()


def every_colour_of_red(red: int) -> Pixels:
    """All 65,536 colours with one red, ``[256, 256, 3]``."""
    level = np.arange(256, dtype=np.uint8)
    green, blue = np.meshgrid(level, level, indexing="ij")
    return np.stack([np.full_like(green, red), green, blue], axis=2)


def in_crops(colours: Pixels) -> list[Pixels]:
    """Any number of colours as crops of the network's size, the last filled up with its last colour."""
    flat, size = colours.reshape(-1, 3), 224 * 224
    missing = -len(flat) % size
    padded = np.concatenate([flat, np.repeat(flat[-1:], missing, axis=0)])
    return list(padded.reshape(-1, 224, 224, 3))


def arithmetic_crop(height_px: int, width_px: int) -> Pixels:
    """A crop of integer arithmetic alone: the same on every platform and with every NumPy."""
    row, column = np.mgrid[:height_px, :width_px].astype(np.uint32)
    mixed = (row * 2654435761 + column * 40503 + (row * column) * 97) ^ (row << 7)
    return np.stack([mixed >> shift & 255 for shift in (5, 11, 17)], axis=2).astype(np.uint8)
