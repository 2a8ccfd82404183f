"""The server says at its start when slides of the page would fill its memory or its disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.serve.page_disk import disk_warnings
from helpers.server import serving


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("/dev/sda / ext4 rw 0 0\ntmpfs {folder} tmpfs rw 0 0\n", ["lies in memory"]),
        ("tmpfs / tmpfs rw 0 0\n/dev/sdb {folder} ext4 rw 0 0\n", []),
        ("tmpfs {folder} tmpfs rw 0 0\n/dev/sdb {folder} xfs rw 0 0\n", []),
        ("tmpfs {folder}-other tmpfs rw 0 0\n/dev/sda / ext4 rw 0 0\n", []),
        ("", []),
    ],
)
def test_a_folder_in_memory_is_told(table: str, words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "t m p"
    (folder / "inner").mkdir(parents=True)
    mounts = tmp_path / "mounts"
    mounts.write_text(table.format(folder=str(folder).replace(" ", "\\040")))
    found = disk_warnings(folder / "inner", 1, mounts)
    assert len(found) == len(words)
    assert all(word in told for word, told in zip(words, found, strict=True))


def test_a_disk_without_room_is_told_at_the_start(tiny_model: Path) -> None:
    pytest.importorskip("openslide", reason="needs openslide")
    with serving(tiny_model, "--max-slides", "1000000000") as server:
        told = [line["message"] for line in server.lines if line["event"] == "warning"]
    assert any("--max-slides. Set TMPDIR" in message for message in told)
