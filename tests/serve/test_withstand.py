"""What a server must withstand: malformed, oversized, slow and broken-off requests, and too many of them."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.server import Server, serving, until
from helpers.v2 import by_name, crop_png, enhanced, files_request, pixels_request

INFER = "/v2/models/glomedge/infer"
HEADER = "Inference-Header-Content-Length"


def pixels(**changes: Any) -> dict[str, Any]:
    """A request of one enhanced crop in JSON, changed."""
    entry = {"name": "images", "datatype": "UINT8", "shape": [1, 224, 224, 3], "data": [0] * (224 * 224 * 3)}
    return {"inputs": [{**entry, **changes}]}


def image(**changes: Any) -> dict[str, Any]:
    """A request of one file in JSON, changed."""
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["AAAA"], **changes}]}


MALFORMED: dict[str, Any] = {
    "nested 200,000 deep": b'{"inputs":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "nested objects": b'{"inputs":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}",
    "nested data": b'{"inputs":[{"name":"images","datatype":"UINT8","shape":[1,224,224,3],"data":'
    + b"[" * 500 + b"1" + b"]" * 500 + b"}]}",
    "broken": b'{"inputs": [',
    "not text": b"\xff\xfe\x00",
    "empty": b"",
    "a list": b"[]",
    "NaN": b'{"inputs": [{"name": "images", "shape": [NaN]}]}',
    "a number of 5,000 digits": b'{"inputs": ' + b"9" * 5000 + b"}",
    "no inputs": {},
    "inputs of texts": {"inputs": ["image"]},
    "no input": {"inputs": []},
    "two inputs": {"inputs": image()["inputs"] * 2},
    "an unknown input": image(name="pictures"),
    "a name that is a list": image(name=["image"]),
    "shape -1": pixels(shape=[-1, 224, 224, 3]),
    "shape of texts": pixels(shape=["1", 224, 224, 3]),
    "shape of booleans": pixels(shape=[True, 224, 224, 3]),
    "shape of fractions": pixels(shape=[1.0, 224, 224, 3]),
    "enormous shape": pixels(shape=[2**40, 224, 224, 3]),
    "no shape": pixels(shape=None),
    "wrong rank": pixels(shape=[224, 224, 3]),
    "wrong side": pixels(shape=[1, 224, 225, 3]),
    "wrong dtype": pixels(datatype="FP32"),
    "files of another dtype": image(datatype="UINT8"),
    "files of rank 3": image(shape=[1, 1, 1]),
    "two files a row": image(shape=[1, 2]),
    "fewer numbers than the shape": pixels(data=[0]),
    "more than the shape": pixels(data=[0] * (224 * 224 * 3 + 1)),
    "ragged": pixels(data=[[0, 1], [2]]),
    "numbers over 255": pixels(data=[256] * (224 * 224 * 3)),
    "fractions": pixels(data=[0.5] * (224 * 224 * 3)),
    "numbers of 30 digits": pixels(data=[10**30] * (224 * 224 * 3)),
    "texts for pixels": pixels(data=["0"] * (224 * 224 * 3)),
    "booleans for pixels": pixels(data=[True] * (224 * 224 * 3)),
    "not base64": image(data=["ä"]),
    "numbers for files": image(data=[1]),
    "fewer files than the shape": image(shape=[2]),
    "no data": image(data=None),
    "data and binary": image(parameters={"binary_data_size": 0}),
    "parameters of another kind": image(parameters=[]),
    "shared memory for data": image(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 4}),
    "shared memory beside data": image(parameters={"shared_memory_region": "r", "shared_memory_byte_size": 4}),
    "binary size that is a text": image(parameters={"binary_data_size": "4"}),
    "no crop at all": image(shape=[0], data=[]),
    "17 files, 16 allowed": image(shape=[17], data=["AAAA"] * 17),
    "an unknown output": {**image(), "outputs": [{"name": "diagnosis"}]},
    "an output twice": {**image(), "outputs": [{"name": "label"}, {"name": "label"}]},
    "an output in shared memory": {
        **image(), "outputs": [{"name": "label", "parameters": {"shared_memory_region": "r"}}],
    },
    "an output as classes": {**image(), "outputs": [{"name": "probability", "parameters": {"classification": 1}}]},
    "outputs of texts": {**image(), "outputs": ["label"]},
    "an output without a name": {**image(), "outputs": [{}]},
    "a flag that is a number": {**image(), "parameters": {"binary_data_output": 1}},
    "an id that is a number": {**image(), "id": 7},
    "a very long id": {**image(), "id": "x" * 2000},
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_what_cannot_be_understood_is_400(server: Server, name: str) -> None:
    body = MALFORMED[name]
    reply = server.request("POST", INFER, body if isinstance(body, bytes) else json.dumps(body).encode())
    assert reply.status == 400
    assert 20 < len(reply.json()["error"]) < 300
    assert server.get("/v2/health/ready").status == 200


@pytest.mark.parametrize("off", [-1, 1, 7, 10**9])
def test_a_header_length_that_is_off_is_400(server: Server, off: int) -> None:
    document, binary = files_request([crop_png(1)])
    text = json.dumps(document).encode()
    reply = server.request("POST", INFER, text + binary, {HEADER: str(len(text) + off)})
    assert reply.status == 400


@pytest.mark.parametrize("value", ["-1", "1e3", "٣", "9" * 30, "", "0x10"])
def test_a_header_length_that_is_no_number_is_400(server: Server, value: str) -> None:
    assert server.request("POST", INFER, b"{}", {HEADER: value.encode("utf-8").decode("latin-1")}).status == 400


@pytest.mark.parametrize(
    "binary",
    [
        b"", b"\0", struct.pack("<I", 5) + b"1234", struct.pack("<I", 2**32 - 1), struct.pack("<I", 3) + b"1234",
        struct.pack("<I", 4) + b"1234" + b"more",
    ],
)  # fmt: skip
def test_files_whose_lengths_do_not_match_are_400(server: Server, binary: bytes) -> None:
    document = image(data=None, parameters={"binary_data_size": len(binary)})
    del document["inputs"][0]["data"]
    assert server.infer(document, binary or b" ").status == 400


def test_pixels_whose_size_does_not_match_are_400(server: Server) -> None:
    document, binary = pixels_request(enhanced(1, 2))
    assert server.infer(document, binary[:-1]).status == 400
    document["inputs"][0]["parameters"]["binary_data_size"] -= 1
    assert server.infer(document, binary[:-1]).status == 400
    document["inputs"][0]["shape"][0] = 17
    assert server.infer(document, binary).status == 400


def test_pixels_over_the_maximum_batch_are_400(server: Server) -> None:
    reply = server.infer(*pixels_request(enhanced(1, 17)))
    assert reply.status == 400
    assert "17" in reply.json()["error"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path + end)
        for method, end in (("GET", ""), ("GET", "/ready"), ("POST", "/infer"))
        for path in ("/v2/models/other", "/v2/models/glomedge/versions/2", "/v2/models/%2e%2e")
    ],
)
def test_an_unknown_model_or_version_is_404(server: Server, method: str, path: str) -> None:
    reply = server.request(method, path, json.dumps(image()).encode() if method == "POST" else None)
    assert reply.status == 404
    assert "glomedge" in reply.json()["error"]


def test_unknown_addresses_and_methods_answer_in_json(server: Server) -> None:
    for method, path, status in (
        ("POST", "/v2/repository/index", 404), ("POST", "/v2/models/glomedge/load", 404),
        ("POST", "/v2/repository/models/glomedge/load", 404), ("POST", "/v2/repository/models/glomedge/unload", 404),
        ("GET", "/v2/systemsharedmemory/status", 404), ("POST", "/v2/systemsharedmemory/region/r/register", 404),
        ("POST", "/v2/cudasharedmemory/region/r/register", 404), ("POST", "/v2/trace/setting", 404),
        ("GET", INFER, 405), ("DELETE", "/v2", 405),
    ):  # fmt: skip
        reply = server.request(method, path)
        assert (reply.status, "error" in reply.json()) == (status, True)


def zeros(count: int) -> Iterator[bytes]:
    """So many megabytes, in parts."""
    for _ in range(count):
        yield bytes(1_000_000)


def test_a_body_over_the_limit_is_413(server: Server) -> None:
    before_mb = server.rss_mb()
    assert server.request("POST", INFER, zeros(12), {"Content-Length": "12000000"}).status == 413
    assert server.request("POST", INFER, zeros(40)).status == 413
    assert server.rss_mb() - before_mb < 20
    # By the length alone, before a byte of it came.
    with server.connect() as line:
        line.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n".encode())
        assert line.recv(100).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize("path", [INFER, "/v1/cases"])
@pytest.mark.parametrize("part", [b"[],", b"{},", b"0,", b'"",'])
def test_a_body_of_very_many_values_is_refused_unread(server: Server, path: str, part: bytes) -> None:
    before_mb = server.rss_mb()
    reply = server.request("POST", path, b'{"inputs":[' + part * (7_900_000 // len(part)) + b"0]}")
    assert reply.status == 400
    # Where there are fewer, they are read: nothing was larger than a request may be.
    assert "more values" in reply.json()["error"] or part in (b"0,", b'"",')
    assert server.rss_mb() - before_mb < 60


def test_crops_over_the_limit_are_refused_before_they_are_read(server: Server) -> None:
    reply = server.infer(image(shape=[17], data=["not base64"] * 17))
    assert "17 crops" in reply.json()["error"]


def bomb(side_px: int = 20_000) -> bytes:
    """A PNG of 200 kB that is a picture of 1.2 GB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    # After a full flush the compressor knows nothing of what came before: one part can stand there many times.
    squeeze = zlib.compressobj(9)
    start = squeeze.flush(zlib.Z_FULL_FLUSH)
    part = squeeze.compress(bytes((1 + 3 * side_px) * 100)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    total = (1 + 3 * side_px) * side_px
    adler = struct.pack(">I", (total % 65521) << 16 | 1)
    data = start + part * (side_px // 100) + b"\x03\x00" + adler
    assert len(
        zlib.decompress(start + part + b"\x03\x00" + struct.pack(">I", (total // side_px * 100 % 65521) << 16 | 1))
    )
    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_png_bomb_is_an_error_of_its_crop(server: Server) -> None:
    before_mb = server.rss_mb()
    found = by_name(server.infer(*files_request([crop_png(1), bomb(), crop_png(2)])).json())
    assert found["status"][1] == "error:too_large"
    assert found["probability"][0] is not None
    assert found["probability"][2] is not None
    assert server.rss_mb() - before_mb < 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "gzip, identity"])
def test_compressed_bodies_are_415(server: Server, encoding: str) -> None:
    body = zlib.compress(json.dumps(image()).encode())
    reply = server.request("POST", INFER, body, {"Content-Encoding": encoding})
    assert reply.status == 415


def test_many_tiny_chunks_are_one_body(server: Server) -> None:
    document, binary = files_request([crop_png(1, side_px=60)])
    text = json.dumps(document).encode()
    body = text + binary
    parts = (body[at : at + 1] for at in range(len(body)))
    assert server.request("POST", INFER, parts, {HEADER: str(len(text))}).status == 200


def test_requests_on_one_connection_are_answered_one_after_another(server: Server) -> None:
    with server.connect() as line:
        line.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3)
        seen = b""
        while seen.count(b'"live": true') < 3:
            seen += line.recv(4096)


@pytest.mark.parametrize(
    "head",
    [
        b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
        b"GET /v2 HTTP/1.1\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST " + INFER.encode() + b" HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v2 HTTP/1.1\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_not_http_is_refused_and_forgotten(server: Server, head: bytes) -> None:
    with server.connect() as line:
        line.sendall(head)
        line.shutdown(socket.SHUT_WR)
        seen = line.recv(4096)
    assert not seen or seen.startswith(b"HTTP/1.1 4")
    assert server.get("/v2/health/live").status == 200


def test_slow_headers_and_slow_bodies_are_cut_off(tiny_model: Path) -> None:
    with serving(tiny_model, "--header-timeout", "1", "--body-timeout", "1") as server:
        lines = [server.connect() for _ in range(50)]
        for line in lines[:25]:
            line.sendall(b"GET /v2 HTTP/1.1\r\nHost: loc")
        for line in lines[25:]:
            line.sendall(f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode())
        # After one whole request, too.
        lines[0].sendall(b"alhost\r\n\r\n")
        seen = b""
        while not seen.endswith(b"}"):
            seen += lines[0].recv(4096)
        lines[0].sendall(b"GET /v2 HTTP/1.1\r\nHo")
        begin_s = time.monotonic()
        assert [line.recv(4096) for line in lines[:25]] == [b""] * 25
        assert {line.recv(4096)[:13] for line in lines[25:]} == {b"HTTP/1.1 408 "}
        assert time.monotonic() - begin_s < 20
        for line in lines:
            line.close()
        assert server.get("/v2/health/ready").status == 200
        assert server.metric("glomedge_bodies_bytes") == 0


def test_a_full_queue_is_503_with_retry_after(slow_model: Path) -> None:
    document, binary = pixels_request(enhanced(1, 1))
    with serving(slow_model, "--queue", "4", "--max-crops", "4") as server, ThreadPoolExecutor(16) as clients:
        replies = list(clients.map(lambda _: server.infer(document, binary), range(16)))
        counts = Counter(reply.status for reply in replies)
        assert set(counts) == {200, 503}
        assert counts[200] >= 4
        refused = [reply for reply in replies if reply.status == 503]
        assert all(1 <= int(reply.headers["retry-after"]) <= 60 for reply in refused)
        assert server.metric("glomedge_queue_crops") == 0
        # One that waited for its turn is answered like any other.
        assert server.infer(document, binary).status == 200


def test_200_clients_at_once_get_200_or_503(server: Server) -> None:
    document, binary = files_request([crop_png(1)])
    start = threading.Barrier(200)

    def ask(_: int) -> int:
        start.wait()
        return server.infer(document, binary).status

    with ThreadPoolExecutor(200) as clients:
        counts = Counter(clients.map(ask, range(200)))
    assert set(counts) <= {200, 503}
    assert counts[200] >= 64
    assert server.metric("glomedge_queue_crops") == 0


def test_work_for_a_client_that_is_gone_is_dropped(slow_model: Path) -> None:
    document, binary = pixels_request(enhanced(1, 1))
    text = json.dumps(document).encode()
    head = (
        f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\n{HEADER}: {len(text)}\r\n"
        f"Content-Length: {len(text) + len(binary)}\r\n\r\n"
    )
    with serving(slow_model) as server:
        before = server.metric("glomedge_batch_crops_sum")
        lines = [server.connect() for _ in range(24)]
        for line in lines:
            line.sendall(head.encode() + text + binary)
        until(lambda: server.metric("glomedge_queue_crops") >= 12)
        for line in lines:
            line.close()
        until(lambda: server.metric("glomedge_queue_crops") == 0)
        computed = server.metric("glomedge_batch_crops_sum") - before
        assert computed < 24
        assert server.infer(document, binary).status == 200


def test_batches_form_while_one_is_computed(slow_model: Path) -> None:
    images = enhanced(2, 8)
    with serving(slow_model, "--batch-size", "8") as server:
        alone = by_name(server.infer(*pixels_request(images)).json())["probability"]
        batches = server.metric("glomedge_batch_crops_count")
        with ThreadPoolExecutor(8) as clients:
            replies = list(clients.map(lambda at: server.infer(*pixels_request(images[at : at + 1])), range(8)))
        found = [by_name(reply.json())["probability"][0] for reply in replies]
        # Each client has its own answer, whatever was computed beside it.
        assert np.allclose(found, alone, atol=1e-6)
        assert server.metric("glomedge_batch_crops_count") - batches < 8


def test_no_error_repeats_what_was_sent(server: Server) -> None:
    secret = "S-21-4711-Doe"
    bodies = [
        {"inputs": [{"name": secret, "shape": [1]}]},
        {**image(), "outputs": [{"name": secret}]},
        image(data=[secret]),
        {**image(), "id": [secret]},
    ]
    replies = [server.infer(body) for body in bodies]
    replies += [server.get(f"/v2/models/{secret}"), server.request("POST", INFER, secret.encode())]
    assert {reply.status for reply in replies} == {400, 404}
    assert not [reply for reply in replies if secret.encode() in reply.body]
