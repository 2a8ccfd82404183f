"""TensorRT's timings: shared by the engines of one TensorRT, driver and GPU, and by nothing else."""

from __future__ import annotations

import dataclasses
import stat
from pathlib import Path

import pytest

from glomedge.engine.cache import KEPT_ENTRIES, Entry, prune, secure_root
from glomedge.engine.timing_cache import TimingCache
from helpers.engine_caches import KEY


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return secure_root(tmp_path / "cache")


def builds(root: Path, leaves: bytes, **key: str) -> bytes:
    """One builder: what it finds in its timing cache; ``leaves`` is what it writes there."""
    with TimingCache(root, dataclasses.replace(KEY, **key)) as timings:
        file = timings.folder / "TensorrtExecutionProvider_cache_sm89.timing"
        before = file.read_bytes() if file.exists() else b""
        assert timings.found == bool(before)
        file.write_bytes(leaves)
        timings.keep()
    return before


def test_another_model_or_batch_begins_with_the_timings_of_the_last(root: Path) -> None:
    assert builds(root, b"54 kernels") == b""
    assert builds(root, b"more", file_sha256="b" * 64, file_name="retrained.onnx") == b"54 kernels"
    assert builds(root, b"and more", shapes="1-32-32", options="other") == b"more"
    (kept,) = root.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "key", [{"runtime": "10.16.0"}, {"driver": "580.65"}, {"device": "NVIDIA H100 compute 9.0"}], ids=str
)
def test_timings_of_another_tensorrt_driver_or_gpu_are_not_used(root: Path, key: dict[str, str]) -> None:
    builds(root, b"54 kernels")
    assert builds(root, b"others", **key) == b""


def test_a_build_that_fails_keeps_nothing_and_leaves_nothing(root: Path) -> None:
    builds(root, b"54 kernels")
    with TimingCache(root, KEY) as timings:
        next(timings.folder.iterdir()).write_bytes(b"half")
    assert builds(root, b"54 kernels") == b"54 kernels"
    assert len(list(root.iterdir())) == 1


def test_timings_that_the_builder_cannot_read_are_left_aside_and_replaced(root: Path) -> None:
    builds(root, b"torn")
    with TimingCache(root, KEY, empty=True) as timings:
        assert not timings.found
        (timings.folder / "TensorrtExecutionProvider_cache_sm89.timing").write_bytes(b"54 kernels")
        timings.keep()
    assert builds(root, b"more") == b"54 kernels"


def test_timings_lie_outside_the_engines_and_are_pruned_with_them(root: Path) -> None:
    builds(root, b"54 kernels")
    with Entry(root, KEY) as entry:
        (entry.folder / "glomedge.engine").write_bytes(b"engine")
        entry.commit()
    assert builds(root, b"54 kernels") == b"54 kernels"
    for number in range(KEPT_ENTRIES + 3):
        builds(root, b"others", driver=str(number))
    prune(root)
    names = [path.name for path in root.iterdir()]
    assert KEY.digest() in names
    assert len(names) == 1 + KEPT_ENTRIES
