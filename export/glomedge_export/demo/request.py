"""One request to ``glomedge serve``: start it, ask it about two crops, stop it."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from glomedge.cases.labels import read_labels
from glomedge.errors import GlomedgeError
from glomedge.files.writing import write_atomically
from glomedge.system.children import child_environment, python_command

REQUEST_FILE, ANSWER_FILE = "request.json", "answer.json"
_START_SECONDS, _ANSWER_SECONDS, _STOP_SECONDS = 120.0, 60.0, 20.0
_POLL_SECONDS = 0.05


def ask_server(directory: Path, say: Callable[[str], None]) -> None:
    """Ask about one crop of either class of ``night/``; keeps ``request.json`` and ``answer.json``.

    Args:
        directory: the demo folder, with ``night/`` and ``artifacts/model.onnx``.
        say: prints one line.

    Raises:
        GlomedgeError: the server did not start or did not answer.
    """
    crops = _one_of_each(directory / "night")
    data = [base64.b64encode(path.read_bytes()).decode("ascii") for path in crops]
    image = {"name": "image", "datatype": "BYTES", "shape": [len(data), 1], "data": data}
    request = json.dumps({"inputs": [image]}).encode()
    write_atomically(directory / REQUEST_FILE, request)
    with _server(directory) as address:
        say(f"$ curl -s {address}/v2/models/glomedge/infer -d @{REQUEST_FILE}")
        answer = _post(f"{address}/v2/models/glomedge/infer", request)
    outputs = {output["name"]: output["data"] for output in answer["outputs"]}
    write_atomically(directory / ANSWER_FILE, (json.dumps(answer, indent=1) + "\n").encode())
    for path, probability, label in zip(crops, outputs["probability"], outputs["label"], strict=True):
        say(f"{path.parent.name}/{path.name}: probability {probability:.4f}, label {label}")


def _one_of_each(folder: Path) -> list[Path]:
    """The first crop, by name, of either label."""
    by_name = {path.name: path for path in folder.glob("*/*.png")}
    truth = read_labels(folder / "public.csv")
    return [by_name[min(name for name, one in truth.items() if one == label)] for label in (1, 0)]


@contextlib.contextmanager
def _server(directory: Path) -> Iterator[str]:
    """A running server's address, on a port of the system's choice. Raises GlomedgeError where it does not start."""
    command = python_command("glomedge", "serve", "artifacts/model.onnx", "--port", "0", "--no-grpc")
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=directory, env=child_environment(), stderr=log)
        try:
            yield _address(process, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            if process.poll() is None:
                process.kill()
                process.wait()


def _address(process: subprocess.Popen[bytes], log: Any) -> str:
    """What the line of the log says that is written when the server listens."""
    deadline = time.monotonic() + _START_SECONDS
    waiting = threading.Event()
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        log.seek(0)
        lines = log.read().decode("utf-8", "replace").splitlines()
        for line in lines:
            with contextlib.suppress(ValueError):
                facts = json.loads(line)
                if facts.get("event") == "ready":
                    return str(facts["http"])
        if ended:
            break
        waiting.wait(_POLL_SECONDS)
    said = lines[-1] if lines else "it said nothing"
    raise GlomedgeError(f"The demo's server did not start: {said}. Try: glomedge serve artifacts/model.onnx")


def _post(address: str, body: bytes) -> dict[str, Any]:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    # A proxy of the environment has no business with this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=_ANSWER_SECONDS) as reply:
            answer: dict[str, Any] = json.load(reply)
    except (OSError, ValueError) as error:
        raise GlomedgeError(f"The demo's server did not answer: {error}. Run the demo again.") from error
    return answer
