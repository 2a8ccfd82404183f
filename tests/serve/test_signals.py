"""SIGTERM finishes what is in flight, SIGHUP swaps the model, and the audit log outlives both."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import glomedge
from glomedge.model.file import read_model_file
from helpers.builders import build_tiny_model
from helpers.server import Server, serving, until
from helpers.v2 import by_name, crop_png, enhanced, files_request, pixels_request


def test_sigterm_answers_all_eight_in_flight(slow_model: Path) -> None:
    document, binary = pixels_request(enhanced(1, 1))
    # As long as a busy machine may take: what is tested is that each is waited for.
    options = ("--batch-size", "1", "--drain-timeout", "60")
    with serving(slow_model, *options) as server, ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(server.infer, document, binary) for _ in range(8)]
        until(lambda: server.metric("glomedge_queue_crops") == 8)
        server.signal(signal.SIGTERM)
        statuses = set()
        while server.process.poll() is None:
            try:
                statuses.add(server.get("/v2/health/ready").status)
                reply = server.infer(document, binary)
                statuses.add(reply.status)
                assert reply.status == 503
                assert "retry-after" in reply.headers
            except OSError:  # it has closed its door
                break
        assert statuses == {503}
        assert [future.result().status for future in asked] == [200] * 8
        assert server.process.wait(20) == 0
        assert server.wait_for("stopped")["unanswered"] == 0


def test_what_is_not_done_in_time_is_given_up(slow_model: Path) -> None:
    document, binary = pixels_request(enhanced(1, 1))
    options = ("--batch-size", "1", "--drain-timeout", "0")
    with serving(slow_model, *options) as server, ThreadPoolExecutor(24) as clients:
        for _ in range(24):
            clients.submit(server.infer, document, binary)
        until(lambda: server.metric("glomedge_queue_crops") >= 12)
        server.signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        assert server.wait_for("stopped")


def test_sigint_ends_an_idle_server_at_once(tiny_model: Path) -> None:
    with serving(tiny_model) as server, server.connect() as idle:
        idle.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.recv(4096)
        server.signal(signal.SIGINT)
        assert server.process.wait(10) == 0


def answer(server: Server, crop: bytes) -> float:
    """The probability of one crop."""
    return float(by_name(server.infer(*files_request([crop])).json())["probability"][0])


def test_sighup_swaps_the_model_and_keeps_the_old_one_where_the_new_is_broken(tmp_path: Path) -> None:
    path, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    build_tiny_model(path)
    build_tiny_model(other, colour_weights=(-0.02, 0.05, 0.01), recipe="plain")
    crop = crop_png(5)
    with glomedge.load(path, provider="cpu") as first, glomedge.load(other, provider="cpu") as second:
        before, after = (engine.predict(crop)[0].probability for engine in (first, second))
    assert before != after
    with serving(path) as server:
        assert answer(server, crop) == pytest.approx(before, abs=1e-7)
        damaged = bytearray(other.read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (tmp_path / "new").write_bytes(damaged)
        (tmp_path / "new").replace(path)
        server.signal(signal.SIGHUP)
        kept = server.wait_for("model_kept")
        assert kept["error"] == "ModelError"
        assert answer(server, crop) == pytest.approx(before, abs=1e-7)
        assert server.get("/v2/health/ready").status == 200
        shutil.copyfile(other, tmp_path / "new")
        (tmp_path / "new").replace(path)
        server.signal(signal.SIGHUP)
        swapped = server.wait_for("model_swapped")
        assert swapped["model_sha256"] == read_model_file(other).sha256
        assert answer(server, crop) == pytest.approx(after, abs=1e-7)
        assert server.get("/v2/models/glomedge").json()["model_sha256"] == swapped["model_sha256"]
        assert server.metric('glomedge_model_swaps_total{result="done"}') == 1
        assert server.metric('glomedge_model_swaps_total{result="refused"}') == 1
        assert server.stop() == 0


def test_a_swap_costs_no_request(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    build_tiny_model(path)
    document, binary = files_request([crop_png(seed) for seed in range(3)])
    with serving(path) as server:

        def ask(_: int) -> int:
            return server.infer(document, binary).status

        with ThreadPoolExecutor(4) as clients:
            asked = [clients.submit(ask, index) for index in range(80)]
            for _ in range(2):
                server.signal(signal.SIGHUP)
                time.sleep(0.2)
            assert {future.result() for future in asked} == {200}
        server.wait_for("model_swapped")


def test_the_audit_log_is_a_file_of_its_own(tiny_model: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    for _ in range(2):
        with serving(tiny_model, "--audit-log", str(log)) as server:
            server.infer(*files_request([crop_png(1)], id="one"))
            assert server.stop() == 0
            assert server.audit() == []
    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [line["id"] for line in lines] == ["one", "one"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_an_audit_line_that_cannot_be_written_is_not_lost(tiny_model: Path) -> None:
    with serving(tiny_model, "--audit-log", "/dev/full") as server:
        server.infer(*files_request([crop_png(1)], id="kept"))
        assert [line["id"] for line in server.audit()] == ["kept"]
        assert server.metric("glomedge_audit_failures_total") == 1
