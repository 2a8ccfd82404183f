"""What Windows lacks is hidden in a child process: every module imports, a run ends with the same answers.

Nothing here was run on Windows. The stand-in for its module ``msvcrt`` locks one byte, as the true one does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.errors import UsageError
from glomedge.pipeline import settings
from glomedge.pipeline.settings import decode_plan
from glomedge.serve.signals import on_signals
from helpers.paths import ROOT
from helpers.run_kit import write_crops

_BEGIN = f"""
import fcntl, importlib, os, pkgutil, shutil, signal, subprocess, sys, types
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "export")!r}]
"""
# First with all there is, so that the packages of others, which know Windows by other means, are in memory.
_LOAD_ALL = """
import glomedge, glomedge_export
names = [module.name for package in (glomedge, glomedge_export)
         for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
         if not module.name.endswith("__main__")]
for name in list(names):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:  # an extra that is not installed here
        names.remove(name)
for name in [name for name in sys.modules if name.partition(".")[0] in ("glomedge", "glomedge_export")]:
    del sys.modules[name]
"""
_HIDE = """
def locking(descriptor, mode, count):
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
    except OSError:
        raise PermissionError(13, "Permission denied") from None

# Python's own on Windows asks Windows.
statvfs = os.statvfs
shutil.disk_usage = lambda path: types.SimpleNamespace(free=statvfs(path).f_bavail * statvfs(path).f_frsize)
sys.modules["msvcrt"] = types.ModuleType("msvcrt")
sys.modules["msvcrt"].locking, sys.modules["msvcrt"].LK_NBLCK = locking, 2
for name in ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "setsid", "killpg", "pread", "pwrite",
             "statvfs", "fstatvfs", "sched_getaffinity", "sched_setaffinity", "sysconf", "getloadavg", "uname", "nice",
             "memfd_create", "fchmod", "chown", "mkfifo", "O_CLOEXEC", "O_NONBLOCK", "O_NOFOLLOW", "O_DIRECTORY"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGPIPE", "SIGCHLD", "SIGQUIT", "setitimer",
             "pthread_kill", "pthread_sigmask"):
    delattr(signal, name)
"""


def _child(code: str, *arguments: str, first: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _BEGIN + first + _HIDE + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_every_module_imports_and_a_folder_is_answered(tmp_path: Path, tiny_model: Path) -> None:
    write_crops(tmp_path / "crops", 5, broken=0)
    run = ("infer", str(tmp_path / "crops"), "-m", str(tiny_model), "-p", "cpu", "-o")
    load = "for name in names:\n    importlib.import_module(name)\nprint(len(names))\n"
    answer = "from glomedge.cli import main\nsys.argv[0] = 'glomedge'\nmain()\n"
    done = _child(load + answer, *run, str(tmp_path / "hidden"), first=_LOAD_ALL)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 150
    posix = subprocess.run([sys.executable, "-m", "glomedge", *run, str(tmp_path / "posix")], check=False)
    assert posix.returncode == 0
    for name in ("predictions.csv", "cases.csv"):
        assert (tmp_path / "hidden" / name).read_bytes() == (tmp_path / "posix" / name).read_bytes()


def test_a_locked_byte_keeps_the_second_run_out_and_shows_whose_it_is(tmp_path: Path) -> None:
    take = (
        "from glomedge.files.lock import OutputLock\nfrom pathlib import Path\nheld = OutputLock(Path(sys.argv[1]))\n"
    )
    done = _child(
        take + f"again = {_BEGIN + _HIDE + take!r}\n"
        "second = subprocess.run([sys.executable, '-c', again, sys.argv[1]], capture_output=True, text=True)\n"
        "print(os.getpid(), second.returncode, second.stderr)\n",
        str(tmp_path / "lock"),
    )
    assert done.returncode == 0, done.stderr
    holder, code, *said = done.stdout.split()
    assert code == "1"
    assert f"Another run (process {holder})" in " ".join(said)


class _NoHandlers(asyncio.SelectorEventLoop):
    """As the loops of Windows are."""

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: object) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("loop_class", [asyncio.SelectorEventLoop, _NoHandlers])
def test_signals_reach_the_server_whatever_its_loop(loop_class: type[asyncio.SelectorEventLoop]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    loop, heard = loop_class(), []

    async def listen() -> None:
        on_signals(loop, stop=lambda: heard.append("stop"), swap=lambda: heard.append("swap"))
        for number in before:
            os.kill(os.getpid(), number)
            await asyncio.sleep(0.05)
        for _ in range(200):
            if len(heard) == 3:
                break
            await asyncio.sleep(0.05)

    try:
        loop.run_until_complete(listen())
    finally:
        loop.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert heard == ["stop", "stop", "swap"]


def test_decode_processes_are_refused_where_they_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "processes_possible", lambda: False)
    assert not decode_plan(16, gpu=True).processes
    with pytest.raises(UsageError, match="--decode-in threads"):
        decode_plan(2, gpu=False, decode_in="processes")
