"""File bytes to RGB pixels: one rule for every format, in training and at the edge.

``read`` opens regular files only; ``decode`` is a pure function of the bytes and raises only ImageError. The file name
is ignored: the first bytes decide. The header is read before memory is allocated.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError
from glomedge.imaging import decoders
from glomedge.imaging.formats import check_pixel_data, declared_size, read_header
from glomedge.imaging.formats.header import Format, Header

#: Endings (lower case) of files worth opening when a folder is searched; the real format is what the bytes say.
ALLOWED_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"))
MAX_PIXELS = 64_000_000
MAX_SIDE_PX = 1_000_000
MIN_SIDE_PX = 32
#: 64 MP of 16-bit RGBA plus metadata: no file within MAX_PIXELS needs more.
MAX_FILE_BYTES = 640_000_000
_BAND_PIXELS = 1 << 20
# Up to this size, reading everything is cheaper than checking the header first.
LOOK_FIRST_BYTES = 1 << 24


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes:
        pixels_hwc: uint8 [H, W, 3], RGB, upright (EXIF orientation applied), C-contiguous, writeable.
        format: ``png``, ``jpeg``, ``tiff``, ``bmp`` or ``webp``.
        flags: what was changed or left out on the way, sorted: ``first_of_several`` (reduced copies follow it in the
            file), ``grayscale``, ``palette``, ``sixteen_bit``, ``transparency``.
    """

    pixels_hwc: npt.NDArray[np.uint8]
    format: Format
    flags: tuple[str, ...] = ()


def read(path: str | bytes | os.PathLike[str] | os.PathLike[bytes], *, follow_symlinks: bool = False) -> bytes:
    """All bytes of a regular file; anything else is not opened at all.

    Raises:
        ImageError: ``not_regular`` (folder, FIFO, device, socket, or link unless ``follow_symlinks``),
            ``permission``, ``vanished``, ``too_large`` (over 640 MB, or over 16 MB with a header that declares more
            than 64 MP), ``io``.
    """
    try:
        # Checked before opening: opening a device can have side effects.
        _refuse_irregular(os.stat(path, follow_symlinks=follow_symlinks))  # noqa: PTH116 (paths may be bytes)
        flags = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        if not follow_symlinks:
            flags |= getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags)
        try:
            # Checked again on what was opened, because the name may refer to something else by now.
            status = os.fstat(descriptor)
            _refuse_irregular(status)
            return _read_all(descriptor, status.st_size)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _from_os(error) from error
    except ValueError as error:
        raise ImageError("io", f"No file can have this name ({error}). Check the list of inputs.") from error


def _refuse_irregular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError("not_regular", "This is a folder, link, pipe or device, not a file. Give the file itself.")
    if status.st_size > MAX_FILE_BYTES:
        raise too_large_file()


def too_large_file() -> ImageError:
    """The error of a file over ``MAX_FILE_BYTES``."""
    return ImageError("too_large", "The file is larger than 640 MB. Cut the glomerulus out of it first.")


def _read_all(descriptor: int, expected_bytes: int) -> bytes:
    if expected_bytes > LOOK_FIRST_BYTES:
        _refuse_by_header(descriptor)
    # Usually one call, plus one that sees the end. A file that grows is read up to the limit.
    parts = [os.read(descriptor, max(1, expected_bytes))]
    total = len(parts[0])
    while parts[-1]:
        parts.append(os.read(descriptor, max(65_536, expected_bytes - total)))
        total += len(parts[-1])
        if total > MAX_FILE_BYTES:
            raise too_large_file()
    return parts[0] if len(parts) == 2 else b"".join(parts)


def _refuse_by_header(descriptor: int) -> None:
    """Avoid reading hundreds of MB only to find the image too large. Leaves the descriptor at the beginning."""

    def part(at: int, count: int) -> bytes:
        os.lseek(descriptor, min(at, MAX_FILE_BYTES), os.SEEK_SET)
        return os.read(descriptor, count)

    size = declared_size(part)
    os.lseek(descriptor, 0, os.SEEK_SET)
    if size is not None:
        refuse_large(*size)


