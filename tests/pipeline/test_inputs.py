# ruff: noqa: PTH103, PTH118, PTH120 - paths are bytes here
from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.errors import UsageError
from glomedge.files.names import unescape_name
from glomedge.pipeline.inputs import Found, scan
from glomedge.system.stopping import StoppedError

SUFFIXES = (".png", ".jpg")


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def _naive(root: bytes) -> list[bytes]:
    """Every file found by os.walk, sorted as whole paths."""
    found = []
    for where, _, names in os.walk(root):
        found += [os.path.relpath(os.path.join(where, name), root) for name in names if name.lower().endswith(b".png")]
    return sorted(found)


_PART = st.binary(min_size=1, max_size=6).filter(lambda name: not name.startswith(b".") and not set(name) & set(b"/\0"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(_PART, min_size=1, max_size=3), max_size=12))
def test_order_is_that_of_the_bytes_of_whole_paths(paths: list[list[bytes]]) -> None:
    root = os.fsencode(tempfile.mkdtemp())
    try:
        for parts in paths:
            target = os.path.join(root, *parts) + b".PnG"
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                Path(os.fsdecode(target)).write_bytes(b"x")
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                continue
        found = scan(root, SUFFIXES).inputs
        assert [item.relative for item in found] == _naive(root)
        assert [unescape_name(item.key) for item in found] == _naive(root)
    finally:
        shutil.rmtree(root)


def test_what_is_an_input(tmp_path: Path) -> None:
    _touch(
        tmp_path, "b.png", "a/c.JPG", "a/notes.txt", "a.png", ".hidden.png", "._a.png", ".git/x.png", "deep/er/d.png"
    )
    found = scan(tmp_path, SUFFIXES)
    assert [item.key for item in found.inputs] == ["a.png", "a/c.JPG", "b.png", "deep/er/d.png"]
    assert (found.other_files, found.hidden_skipped) == (1, 2)
    assert found.notes() == ["2 images whose names begin with a dot were skipped."]


@pytest.mark.parametrize(
    "folder",
    [
        "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", ".snapshot", ".snapshots",
        "#snapshot", ".Trash-1000", ".zfs", ".thumbnails", "__MACOSX", ".AppleDouble", "@Recycle", ".@__thumb",
        "~snapshot", "RECYCLER",
    ],
)  # fmt: skip
@pytest.mark.parametrize("above", ["", "S21-1234/"])
def test_folders_of_file_servers_and_systems_are_left_out_and_counted(tmp_path: Path, folder: str, above: str) -> None:
    _touch(tmp_path, f"{above}{folder}/a-1.png/SYNOPHOTO_THUMB_M.png", f"{above}{folder}/b.png", f"{above}a-1.png")
    for other in (folder.swapcase(), "ordinary"):
        _touch(tmp_path, f"second/{other}/c.png")
    found = scan(tmp_path, SUFFIXES)
    assert [item.key for item in found.inputs] == [f"{above}a-1.png", "second/ordinary/c.png"]
    assert sum(found.system_skipped.values()) == 2
    assert f"{folder} (" in found.notes()[0]


def test_what_systems_leave_beside_crops_is_no_crop(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "._a.png", ".DS_Store", "Thumbs.db", "desktop.ini", "SYNOPHOTO_THUMB_XL.jpg")
    found = scan(tmp_path, SUFFIXES)
    assert [item.key for item in found.inputs] == ["a.png"]
    assert (found.hidden_skipped, found.system_skipped) == (1, {"thumbnails of a NAS": 1})
    assert len(found.notes()) == 2


def test_a_system_folder_that_is_named_itself_is_read(tmp_path: Path) -> None:
    _touch(tmp_path, "#recycle/a.png")
    assert [item.key for item in scan(tmp_path / "#recycle", SUFFIXES).inputs] == ["a.png"]


def test_same_base_name_in_two_folders_stays_apart(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"folder{number}/crop.png" for number in range(100)))
    assert len({item.key for item in scan(tmp_path, SUFFIXES).inputs}) == 100


def test_links_are_left_alone_unless_asked_for(tmp_path: Path) -> None:
    _touch(tmp_path, "in/a.png", "out/b.png")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "out" / "b.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    plain = scan(tmp_path / "in", SUFFIXES)
    assert [item.key for item in plain.inputs] == ["a.png"]
    assert plain.links_skipped == 3
    followed = scan(tmp_path / "in", SUFFIXES, follow_symlinks=True)
    assert [item.key for item in followed.inputs] == ["a.png", "broken.png", "folder/b.png", "link.png"]


@pytest.mark.timeout(5)
def test_link_loops_end(tmp_path: Path) -> None:
    _touch(tmp_path, "a/x.png", "b/y.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "across").symlink_to(tmp_path / "a")
    assert [item.key for item in scan(tmp_path, SUFFIXES, follow_symlinks=True).inputs] == ["a/x.png", "b/y.png"]


@pytest.mark.timeout(5)
def test_pipes_and_sockets_have_a_row_and_are_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path may hold no more than 108 bytes
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
        found = scan(tmp_path, SUFFIXES).inputs
    assert found == [Found(b"pipe.png", "not_regular"), Found(b"socket.png", "not_regular")]


def test_a_folder_that_cannot_be_listed_has_a_row(not_root: Path) -> None:
    _touch(not_root, "a.png", "closed/b.png", "z.png")
    (not_root / "closed").chmod(0)
    assert scan(not_root, SUFFIXES).inputs == [Found(b"a.png"), Found(b"closed/", "permission"), Found(b"z.png")]
    (not_root / "closed").chmod(0o700)


@pytest.mark.parametrize(
    "names", [[f"{number}.png" for number in range(50)], [f"{number}/notes.txt" for number in range(50)], ["a/" * 50]]
)
def test_a_stop_ends_the_search_wherever_it_is(tmp_path: Path, names: list[str]) -> None:
    """In a large folder, among many small ones, and where there is nothing but folders."""
    for name in names:
        if name.endswith("/"):
            (tmp_path / name).mkdir(parents=True)
        else:
            _touch(tmp_path, name)
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 20

    with pytest.raises(StoppedError):
        scan(tmp_path, SUFFIXES, stop=stop)
    assert asked == 21


def test_own_outputs_are_not_inputs(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "predictions/heat/b.png")
    assert [item.key for item in scan(tmp_path, SUFFIXES, exclude=[tmp_path / "predictions"]).inputs] == ["a.png"]


def test_one_file(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png", "b.png", "c.txt")
    found = scan(tmp_path / "a.png", SUFFIXES)
    assert found.inputs == [Found(b"a.png")]
    assert found.path(found.inputs[0]) == os.fsencode(tmp_path / "a.png")
    with pytest.raises(UsageError, match="neither a folder nor an image"):
        scan(tmp_path / "c.txt", SUFFIXES)
    with pytest.raises(UsageError, match="Give a folder"):
        scan(tmp_path / "none", SUFFIXES)


def test_very_deep_folders(tmp_path: Path) -> None:
    here = Path.cwd()
    depth = 1200  # deeper than Python recurses
    os.chdir(tmp_path)
    try:
        for _ in range(depth):
            os.mkdir("d")  # noqa: PTH102 - the path is longer than the system takes in one piece
            os.chdir("d")
        _touch(Path(), "a.png")
    finally:
        os.chdir(here)
    try:
        (found,) = scan(tmp_path, SUFFIXES).inputs
        assert found.relative == b"d/" * depth + b"a.png"
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # shutil.rmtree recurses
