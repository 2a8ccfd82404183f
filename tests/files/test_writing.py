from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from glomedge.errors import OutputError
from glomedge.files.writing import check_writable, replacing, write_atomically


def test_a_file_is_replaced_whole_with_ordinary_permissions(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"old")
    before = os.umask(0o027)
    try:
        with replacing(path) as temporary:
            assert temporary.parent == tmp_path
            assert temporary.suffix == ".keras"
            temporary.write_bytes(b"new")
            assert path.read_bytes() == b"old"
    finally:
        os.umask(before)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_atomically(path, b"old")

    def killed() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b", "Choose another --output.")
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused_with_the_advice(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/glomedge")):
        with pytest.raises(OutputError, match=r"cannot be written: .*\. Choose another --output\.$"):
            check_writable(folder, "Choose another --output.")
