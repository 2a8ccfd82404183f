"""Who may ask: closed by default, tokens, other sites in a browser, TLS."""

from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import pytest

from glomedge.serve.grpc_messages import SERVICE, message
from helpers.server import Server, refused, serving
from helpers.v2 import crop_png, files_request

READY = message("ServerReadyResponse")
TOKEN = "5f2d8c1be0a94737"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"{'0' * 32}\n\n{TOKEN}\n")
    path.chmod(0o600)
    return path


def test_another_address_needs_a_token_or_a_word(tiny_model: Path) -> None:
    for host in ("0.0.0.0", "192.0.2.1", "::", "example.invalid"):
        message = refused(tiny_model, "--host", host)
        assert "--token-file" in message
        assert "--insecure" in message


def test_an_insecure_server_answers_under_any_name(tiny_model: Path) -> None:
    with serving(tiny_model, "--host", "0.0.0.0", "--insecure") as server:
        assert server.get("/v2", Host="scanner-7.example").status == 200


@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        ("", 0o600, "one token a line"), ("short\n", 0o600, "16 characters"), (TOKEN, 0o644, "chmod 600"),
        (None, 0, "read"),
    ],
)  # fmt: skip
def test_a_token_file_that_protects_nothing_is_refused(
    tiny_model: Path, tmp_path: Path, content: str | None, mode: int, words: str
) -> None:
    path = tmp_path / "tokens"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    assert words in refused(tiny_model, "--token-file", str(path))


def test_without_a_token_only_the_probes_answer(tiny_model: Path, token_file: Path) -> None:
    with serving(tiny_model, "--host", "0.0.0.0", "--token-file", str(token_file)) as server:
        for path in ("/v2/health/live", "/v2/health/ready"):
            assert server.get(path).status == 200
        document, binary = files_request([crop_png(1)])
        for path in ("/v2", "/v2/models/glomedge", "/metrics", "/nowhere"):
            assert server.get(path).status == 401
        assert server.infer(document, binary).status == 401
        wrong = ("", TOKEN, f"Basic {TOKEN}", "Bearer ", f"Bearer {TOKEN}0", f"Bearer {TOKEN[:-1]}", "Bearer \xff" * 3)
        for given in wrong:
            assert server.get("/v2", Authorization=given).status == 401
        for given in (f"Bearer {TOKEN}", f"bearer {'0' * 32}"):
            assert server.get("/v2", Authorization=given).status == 200
        assert server.get("/v2").headers["www-authenticate"] == "Bearer"
        assert TOKEN.encode() not in bytes(server.raw)


def test_a_local_server_lends_its_address_to_no_other_name(server: Server) -> None:
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "[::1",
        "127.0.0.1.evil.example",
        "192.0.2.1",
        "0.0.0.0",
        "",
    ):
        assert server.get("/v2/models/glomedge", Host=host).status == 421
    for host in (f"localhost:{server.port}", "127.0.0.1", "127.0.0.2:80", f"[::1]:{server.port}", "LOCALHOST"):
        assert server.get("/v2/models/glomedge", Host=host).status == 200


def test_requests_of_other_sites_are_refused(server: Server) -> None:
    own = f"127.0.0.1:{server.port}"
    for origin in (
        "https://evil.example",
        "null",
        "http://127.0.0.1:1",
        f"https://evil.example/{own}",
        "http://[x",
        "",
        "]",
    ):
        assert server.get("/v2", Host=own, Origin=origin).status == 403
    assert server.get("/v2", Host=own, Origin=f"http://{own}").status == 200


def test_any_loopback_address_answers_to_its_name(tiny_model: Path) -> None:
    with serving(tiny_model, "--host", "127.0.0.2") as server:
        connection = http.client.HTTPConnection("127.0.0.2", server.port, timeout=30)
        connection.request("GET", "/v2")
        assert connection.getresponse().status == 200
        connection.close()


def test_behind_a_proxy_a_server_with_a_token_answers_to_the_name_of_the_proxy(
    tiny_model: Path, token_file: Path
) -> None:
    with serving(tiny_model, "--token-file", str(token_file)) as server:
        own = {"Host": "glomedge.example", "Authorization": f"Bearer {TOKEN}"}
        assert server.get("/v2", **own, Origin="https://glomedge.example").status == 200
        assert server.get("/v2", **own, Origin="https://evil.example").status == 403
        assert server.get("/v2", Host="glomedge.example").status == 401


def test_tls(tiny_model: Path, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "1",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    assert "together" in refused(tiny_model, "--tls-cert", str(cert))
    assert "no file" in refused(tiny_model, "--tls-cert", str(cert), "--tls-key", str(tmp_path / "none"))
    with serving(tiny_model, "--tls-cert", str(cert), "--tls-key", str(key), "--grpc-port", "0") as server:
        assert server.wait_for("ready")["http"].startswith("https://")
        context = ssl.create_default_context(cafile=str(cert))
        connection = http.client.HTTPSConnection("localhost", server.port, context=context, timeout=30)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        connection.close()
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
            ready = channel.unary_unary(f"/{SERVICE}/ServerReady", response_deserializer=READY.FromString)
            assert ready(b"", timeout=30).ready


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--queue", "4", "--max-crops", "5"], "--max-crops"),
        (["--max-body", "100000"], "--max-body"),
        (["--grpc-port", "9", "--no-grpc"], "contradict"),
        (["--site", "Elsewhere"], "never calibrated"),
        (["--case-pattern", "("], "pattern"),
        (["--audit-log", "/nowhere/audit.jsonl"], "audit-log"),
    ],
)
def test_options_that_cannot_be_meant_are_refused_at_once(tiny_model: Path, options: list[str], words: str) -> None:
    assert words in refused(tiny_model, *options)


def test_a_port_that_is_taken_is_said(server: Server, tiny_model: Path) -> None:
    assert "in use" in refused(tiny_model, "--port", str(server.port))
