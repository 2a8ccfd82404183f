"""The engine cache: used when valid, rebuilt when anything it depends on changed, refused when others can write."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine import loading, providers
from glomedge.engine.backends import onnxrt
from glomedge.engine.cache import PASSPORT, EngineKey, Entry, WorkingCopy, default_root, problem, prune, secure_root
from glomedge.engine.runner import Opened, SessionRequest
from glomedge.errors import ModelError, OutputError, SelfTestError, UsageError
from glomedge.model.file import read_model_file, sealed
from glomedge.model.spec import BatchProfile, Recipe
from helpers import builders

KEY = EngineKey(
    provider="tensorrt",
    file_sha256="a" * 64,
    shapes="1-8-32",
    precision="fp16",
    onnxruntime="1.31.1",
    runtime="10.13.3",
    driver="570.86",
    device="NVIDIA L4 compute 8.9",
    options="{}",
)


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


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


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


@pytest.mark.openvino
def test_without_a_writable_home_openvino_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    if (reason := providers.named("openvino").unusable()) is not None:
        pytest.skip(reason)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("glomedge.engine.cache.default_root", lambda: blocked / "cache")
    with loading.load(tiny_model, "openvino") as model:
        assert "compiled model not cached" in model.runtime.notes[0]
        assert model.provider == "openvino"
    with pytest.raises(OutputError, match="--cache-dir"):
        loading.load(tiny_model, "openvino", cache_dir=blocked / "cache")


@pytest.mark.openvino
def test_openvino_builds_once_and_rebuilds_what_was_damaged(tiny_model: Path, tmp_path: Path) -> None:
    if (reason := providers.named("openvino").unusable()) is not None:
        pytest.skip(reason)
    cache = tmp_path / "cache"

    def notes() -> str:
        with loading.load(tiny_model, "openvino", cache_dir=cache) as model:
            return "; ".join(model.runtime.notes)

    assert "engine built" in notes()
    assert "taken from the cache" in notes()
    blob = next(cache.rglob("*.blob"))
    blob.chmod(0o600)
    flip(blob)
    assert "has changed; rebuilt" in notes()
    assert "taken from the cache" in notes()


def test_the_cpus_optimised_graph_is_kept_checked_and_gives_the_same_answers(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = tmp_path / "cache"
    images = np.random.default_rng(3).integers(0, 256, (5, 224, 224, 3), np.uint8)

    def run() -> tuple[str, npt.NDArray[np.float32]]:
        with loading.load(tiny_model, "cpu", cache_dir=cache, strict_placement=True) as model:
            return "; ".join(model.runtime.notes), model.infer(images).probability

    first, second = run(), run()
    assert first[0] == "optimised graph cached"
    assert second[0] == "optimised graph taken from the cache"
    flip(next(cache.rglob("optimised.onnx")))
    third = run()
    assert third[0] == "optimised graph cached again: optimised.onnx has changed"
    np.testing.assert_array_equal(first[1], second[1])
    np.testing.assert_array_equal(first[1], third[1])


def test_without_a_writable_home_the_cpu_runs_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr("glomedge.engine.cache.default_root", lambda: blocked / "cache")
    with loading.load(tiny_model, "cpu") as model:
        assert "optimised graph not cached" in model.runtime.notes[0]
    with pytest.raises(OutputError, match="--cache-dir"):
        loading.load(tiny_model, "cpu", cache_dir=blocked / "cache")


def test_a_copy_that_onnxruntime_cannot_read_is_dropped_and_the_model_runs(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    """Such as one cut short by a full disk before its hash was taken: the passport agrees, the graph does not load."""
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = tmp_path / "cache"
    notes = []
    for step in range(3):
        if step == 1:
            copy = next(cache.rglob("optimised.onnx"))
            copy.write_bytes(copy.read_bytes()[:100])
            passport = json.loads((copy.parent / PASSPORT).read_text())
            passport["files"][copy.name] = hashlib.sha256(copy.read_bytes()).hexdigest()
            (copy.parent / PASSPORT).write_text(json.dumps(passport))
        with loading.load(tiny_model, "cpu", cache_dir=cache) as model:
            notes.append(model.runtime.notes[0])
    assert notes[0] == notes[2] == "optimised graph cached"
    assert notes[1].startswith("optimised graph not cached: onnxruntime")


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"bias": -3.0}, SelfTestError, "gives probability"),
        ({"input_name": "pictures"}, ModelError, "input name"),
    ],
)
def test_an_engine_that_answers_wrongly_leaves_the_cache_although_its_passport_agrees(
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    error: type[ModelError],
    words: str,
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    key = onnxrt._graph_key(SessionRequest(read_model_file(tiny_model), 1, 1, BatchProfile()))
    with Entry(cache, key) as entry:
        (entry.folder / "optimised.onnx").write_bytes(builders.tiny_graph(**changes).SerializeToString())
        assert entry.commit()
    with pytest.raises(error, match=f"{words}.*came from the cache and was removed from it. Start again"):
        loading.load(tiny_model, "cpu", cache_dir=cache)
    assert list(cache.iterdir()) == []
    notes = []
    for _ in range(2):
        with loading.load(tiny_model, "cpu", cache_dir=cache) as model:
            notes.append(model.runtime.notes[0])
    assert notes == ["optimised graph cached", "optimised graph taken from the cache"]


def test_an_engine_built_just_now_that_answers_wrongly_is_not_kept_either(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    path = tmp_path / "retrained.onnx"
    path.write_bytes(sealed(builders.tiny_graph(bias=-3.0).SerializeToString(), read_model_file(tiny_model).spec))
    with pytest.raises(SelfTestError) as caught:
        loading.load(path, "cpu", cache_dir=cache)
    assert "cache" not in str(caught.value)
    assert list(cache.iterdir()) == []


def test_pixels_that_moved_are_not_the_engines_fault(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", 0)
    cache = secure_root(tmp_path / "cache")
    path = tmp_path / "edited.onnx"
    spec = read_model_file(tiny_model).spec.model_copy(update={"recipe": Recipe.named("plain")})
    path.write_bytes(sealed(builders.tiny_graph().SerializeToString(), spec))
    with pytest.raises(SelfTestError, match="preprocessing"):
        loading.load(path, "cpu", cache_dir=cache)
    assert len(list(cache.iterdir())) == 1


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


def test_the_cache_of_such_a_runtime_is_kept_when_the_session_is_gone(root: Path, tiny_model: Path) -> None:
    """The order matters: the plugin writes its files while its session is destroyed."""
    import weakref

    request = SessionRequest(read_model_file(tiny_model), 1, 1, BatchProfile())
    session = onnxrt.create_session(request, [(onnxrt.CPU, {})], onnxrt.session_options(request))
    copy = WorkingCopy(root, KEY)
    weakref.finalize(session, lambda: (copy.folder / "fused_node").write_bytes(b"kernels"))
    opened = Opened("fp32", {}, {})
    runner = onnxrt.OrtRunner(session, opened, on_closed=copy.keep)
    del session
    assert not (root / KEY.digest()).exists()
    runner.close()
    assert (root / KEY.digest() / "fused_node").read_bytes() == b"kernels"
