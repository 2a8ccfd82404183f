"""Run the blocks of a page (``doc_blocks``) one after the other in an empty folder, as a reader of the page would.

Three things are not as the reader has them. ``make`` and ``pip`` only check that the targets, files and extras exist,
because what they do is tested elsewhere. ``given`` (``tools/given.py``) makes the small models and tables that a page
takes for granted. A server listens on a free port.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.doc_blocks import Block, missing_line
from helpers.paths import ROOT

_LIMIT_S, _READY_S = 3600.0, 120.0
_PORT, _COLUMNS = "8080", "130"
_WELL = (0,)


class Sandbox:
    """The folder of one page.

    Args:
        folder: empty.
        quick: run what the comments name under ``quick`` in place of what takes long.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self.folder, self._quick = folder, quick
        self._port = _free_port()
        self._background: list[subprocess.Popen[bytes]] = []
        home, programs = folder.parent / "home", folder.parent / "bin"
        home.mkdir()
        programs.mkdir()
        given = ROOT / "tests" / "tools" / "given.py"
        for name in ("given", "make", "pip"):
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{given}" {name} "$@"\n', "utf-8")
            (programs / name).chmod(0o755)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        own = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COLUMNS", "MAKEFLAGS")}
        own["COLUMNS"] = _COLUMNS
        self._environment = own | {"PATH": path, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}

    def run(self, block: Block) -> str | None:
        """Do what a block and its comments say; what is wrong, None where nothing is."""
        said = block.said
        if block.kind == "text" or "not run" in said:
            return None
        first = said["quick first"] if self._quick and "quick first" in said else said.get("run first", "")
        if first and (problem := self._script(block, first, _WELL)[1]):
            return problem
        if self._quick and "quick" in said:
            return self._script(block, said["quick"], _WELL)[1]
        codes = [int(code) for code in said.get("exits with", "0").split(" or ")]
        if block.kind == "python":
            return self._command(block, [sys.executable, "-c", block.text], codes)[1]
        if "serves" in said:
            return self._serve(block, said["serves"])
        if block.kind == "commands":
            return self._script(block, block.text, codes)[1]
        return self._session(block, codes)

    def _session(self, block: Block, codes: Sequence[int]) -> str | None:
        steps = block.session()
        for number, (command, shown) in enumerate(steps, start=1):
            printed, problem = self._script(block, command, codes if number == len(steps) else _WELL)
            if problem:
                return problem
            if (line := missing_line(shown, printed)) is not None:
                return f"{block.place}: {command}\nno longer prints\n    {line.strip()}\nbut\n{printed}"
        return None

    def _script(self, block: Block, script: str, codes: Sequence[int]) -> tuple[str, str | None]:
        return self._command(block, ["bash", "-eu", "-o", "pipefail", "-c", self._here(script)], codes)

    def _command(self, block: Block, command: list[str], codes: Sequence[int]) -> tuple[str, str | None]:
        done = subprocess.run(
            command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        printed = done.stdout.decode("utf-8", "replace")
        if done.returncode not in codes:
            return printed, f"{block.place} ended with {done.returncode}:\n{command[-1]}\n{printed}"
        return printed, None

    def _here(self, script: str) -> str:
        """The script with the port of this sandbox."""
        script = script.replace(f"127.0.0.1:{_PORT}", f"127.0.0.1:{self._port}")
        return re.sub(r"(?m)^(glomedge serve\b[^#\n]*)", rf"\1 --port {self._port} --grpc-port 0", script)

    def _serve(self, block: Block, url: str) -> str | None:
        log = (self.folder.parent / "server.log").open("wb")
        server = subprocess.Popen(
            ["bash", "-eu", "-c", self._here(block.text)], cwd=self.folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        log.close()
        self._background.append(server)
        end = time.monotonic() + _READY_S
        while time.monotonic() < end and server.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(self._here(url), timeout=5.0):
                return None
            time.sleep(0.1)
        return f"{block.place} does not answer at {url}:\n{Path(log.name).read_text('utf-8', 'replace')}"

    def close(self) -> None:
        """End what runs in the background."""
        for server in self._background:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait(60.0)


@contextlib.contextmanager
def sandbox(folder: Path, *, quick: bool) -> Iterator[Sandbox]:
    """A sandbox in ``folder/page``, closed at the end."""
    (folder / "page").mkdir()
    made = Sandbox(folder / "page", quick=quick)
    try:
        yield made
    finally:
        made.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
