"""Files that are broken, hostile or not files at all."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomedge.errors import ImageError
from glomedge.imaging import images
from helpers import image_files

ROOT = Path(__file__).resolve().parents[2]


def whole_files() -> dict[str, bytes]:
    pixels = image_files.crop(120, 160)
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    return {
        "png": image_files.saved(rgba, "PNG"),
        "png slow path": image_files.png(pixels, interlaced=True, idat_bytes=2000),
        "jpeg": image_files.saved(pixels, "JPEG"),
        "jpeg progressive": image_files.saved(pixels, "JPEG", progressive=True),
        "tiff": image_files.saved(pixels, "TIFF"),
        "tiff lzw": image_files.saved(pixels, "TIFF", compression="tiff_lzw"),
        "bmp": image_files.saved(pixels, "BMP"),
        "webp": image_files.saved(pixels, "WEBP", lossless=True),
    }


@pytest.mark.parametrize("name", whole_files())
def test_cut_anywhere_gives_no_pixels(name: str) -> None:
    data = whole_files()[name]
    images.decode(data)
    for cut in np.linspace(0, len(data) - 1, 200).astype(int):
        with pytest.raises(ImageError) as caught:
            images.decode(data[:cut])
        assert caught.value.code == "truncated" or (cut < 16 and caught.value.code == "format"), cut


@pytest.mark.parametrize("name", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_bit_rot_never_crashes_and_png_notices_it(name: str) -> None:
    data = whole_files()[name]
    rng = np.random.default_rng(5)
    for _ in range(1000):
        rotten = bytearray(data)
        rotten[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        if name == "png":
            with pytest.raises(ImageError):
                images.decode(bytes(rotten))
        else:
            try:
                decoded = images.decode(bytes(rotten))
            except ImageError:
                continue
            assert decoded.pixels_hwc.ndim == 3


def bomb(side_px: int = 30_000) -> bytes:
    """A valid PNG of a few MB, all black, that decodes to 2.7 GB of RGB."""
    rows = bytes(100 * (1 + side_px * 3))
    packer = zlib.compressobj(9)
    head = packer.compress(b"") + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(rows) + packer.flush(zlib.Z_FULL_FLUSH)  # stands by itself, so it can be repeated
    # Adler-32 of n zero bytes: a stays 1, b is n times 1.
    checksum = (side_px // 100 * len(rows) % 65_521) << 16 | 1
    stream = head + again * (side_px // 100) + b"\x03\0" + struct.pack(">I", checksum)
    header = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    return image_files.PNG_SIGNATURE + b"".join(image_files.chunk(kind, body) for kind, body in parts)


def test_the_bomb_is_a_sound_picture() -> None:
    decoded = images.decode(bomb(200))
    assert decoded.pixels_hwc.shape == (200, 200, 3)
    assert not decoded.pixels_hwc.any()


def test_pixel_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb())
    script = """
import os, resource, sys, time
from glomedge.imaging import images
from glomedge.errors import ImageError
images.decode(images.read(sys.argv[1]))  # the small one loads the decoders
start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    images.decode(images.read(sys.argv[2]))
except ImageError as error:
    extra_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(error.code, extra_mb, time.process_time() - start)
