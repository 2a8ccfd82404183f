"""The engine cache: used when valid, rebuilt when anything it depends on changed, refused when others can write."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.engine.cache import (
    PASSPORT,
    EngineKey,
    Entry,
    WorkingCopy,
    cache_notes,
    default_root,
    problem,
    prune,
    secure_root,
)
from glomedge.errors import OutputError, UsageError
from helpers.engine_caches import KEY, flip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return secure_root(tmp_path / "cache")


def build(root: Path, key: EngineKey = KEY, content: bytes = b"engine") -> Path:
    with Entry(root, key) as entry:
        assert not entry.built
        (entry.folder / "glomedge.engine").write_bytes(content)
        (entry.folder / "sub").mkdir()
        (entry.folder / "sub" / "timing.cache").write_bytes(b"timing")
        assert entry.commit()
    return entry.folder


def test_what_was_built_is_found_again(root: Path) -> None:
    folder = build(root)
    with Entry(root, KEY) as entry:
        assert entry.built
        assert entry.folder == folder
        assert entry.commit()
    assert (folder / "glomedge.engine").read_bytes() == b"engine"
    assert sorted(path.name for path in root.iterdir()) == [KEY.digest()]


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(EngineKey)])
def test_a_change_in_any_field_is_another_engine(root: Path, field: str) -> None:
    build(root)
    with Entry(root, dataclasses.replace(KEY, **{field: "something else"})) as entry:
        assert not entry.built
        assert entry.reason == ""
    assert Entry(root, KEY).built


def rewrite_key(folder: Path) -> None:
    passport = json.loads((folder / PASSPORT).read_text())
    passport["key"]["driver"] = "999"
    (folder / PASSPORT).write_text(json.dumps(passport))


def link_out(folder: Path) -> None:
    target = folder.parent.parent / "elsewhere"
    target.write_bytes((folder / "glomedge.engine").read_bytes())
    (folder / "glomedge.engine").unlink()
    (folder / "glomedge.engine").symlink_to(target)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda folder: flip(folder / "glomedge.engine"), "glomedge.engine has changed"),
    "a truncated engine": (lambda folder: (folder / "glomedge.engine").write_bytes(b"eng"), "has changed"),
    "a lost file": (lambda folder: (folder / "glomedge.engine").unlink(), "files were added or removed"),
    "a foreign file": (lambda folder: (folder / "other.engine").write_bytes(b"x"), "files were added or removed"),
    "a link": (link_out, "glomedge.engine has changed"),
    "another engine's passport": (rewrite_key, "built for something else"),
    "a torn passport": (lambda folder: (folder / PASSPORT).write_text("{"), "passport is damaged"),
    "a passport of another shape": (lambda folder: (folder / PASSPORT).write_text("[]"), "passport is damaged"),
    "no passport": (lambda folder: (folder / PASSPORT).unlink(), "cannot be read"),
}


@pytest.mark.parametrize("damage", sorted(DAMAGE))
def test_a_damaged_entry_is_thrown_away_and_built_anew(root: Path, damage: str) -> None:
    do, words = DAMAGE[damage]
    do(build(root))
    assert words in problem(root / KEY.digest(), KEY)
    with Entry(root, KEY) as entry:
        assert not entry.built
        assert words in entry.reason
        assert list(entry.folder.iterdir()) == []
        (entry.folder / "glomedge.engine").write_bytes(b"new")
        entry.commit()
    again = Entry(root, KEY)
    assert again.built
    assert (again.folder / "glomedge.engine").read_bytes() == b"new"


def test_an_entry_that_the_runtime_cannot_use_is_replaced_once_another_is_built(root: Path) -> None:
    folder = build(root)
    with Entry(root, KEY, "the provider could not use it") as entry:
        assert (entry.found, entry.built) == (False, False)
        assert list(entry.folder.iterdir()) == []
    assert (folder / "glomedge.engine").read_bytes() == b"engine"  # it was not the engine's fault: nothing was built
    with Entry(root, KEY, "the provider could not use it") as entry:
        (entry.folder / "glomedge.engine").write_bytes(b"another")
        assert entry.commit()
        assert cache_notes(entry) == ("cached engine not used: the provider could not use it; rebuilt",)
    assert Entry(root, KEY).found
    assert (folder / "glomedge.engine").read_bytes() == b"another"
    assert [path.name for path in root.iterdir()] == [KEY.digest()]


def test_what_a_runtime_builds_beside_the_engine_it_was_given_does_not_spoil_the_entry(root: Path) -> None:
    build(root)
    with Entry(root, KEY) as entry:
        (entry.folder / "glomedge_under_another_name.engine").write_bytes(b"beside it")
        assert entry.commit()
        assert cache_notes(entry) == ("the provider did not take the cached engine and built another beside it",)
    with Entry(root, KEY) as again:
        assert again.reason == ""
        assert again.found
        (again.folder / "glomedge.engine").write_bytes(b"engine")  # anew, as it was
        os.utime(again.folder / "glomedge.engine", (1, 1))
        assert again.commit()
        assert cache_notes(again) == ("engine taken from the cache",)


def test_an_entry_that_is_a_link_is_not_followed(root: Path, tmp_path: Path) -> None:
    real = build(secure_root(tmp_path / "other"))
    (root / KEY.digest()).symlink_to(real)
    with Entry(root, KEY) as entry:
        assert not entry.built
    assert (real / "glomedge.engine").exists()


def test_a_failed_build_leaves_nothing(root: Path) -> None:
    def build_and_fail() -> None:
        with Entry(root, KEY) as entry:
            (entry.folder / "half.engine").write_bytes(b"half")
            raise RuntimeError("build failed")

    with pytest.raises(RuntimeError, match="build failed"):
        build_and_fail()
    assert list(root.iterdir()) == []


def test_a_runtime_that_wrote_nothing_leaves_nothing(root: Path) -> None:
    with Entry(root, KEY) as entry:
        assert not entry.commit()
    assert list(root.iterdir()) == []


def test_builders_racing_leave_one_sound_entry(root: Path) -> None:
    start = threading.Barrier(8)
    outcomes: list[bool] = []

    def race(index: int) -> None:
        with Entry(root, KEY) as entry:
            (entry.folder / "glomedge.engine").write_bytes(b"%d" % index)
            start.wait()
            outcomes.append(entry.commit())

    threads = [threading.Thread(target=race, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(True) == 1
    assert problem(root / KEY.digest(), KEY) == ""
    assert [path.name for path in root.iterdir()] == [KEY.digest()]


def test_prune_keeps_what_was_used_last(root: Path) -> None:
    keys = [dataclasses.replace(KEY, driver=str(index)) for index in range(6)]
    for index, key in enumerate(keys):
        os.utime(build(root, key), (index, index))
    abandoned, fresh = root / ".building-1-a", root / ".building-2-b"
    abandoned.mkdir()
    fresh.mkdir()
    old = time.time() - 2 * 86_400
    os.utime(abandoned, (old, old))
    prune(root, keep=2)
    assert {path.name for path in root.iterdir()} == {keys[4].digest(), keys[5].digest(), fresh.name}


def test_the_folder_is_made_owner_only(tmp_path: Path) -> None:
    root = secure_root(tmp_path / "deep" / "cache")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert secure_root(root) == root


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="modes and owners are POSIX's")
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(mode)
    with pytest.raises(UsageError, match=r"Other users can write.*chmod 700"):
        secure_root(root)


def test_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_text("")
    for name in ("link", "file"):
        with pytest.raises(UsageError, match="not a folder"):
            secure_root(tmp_path / name)
    with pytest.raises(OutputError, match="--cache-dir"):
        secure_root(tmp_path / "file" / "cache")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "theirs"
    root.mkdir(mode=0o700)
    os.chown(root, 12_345, 12_345)
    with pytest.raises(UsageError, match="belongs to another user"):
        secure_root(root)


def test_the_default_follows_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "glomedge"


def test_a_relative_xdg_folder_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("cache", "./cache", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", named)
        assert default_root() == tmp_path / ".cache" / "glomedge"


def test_without_a_home_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    with pytest.raises(OutputError, match=r"no home folder.*--cache-dir"):
        default_root()


def test_a_cache_that_vanished_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written to"):
        Entry(tmp_path / "gone", KEY)


def test_a_passport_that_cannot_be_written_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with Entry(root, KEY) as entry:
        (entry.folder / "glomedge.engine").write_bytes(b"engine")
        assert not entry.commit()
    assert list(root.iterdir()) == []


# Runtimes that write their cache as they close, and anew each time.


def closing(root: Path, content: bytes) -> tuple[WorkingCopy, list[str], bool]:
    """One session of such a runtime: what it found in its folder, then what it leaves there as it closes."""
    copy = WorkingCopy(root, KEY)
    found = sorted(path.name for path in copy.folder.iterdir())
    (copy.folder / "fused_node").write_bytes(content)
    return copy, found, copy.keep()


def test_what_a_runtime_leaves_as_it_closes_is_found_by_the_next(root: Path) -> None:
    copy, found, kept = closing(root, b"kernels of batch 1")
    assert (copy.entry.reason, found, kept) == ("", [], True)
    _, found, kept = closing(root, b"kernels of batch 1")
    assert (found, kept) == (["fused_node"], False)  # written anew, nothing new in it
    _, found, kept = closing(root, b"kernels of batch 1 and 32")
    assert (found, kept) == (["fused_node"], True)
    assert problem(root / KEY.digest(), KEY) == ""
    assert (root / KEY.digest() / "fused_node").read_bytes() == b"kernels of batch 1 and 32"
    assert [path.name for path in root.iterdir()] == [KEY.digest()]


def test_a_damaged_entry_is_not_given_to_such_a_runtime(root: Path) -> None:
    closing(root, b"kernels")
    (root / KEY.digest() / "fused_node").write_bytes(b"other")
    copy, found, kept = closing(root, b"kernels")
    assert copy.entry.reason == "fused_node has changed"
    assert (found, kept) == ([], True)


def test_a_copy_that_is_thrown_away_leaves_the_entry(root: Path) -> None:
    closing(root, b"kernels")
    copy = WorkingCopy(root, KEY)
    (copy.folder / "fused_node").write_bytes(b"half")
    copy.discard()
    assert (root / KEY.digest() / "fused_node").read_bytes() == b"kernels"
    assert [path.name for path in root.iterdir()] == [KEY.digest()]


def test_what_such_a_runtime_answered_wrongly_with_is_not_kept(root: Path) -> None:
    for found in (False, True):
        copy = WorkingCopy(root, KEY)
        (copy.folder / "fused_node").write_bytes(b"wrong kernels")
        assert copy.drop() is found
        assert not copy.keep()
        assert list(root.iterdir()) == []
        closing(root, b"kernels")
