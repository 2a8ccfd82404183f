"""Running a command as a user would, in a fresh home, and finding what it left behind and whom it called."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from helpers.paths import ROOT

_SYSCALLS = "connect,sendto,sendmsg,sendmmsg,open,openat,creat,mkdir,mkdirat"
# What a process may create anywhere: nothing of it lasts, or it is no file.
_NO_FILES = ("/dev/", "/proc/", "/sys/", "memfd:")
_ADDRESS = re.compile(r"sa_family=(AF_\w+)(?:[^}]*?inet_addr\(\"([^\"]+)\"\)|[^}]*?inet_pton\(AF_INET6, \"([^\"]+)\")?")
_CREATED = re.compile(r'(?:open(?:at)?\((?:AT_FDCWD, )?"([^"]*)", [A-Z_|]*O_CREAT|(?:creat|mkdir)\("([^"]*)"|'
                      r'mkdirat\(AT_FDCWD, "([^"]*)")')  # fmt: skip


@dataclass(frozen=True)
class Left:
    """What one command did.

    Attributes:
        returncode: its exit code.
        text: standard output and standard error.
        files: what lies below the home, the current and the temporary folder afterwards, without the output folder,
            the input and glomedge's own cache; relative to their parent.
        calls: system calls that would reach another machine; None without strace.
        created: files and folders that it created elsewhere, outside its home, current and temporary folder;
            None without strace.
    """

    returncode: int
    text: str
    files: tuple[str, ...]
    calls: tuple[str, ...] | None
    created: tuple[str, ...] | None


def has_strace() -> bool:
    """Whether system calls can be traced here: installed, and allowed (some containers forbid it)."""
    if shutil.which("strace") is None:
        return False
    return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, check=False).returncode == 0


def run_traced(code: str, arguments: Sequence[object], root: Path, *, timeout_s: float = 300) -> Left:
    """Run Python code with a fresh HOME below ``root`` and CI unset; ``root/work`` is the current folder.

    ``out`` in the current folder is the output folder, and ``data`` the input.
    """
    home, work, temporary = root / "home", root / "work", root / "tmp"
    for folder in (home, work, temporary):
        folder.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary), "LANG": "C.UTF-8",
        # Not glomedge's doing: Python keeps compiled modules beside their sources.
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")]),
    }  # fmt: skip
    trace = root / "strace.txt"
    tracing = has_strace()
    prefix = ["strace", "-f", "--seccomp-bpf", "-qq", "-s", "300", "-e", f"trace={_SYSCALLS}", "-o", str(trace)]
    done = subprocess.run(
        [*(prefix if tracing else []), sys.executable, "-c", code, *map(str, arguments)],
        cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False,
    )  # fmt: skip
    own = (work / "out", work / "data", home / ".cache" / "glomedge")
    files = tuple(
        sorted(
            str(path.relative_to(root))
            for folder in (home, work, temporary)
            for path in folder.rglob("*")
            if not path.is_dir() and not any(path.is_relative_to(folder) for folder in own)
        )
    )
    lines = trace.read_text(errors="replace").splitlines() if tracing else None
    return Left(
        done.returncode,
        done.stdout + done.stderr,
        files,
        None if lines is None else tuple(line for line in lines if leaves_the_machine(line)),
        None if lines is None else tuple(path for line in lines if (path := created_outside(line, root))),
    )


def leaves_the_machine(line: str) -> bool:
    """Whether a line of strace names an address that is not of this machine. A failed attempt counts."""
    if not re.search(r"\b(connect|sendto|sendmsg|sendmmsg)\(", line):
        return False
    for family, v4, v6 in _ADDRESS.findall(line):
        if family in ("AF_UNIX", "AF_LOCAL", "AF_NETLINK", "AF_UNSPEC"):
            continue
        if not (v4.startswith("127.") or v6 in ("::1", "::ffff:127.0.0.1")):
            return True
    return False


def created_outside(line: str, root: Path) -> str:
    """The file or folder that a line of strace creates where nothing should be; empty where it creates none."""
    found = _CREATED.search(line)
    if found is None or " = -1 " in line:
        return ""
    path = next(part for part in found.groups() if part is not None)
    if not path.startswith("/") or path.startswith((*_NO_FILES, f"{root}/")):
        return ""  # relative to the current folder, which is searched as a whole
    return path