def _from_os(error: OSError) -> ImageError:
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return ImageError("permission", "No permission to read this file. Change its mode or owner.")
        case errno.ENOENT | errno.ENOTDIR | errno.ESTALE:
            return ImageError("vanished", "The file no longer exists. Run again with --resume once it is back.")
        case errno.ELOOP | errno.ENXIO | errno.EISDIR:
            return ImageError(
                "not_regular", "This is a folder, link, pipe or device, not a file. Give the file itself."
            )
        case errno.ENOMEM:
            return ImageError("io", "There is not enough memory to read this file. Free some, or use fewer workers.")
    return ImageError("io", f"The file cannot be read ({error.strerror}). Check the disk or the network share.")


def decode(data: bytes) -> Decoded:
    """Decode one image.

    Colour profiles and gamma (iCCP, gAMA, cHRM, sRGB, ICC) are not applied: the network was trained on stored values.

    Raises:
        ImageError: ``format``, ``truncated``, ``corrupt``, ``colourspace``, ``multiframe``, ``too_large``,
            ``too_small``; nothing else.
    """
    header = read_header(data)
    _check_size(header)
    check_pixel_data(data, header)
    samples = decoders.DECODERS[header.decoder](data, header)
    turned = header.format == "tiff" and header.orientation >= 5
    if samples.shape[:2] != ((header.width_px, header.height_px) if turned else (header.height_px, header.width_px)):
        raise decoders.unreadable(header.format)
    flags = {"gray": {"grayscale"}, "palette": {"palette"}, "rgb": set[str]()}[header.colour]
    if header.first_of_several:
        flags.add("first_of_several")
    alpha = _key_alpha(samples, header)
    if samples.dtype == np.uint16:
        flags.add("sixteen_bit")
    rgb, transparent = _without_alpha(_to_eight_bits(samples, header), alpha, header)
    if transparent:
        flags.add("transparency")
    if header.format != "tiff":  # libtiff, used by both libraries, has already turned it
        rgb = _upright(rgb, header.orientation)
    return Decoded(np.require(rgb, np.uint8, ["C", "W"]), header.format, tuple(sorted(flags)))


def _check_size(header: Header) -> None:
    width_px, height_px = header.width_px, header.height_px
    refuse_large(width_px, height_px)
    if min(width_px, height_px) < MIN_SIDE_PX:
        raise ImageError(
            "too_small",
            f"{width_px} x {height_px} pixels is under {MIN_SIDE_PX} a side. Cut the crop at a higher magnification.",
        )


def refuse_large(width_px: int, height_px: int) -> None:
    """Raise ImageError ``too_large`` for a picture of more pixels than may be decoded."""
    if width_px * height_px > MAX_PIXELS or max(width_px, height_px) > MAX_SIDE_PX:
        raise ImageError(
            "too_large",
            f"{width_px} x {height_px} pixels is more than {MAX_PIXELS // 1_000_000} MP. Cut the glomerulus out first.",
        )


