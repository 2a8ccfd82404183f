"""The server calls nobody and leaves nothing behind: as tests/privacy for the other commands."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers.traced import run_traced
from helpers.v2 import crop_png

# One process is server and client: everything that it calls is seen.
CODE = """
import http.client, json, os, pathlib, signal, socket, sys, threading, time
from glomedge.cli import main

model, crop = sys.argv[1:]
with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
    port, grpc_port = first.getsockname()[1], second.getsockname()[1]

def ask(method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body)
    reply = connection.getresponse()
    text = reply.read()
    assert reply.status < 300, (path, reply.status, text)
    return text

def client():
    try:
        while True:
            try:
                ask("GET", "/v2/health/ready")
                break
            except OSError:
                time.sleep(0.1)
        run = "/v1/runs/" + json.loads(ask("POST", "/v1/runs"))["id"]
        ask("PUT", run + "/crops?name=S-1_1.png", pathlib.Path(crop).read_bytes())
        ask("POST", run + "/finish")
        for path in ("/", "/page.js", "/metrics", run + "/report.html"):
            ask("GET", path)
        print("all asked", flush=True)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=client).start()
sys.argv = ["glomedge", "serve", model, "--provider", "cpu", "--port", str(port), "--grpc-port", str(grpc_port)]
main()
"""


def test_the_server_keeps_to_its_folders_and_calls_nobody(tmp_path: Path, tiny_model: Path) -> None:
    shutil.copyfile(tiny_model, tmp_path / "model.onnx")
    (tmp_path / "crop.png").write_bytes(crop_png(1))
    done = run_traced(CODE, [tmp_path / "model.onnx", tmp_path / "crop.png"], tmp_path)
    assert done.returncode == 0, done.text[-3000:]
    assert "all asked" in done.text
    assert done.files == ()
    # None where strace is missing: the files alone are looked at.
    assert not done.calls
    assert not done.created