assert not any(name.startswith("OPENCV_IO") for name in os.environ)
"""
    small = tmp_path / "small.png"
    small.write_bytes(image_files.png(image_files.crop()))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENCV_IO")}
    done = subprocess.run(
        [sys.executable, "-c", script, str(small), str(path)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    code, extra_mb, seconds = done.stdout.split()
    assert code == "too_large"
    assert int(extra_mb) < 200
    assert float(seconds) < 1.0  # of the processor, so that a busy machine cannot fail it


@pytest.mark.parametrize("image_format", ["jpeg", "tiff", "bmp", "webp"])
def test_declared_size_alone_is_refused(image_format: str) -> None:
    pixels = image_files.crop()
    if image_format == "jpeg":
        data = bytearray(image_files.saved(pixels, "JPEG"))
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    elif image_format == "tiff":
        big = np.broadcast_to(np.zeros((1, 1, 3), np.uint8), (48, 64, 3))
        data = bytearray(image_files.tiff(big))
        for value, tag in ((64, 256), (48, 257)):
            entry = struct.pack("<HHII", tag, 4, 1, value)
            at = data.index(entry)
            data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    elif image_format == "bmp":
        header = struct.pack("<IiiHHIIiiII", 40, 60_000, 60_000, 1, 8, 1, 0, 0, 0, 256, 0)  # run-length: may be short
        data = bytearray(b"BM" + struct.pack("<IHHI", 2000, 0, 0, 1078) + header + bytes(2000))
    else:
        data = bytearray(image_files.saved(pixels, "WEBP"))
        at = data.index(b"\x9d\x01\x2a")
        data[at + 3 : at + 7] = struct.pack("<HH", 0x3FFF, 0x3FFF)
    with pytest.raises(ImageError) as caught:
        images.decode(bytes(data))
    assert caught.value.code == "too_large"


def code_of_read(path: str | bytes | Path, *, follow_symlinks: bool = False) -> str:
    with pytest.raises(ImageError) as caught:
        images.read(path, follow_symlinks=follow_symlinks)
    assert str(caught.value).endswith(".")
    return caught.value.code


def test_reads_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for size in (0, 1, 65_536, 20_000_003):
        content = np.random.default_rng(size).bytes(size)
        path.write_bytes(content)
        assert images.read(path) == content
        assert images.read(os.fsencode(path)) == content


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert code_of_read(pipe) == "not_regular"
    assert code_of_read(tmp_path) == "not_regular"
    assert code_of_read("/dev/zero") == "not_regular"
    address = tmp_path / "socket.png"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(address))
        assert code_of_read(address) == "not_regular"


def test_links_are_followed_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"content")
    (tmp_path / "link.png").symlink_to("real.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    assert code_of_read(tmp_path / "link.png") == "not_regular"
    assert images.read(tmp_path / "link.png", follow_symlinks=True) == b"content"
    assert code_of_read(tmp_path / "loop.png", follow_symlinks=True) == "not_regular"
    assert code_of_read(tmp_path / "device.png", follow_symlinks=True) == "not_regular"


def test_missing_file_and_impossible_names(tmp_path: Path) -> None:
    assert code_of_read(tmp_path / "no.png") == "vanished"
    (tmp_path / "file").write_bytes(b"")
    assert code_of_read(tmp_path / "file" / "below.png") == "vanished"
    assert code_of_read("a\0b.png") == "io"
    assert code_of_read(tmp_path / ("x" * 5000)) == "io"


def test_file_without_permission(not_root: Path) -> None:
    path = not_root / "secret.png"
    path.write_bytes(b"content")
    assert images.read(path) == b"content"  # the folder lets this user through: what follows is the file's own mode
    path.chmod(0)
    assert code_of_read(path) == "permission"


def test_file_in_a_folder_without_permission(not_root: Path) -> None:
    closed = not_root / "closed"
    closed.mkdir()
    (closed / "a.png").write_bytes(b"content")
    closed.chmod(0)
    try:
        assert code_of_read(closed / "a.png") == "permission"
    finally:
        closed.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.EACCES, "permission"), (errno.EIO, "io"), (errno.ESTALE, "vanished"), (errno.ENXIO, "not_regular")],
)
def test_errors_of_the_system_have_codes(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    opened: list[int] = []
    closed: list[int] = []
    real_open, real_close = os.open, os.close

    def failing_read(descriptor: int, count: int) -> bytes:
        raise OSError(number, os.strerror(number))

    def counting_open(*given: object, **named: object) -> int:
        opened.append(real_open(*given, **named))  # type: ignore[arg-type]
        return opened[-1]

    def counting_close(descriptor: int) -> None:
        closed.append(descriptor)
        real_close(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "read", failing_read)
        patch.setattr(os, "open", counting_open)
        patch.setattr(os, "close", counting_close)
        found = code_of_read(path)
    assert found == code
    assert opened
    assert opened == closed


@pytest.fixture(scope="module")
def names_folder(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return os.fsencode(tmp_path_factory.mktemp("names"))


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.binary(min_size=1, max_size=80).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 0x2F}))
def test_any_name_can_be_read(name: bytes, names_folder: bytes) -> None:
    path = os.path.join(names_folder, name)  # noqa: PTH118 (a name that is not text)
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(name)
    try:
        assert images.read(path) == name
        assert images.read(os.fsdecode(path)) == name
    finally:
        os.unlink(path)  # noqa: PTH108


def test_file_that_grows_while_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing.png"
    path.write_bytes(b"a" * 100)
    real_read = os.read

    def growing_read(descriptor: int, count: int) -> bytes:
        data = real_read(descriptor, count)
        if path.stat().st_size < 300:
            with path.open("ab") as file:
                file.write(b"b" * 100)
        return data

    monkeypatch.setattr(os, "read", growing_read)
    assert images.read(path) == b"a" * 100 + b"b" * 200


def test_file_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(images.MAX_FILE_BYTES + 1)  # sparse
    assert code_of_read(path) == "too_large"


def test_nothing_heavy_is_loaded_for_a_plain_png(tmp_path: Path) -> None:
    path = tmp_path / "crop.png"
    path.write_bytes(image_files.png(image_files.crop()))
    script = """
import os, sys
before = dict(os.environ)
from glomedge.imaging import images
assert "kornia_rs" not in sys.modules and "PIL" not in sys.modules
images.decode(images.read(sys.argv[1]))
assert "PIL" not in sys.modules
# cv2 itself sets LD_LIBRARY_PATH; how pictures are decoded must not depend on what was imported.
assert {k: v for k, v in os.environ.items() if k.startswith("OPENCV")} == {
    k: v for k, v in before.items() if k.startswith("OPENCV")
}
"""
    subprocess.run([sys.executable, "-c", script, str(path)], cwd=ROOT, check=True, timeout=60)


def test_threads_decode_the_same_pixels() -> None:
    from concurrent.futures import ThreadPoolExecutor

    files = list(whole_files().values()) * 8
    alone = [images.decode(data).pixels_hwc for data in files]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(alone, pool.map(lambda data: images.decode(data).pixels_hwc, files), strict=True):
            np.testing.assert_array_equal(one, other)