def _key_alpha(samples: decoders.Samples, header: Header) -> npt.NDArray[np.uint8] | None:
    """Alpha of a gray PNG with one transparent value, which OpenCV omits: uint8 [H, W]."""
    key = header.transparent_gray
    if key is None or samples.ndim != 2:
        return None
    if header.bits < 8:
        key = (key & ((1 << header.bits) - 1)) * (255 // ((1 << header.bits) - 1))
    return np.where(samples == (key & 0xFFFF), 0, 255).astype(np.uint8)


def _to_eight_bits(samples: decoders.Samples, header: Header) -> npt.NDArray[np.uint8]:
    """Rounded to 8 bits by the declared depth: v * 255 / (2^depth - 1).

    A PNG that declares (sBIT) fewer significant bits should hold samples scaled up to 16 (REC-png-3,
    11.3.2.7), yet many writers store them unscaled. No tissue is that dark throughout, so the samples show which it is.
    Alpha is judged separately: beside unscaled colours, opaque may be the top of either range.
    """
    if samples.dtype == np.uint8:
        return samples.view(np.uint8)
    if samples.ndim == 3 and samples.shape[2] == 4:
        colours, alpha = samples[..., :3], samples[..., 3]
        return np.dstack((_rounded(colours, header, inverted=header.inverted), _rounded(alpha, header)))
    return _rounded(samples, header, inverted=header.inverted)


def _rounded(samples: decoders.Samples, header: Header, *, inverted: bool = False) -> npt.NDArray[np.uint8]:
    depth, shift = 16, 0
    if header.format == "tiff" and header.bits < 16:
        depth, shift = header.bits, 16 - header.bits  # OpenCV has shifted them to the top
    elif header.significant_bits is not None and int(samples.max()) < 1 << header.significant_bits:
        depth = header.significant_bits
    top = (1 << depth) - 1
    values = np.minimum(np.arange(65_536, dtype=np.uint32) >> shift, top)
    table = ((values * 255 + top // 2) // top).astype(np.uint8)
    return np.take(255 - table if inverted else table, samples)


def _without_alpha(
    samples: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8] | None, header: Header
) -> tuple[npt.NDArray[np.uint8], bool]:
    """RGB [H, W, 3], composited on white where anything is transparent, and whether anything was."""
    if samples.ndim == 3 and samples.shape[2] == 4:
        # An opaque pixel has 255 as the highest byte of its little-endian word: one AND finds any that is not.
        words = samples.reshape(-1, 4).view("<u4")
        if header.alpha == "ignored" or int(np.bitwise_and.reduce(words, axis=None)) >> 24 == 255:
            return cv2.cvtColor(samples, cv2.COLOR_RGBA2RGB), False
        alpha, samples = samples[..., 3], samples[..., :3]
    rgb = cv2.cvtColor(samples, cv2.COLOR_GRAY2RGB) if samples.ndim == 2 else samples
    if alpha is None or int(alpha.min()) == 255:
        return rgb, False
    return _on_white(rgb, alpha, premultiplied=header.alpha == "premultiplied"), True


def _on_white(
    rgb: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], *, premultiplied: bool
) -> npt.NDArray[np.uint8]:
    """round((c * a + 255 * (255 - a)) / 255), in bands so that a large image needs no large temporary."""
    out = np.empty((*alpha.shape, 3), np.uint8)
    rows = max(1, _BAND_PIXELS // alpha.shape[1])
    for top in range(0, alpha.shape[0], rows):
        band = slice(top, top + rows)
        a = alpha[band, :, None].astype(np.uint16)
        if premultiplied:
            out[band] = np.minimum(rgb[band] + (255 - a), 255)
        else:
            # At most 255 * 255 + 127: fits 16 bits.
            out[band] = (rgb[band] * a + (255 * (255 - a) + 127)) // 255
    return out


def _upright(rgb: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Undo EXIF orientation 1 to 8 (EXIF 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        rgb = cv2.transpose(rgb)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return rgb if flip is None else cv2.flip(rgb, flip)


def png_decoder() -> str:
    """Which library decodes plain PNG here, with its version, for run reports."""
    if decoders.fast_png_decoder() is not None:
        from importlib.metadata import version

        return f"kornia-rs {version('kornia_rs')}"
    return f"opencv {cv2.__version__}"


def grey(pixels_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """What an overlay shows of a crop: luma of RGB uint8 ``[H, W, 3]`` (ITU-R BT.601), uint8 ``[H, W]``."""
    luma: npt.NDArray[np.uint8] = cv2.cvtColor(np.ascontiguousarray(pixels_hwc), cv2.COLOR_RGB2GRAY)
    return luma
