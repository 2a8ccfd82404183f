"""PNG of every kind: the same pixels from every decoder, and right by arithmetic written here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glomedge.errors import ImageError
from glomedge.imaging import decoders, images
from glomedge.imaging.formats import read_header
from helpers import image_files

HEIGHT_PX, WIDTH_PX = 37, 53
PALETTE = np.random.default_rng(9).integers(0, 256, (256, 3), dtype=np.uint8)
ICC = b"name\0\0" + zlib.compress(b"not a profile that anything could apply" * 4)

# (colour type, bit depth): every pair the standard allows.
KINDS = [
    *[(0, depth) for depth in (1, 2, 4, 8, 16)],
    *[(3, depth) for depth in (1, 2, 4, 8)],
    *[(kind, depth) for kind in (2, 4, 6) for depth in (8, 16)],
]
# Chunks that a viewer might act on, and that must change no pixel here.
COLOUR_CHUNKS: dict[str, list[tuple[bytes, bytes]]] = {
    "none": [],
    "gAMA": [(b"gAMA", struct.pack(">I", 100_000))],
    "gAMA dark": [(b"gAMA", struct.pack(">I", 22_222))],
    "sRGB": [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 45_455))],
    "cHRM": [(b"cHRM", struct.pack(">8I", 31270, 32900, 70800, 29200, 17000, 79700, 13100, 4600))],
    "iCCP": [(b"iCCP", ICC)],
    "pHYs": [(b"pHYs", struct.pack(">IIB", 1000, 4000, 1))],
    "bKGD tEXt": [(b"tEXt", b"Comment\0crop")],
    "cICP": [(b"cICP", b"\x09\x10\x00\x01")],
}


def samples_of(colour_type: int, depth: int, *, seed: int = 1) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    shape = (HEIGHT_PX, WIDTH_PX, image_files.CHANNELS_OF[colour_type])
    return rng.integers(0, 1 << depth, shape).astype(np.uint16)


def scaled(samples: npt.NDArray[np.integer], depth: int) -> npt.NDArray[np.uint8]:
    """Rounded to 8 bits with integers of unlimited size."""
    top = (1 << depth) - 1
    flat = [(int(v) * 255 * 2 + top) // (2 * top) for v in samples.reshape(-1)]
    return np.array(flat, np.uint8).reshape(samples.shape)


def on_white(rgb: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    weight = alpha.astype(np.float64)[..., None] / 255.0
    return np.floor(rgb * weight + 255.0 * (1.0 - weight) + 0.5).astype(np.uint8)


def expected(colour_type: int, depth: int, samples: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    if colour_type == 3:
        return PALETTE[samples[..., 0]]
    eight = scaled(samples, depth)
    if colour_type in (0, 4):
        rgb = eight[..., :1].repeat(3, axis=2)
    else:
        rgb = eight[..., :3]
    return on_white(rgb, eight[..., -1]) if colour_type in (4, 6) else rgb


def needed(colour_type: int, depth: int) -> list[tuple[bytes, bytes]]:
    return [(b"PLTE", PALETTE[: 1 << depth].tobytes())] if colour_type == 3 else []


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("colour_type", "depth"), KINDS)
def test_pixels_of_every_kind(colour_type: int, depth: int, interlaced: bool) -> None:
    samples = samples_of(colour_type, depth)
    data = image_files.png(
        samples, depth=depth, colour_type=colour_type, interlaced=interlaced, before=needed(colour_type, depth)
    )
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels_hwc, expected(colour_type, depth, samples))
    flags = set()
    if colour_type in (0, 4):
        flags.add("grayscale")
    if colour_type == 3:
        flags.add("palette")
    if colour_type in (4, 6):
        flags.add("transparency")
    if depth == 16:
        flags.add("sixteen_bit")
    assert set(decoded.flags) == flags
    assert decoded.format == "png"


@pytest.mark.parametrize("chunks", COLOUR_CHUNKS)
@pytest.mark.parametrize(("colour_type", "depth"), KINDS)
def test_colour_chunks_change_nothing(colour_type: int, depth: int, chunks: str) -> None:
    samples = samples_of(colour_type, depth)
    extra = [*COLOUR_CHUNKS[chunks], *needed(colour_type, depth)]
    data = image_files.png(samples, depth=depth, colour_type=colour_type, before=extra)
    np.testing.assert_array_equal(images.decode(data).pixels_hwc, expected(colour_type, depth, samples))


def needs_kornia() -> None:
    if decoders.fast_png_decoder() is None:
        pytest.skip("kornia_rs not installed: pip install 'glomedge[fast]'")


def fast_alone(data: bytes) -> npt.NDArray[np.uint8] | None:
    """What kornia_rs itself says, without the OpenCV behind it."""
    decode = decoders.fast_png_decoder()
    assert decode is not None
    header = read_header(data)
    mode = "rgba" if header.alpha != "none" else "rgb"
    return decoders.quietly(decode, data, (header.height_px, header.width_px), mode)


@pytest.mark.parametrize("chunks", COLOUR_CHUNKS)
@pytest.mark.parametrize("orientation", [None, 1, 6])
@pytest.mark.parametrize("colour_type", [2, 6])
def test_fast_decoder_equals_opencv_and_pillow(colour_type: int, chunks: str, orientation: int | None) -> None:
    needs_kornia()
    samples = samples_of(colour_type, 8)
    extra = [*COLOUR_CHUNKS[chunks]] + ([] if orientation is None else [(b"eXIf", image_files.exif(orientation))])
    for idat_bytes in (1 << 30, 100, 1):
        data = image_files.png(samples, colour_type=colour_type, before=extra, idat_bytes=idat_bytes)
        header = read_header(data)
        assert header.decoder == ("opencv" if chunks == "cICP" else "fast")
        fast = fast_alone(data)
        assert fast is not None
        np.testing.assert_array_equal(fast, decoders.with_opencv(data, header))
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(fast, np.asarray(image))


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("colour_type", [2, 6])
def test_fast_decoder_on_every_filter_and_block_type(colour_type: int, level: int) -> None:
    needs_kornia()
    channels = image_files.CHANNELS_OF[colour_type]
    rng = np.random.default_rng(level)
    for strategy in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE):
        # Random filtered bytes under random filter types are as valid as any encoder's.
        raw = b"".join(
            bytes((int(rng.integers(5)),)) + rng.integers(0, 256, WIDTH_PX * channels, dtype=np.uint8).tobytes()
            for _ in range(HEIGHT_PX)
        )
        packer = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
        header = struct.pack(">IIBBBBB", WIDTH_PX, HEIGHT_PX, 8, colour_type, 0, 0, 0)
        data = image_files.PNG_SIGNATURE + b"".join(
            image_files.chunk(kind, body)
            for kind, body in ((b"IHDR", header), (b"IDAT", packer.compress(raw) + packer.flush()), (b"IEND", b""))
        )
        fast = fast_alone(data)
        assert fast is not None
        np.testing.assert_array_equal(fast, decoders.with_opencv(data, read_header(data)))
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(fast, np.asarray(image))


def test_same_pixels_without_the_fast_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_kornia()
    files = [
        image_files.png(samples_of(kind, 8), colour_type=kind, before=[(b"eXIf", image_files.exif(turn))])
        for kind in (2, 6)
        for turn in range(1, 9)
    ]
    with_it = [images.decode(data) for data in files]
    assert images.png_decoder().startswith("kornia-rs ")
    monkeypatch.setattr(decoders, "fast_png_decoder", lambda: None)
    assert images.png_decoder().startswith("opencv ")
    for data, before in zip(files, with_it, strict=True):
        after = images.decode(data)
        np.testing.assert_array_equal(after.pixels_hwc, before.pixels_hwc)
        assert after.flags == before.flags


@pytest.mark.parametrize("alpha", [0, 128, 255])
@pytest.mark.parametrize("colour_type", [4, 6])
def test_alpha(colour_type: int, alpha: int) -> None:
    samples = samples_of(colour_type, 8)
    samples[..., -1] = alpha
    decoded = images.decode(image_files.png(samples, colour_type=colour_type))
    np.testing.assert_array_equal(decoded.pixels_hwc, expected(colour_type, 8, samples))
    assert ("transparency" in decoded.flags) == (alpha < 255)


def test_one_transparent_pixel_is_found() -> None:
    samples = samples_of(6, 8)
    samples[..., 3] = 255
    for y, x in ((0, 0), (HEIGHT_PX - 1, WIDTH_PX - 1), (17, 5)):
        one = samples.copy()
        one[y, x, 3] = 254
        assert images.decode(image_files.png(one, colour_type=6)).flags == ("transparency",)


@pytest.mark.parametrize(("colour_type", "depth"), [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (2, 8), (2, 16)])
def test_one_transparent_colour(colour_type: int, depth: int) -> None:
    samples = samples_of(colour_type, depth)
    key = samples[5, 7]
    data = image_files.png(
        samples, depth=depth, colour_type=colour_type, before=[(b"tRNS", key.astype(">u2").tobytes())]
    )
    decoded = images.decode(data)
    hit = (samples == key).all(axis=2)
    expected_pixels = expected(colour_type, depth, samples)
    expected_pixels[hit] = 255
    np.testing.assert_array_equal(decoded.pixels_hwc, expected_pixels)
    assert "transparency" in decoded.flags


def test_transparent_palette() -> None:
    samples = samples_of(3, 8)
    alphas = np.random.default_rng(2).integers(0, 256, 200, dtype=np.uint8)  # the remaining 56 are opaque
    before = [(b"PLTE", PALETTE.tobytes()), (b"tRNS", alphas.tobytes())]
    decoded = images.decode(image_files.png(samples, colour_type=3, before=before))
    alpha = np.concatenate([alphas, np.full(56, 255, np.uint8)])[samples[..., 0]]
    np.testing.assert_array_equal(decoded.pixels_hwc, on_white(PALETTE[samples[..., 0]], alpha))
    assert decoded.flags == ("palette", "transparency")


@pytest.mark.parametrize(
    ("colour_type", "opaque"), [(0, None), (2, None), (4, 4095), (4, 65_535), (6, 4095), (6, 65_535)]
)
def test_declared_twelve_bits_stored_low(colour_type: int, opaque: int | None) -> None:
    samples = samples_of(colour_type, 12)
    samples[0, 0] = 4095  # the depth is what is declared, not what happens to be the highest value
    if opaque is not None:
        samples[..., -1] = opaque
    channels = image_files.CHANNELS_OF[colour_type]
    data = image_files.png(samples, depth=16, colour_type=colour_type, before=[(b"sBIT", b"\x0c" * channels)])
    decoded = images.decode(data)
    colours = samples[..., :3] if colour_type in (2, 6) else samples[..., :1].repeat(3, axis=2)
    np.testing.assert_array_equal(decoded.pixels_hwc, scaled(colours, 12))
    assert "sixteen_bit" in decoded.flags
    assert "transparency" not in decoded.flags


@pytest.mark.parametrize("half", [2048, 32_768])
def test_declared_twelve_bits_stored_low_behind_half_transparency(half: int) -> None:
    samples = samples_of(6, 12)
    samples[..., 3] = half
    samples[0, 0, 3] = 2 * half - 1  # opaque, at the top of alpha's own range
    decoded = images.decode(image_files.png(samples, depth=16, colour_type=6, before=[(b"sBIT", b"\x0c" * 4)]))
    alpha = scaled(samples[..., 3], 12 if half == 2048 else 16)
    np.testing.assert_array_equal(decoded.pixels_hwc, on_white(scaled(samples[..., :3], 12), alpha))
    assert "transparency" in decoded.flags


def test_declared_twelve_bits_stored_low_beside_one_transparent_colour() -> None:
    samples = samples_of(2, 12)
    before = [(b"sBIT", b"\x0c" * 3), (b"tRNS", samples[5, 7].astype(">u2").tobytes())]
    expected_pixels = scaled(samples, 12)
    expected_pixels[5, 7] = 255
    decoded = images.decode(image_files.png(samples, depth=16, before=before))
    np.testing.assert_array_equal(decoded.pixels_hwc, expected_pixels)


def test_declared_twelve_bits_scaled_up_as_the_standard_asks() -> None:
    samples = samples_of(2, 12)
    samples[0, 0] = 4095
    high = (samples << 4) | (samples >> 8)
    data = image_files.png(high, depth=16, before=[(b"sBIT", b"\x0c\x0c\x0c")])
    np.testing.assert_array_equal(images.decode(data).pixels_hwc, scaled(high, 16))


@pytest.mark.parametrize("where", ["before", "after"])
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_chunk_on_either_side_of_the_pixels(where: str, prefix: bytes) -> None:
    samples = samples_of(2, 8)
    chunks = [(b"eXIf", prefix + image_files.exif(6, little_endian=False))]
    data = image_files.png(
        samples, before=chunks if where == "before" else (), after=chunks if where == "after" else ()
    )
    np.testing.assert_array_equal(images.decode(data).pixels_hwc, np.rot90(samples.astype(np.uint8), -1))


def test_apng_of_one_frame_is_a_picture_and_of_two_is_refused() -> None:
    samples = samples_of(2, 8)
    one = image_files.png(samples, before=[(b"acTL", struct.pack(">II", 1, 0))])
    np.testing.assert_array_equal(images.decode(one).pixels_hwc, samples)
    two = image_files.png(samples, before=[(b"acTL", struct.pack(">II", 2, 0))])
    with pytest.raises(ImageError) as caught:
        images.decode(two)
    assert caught.value.code == "multiframe"


@pytest.mark.parametrize("colour_type", [0, 2, 6])
def test_every_flipped_byte_is_noticed(colour_type: int) -> None:
    data = image_files.png(samples_of(colour_type, 8), colour_type=colour_type, idat_bytes=900)
    for at in range(len(data)):
        broken = bytearray(data)
        broken[at] ^= 1 << (at % 8)
        with pytest.raises(ImageError):
            images.decode(bytes(broken))


def test_pixel_data_that_ends_early_under_right_checksums() -> None:
    samples = samples_of(6, 8)
    raw = b"".join(b"\0" + row.astype(np.uint8).tobytes() for row in samples.reshape(HEIGHT_PX, -1))
    header = struct.pack(">IIBBBBB", WIDTH_PX, HEIGHT_PX, 8, 6, 0, 0, 0)
    whole = zlib.compress(raw)
    for stream in (zlib.compress(raw[:-1]), zlib.compress(raw[: len(raw) // 2]), whole[: len(whole) // 2], b""):
        data = image_files.PNG_SIGNATURE + b"".join(
            image_files.chunk(kind, body) for kind, body in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
        )
        with pytest.raises(ImageError) as caught:
            images.decode(data)
        assert caught.value.code == "corrupt"


def test_a_fast_decoder_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    kornia_io = pytest.importorskip("kornia_rs.io", reason="kornia_rs not installed: pip install 'glomedge[fast]'")
    real = kornia_io.decode_image_png_u8
    assert decoders.fast_png_decoder.__wrapped__() is not None
    monkeypatch.setattr(kornia_io, "decode_image_png_u8", lambda *given: real(*given) ^ 1)
    assert decoders.fast_png_decoder.__wrapped__() is None
    monkeypatch.setattr(kornia_io, "decode_image_png_u8", lambda data: real(data, (2, 3), "rgb"))
    assert decoders.fast_png_decoder.__wrapped__() is None  # another release, another signature
