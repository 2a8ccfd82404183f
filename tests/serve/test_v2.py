"""Open Inference Protocol over HTTP: what it says, and that its answers are those of ``predict``."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glomedge
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine.options import EngineOptions
from glomedge.engine.providers import run_threads
from glomedge.model.file import read_model_file
from glomedge.system.cpu import usable_cpus
from helpers.server import Server, serving
from helpers.v2 import by_name, crop_png, enhanced, files_request, pixels_request

MODEL = "/v2/models/glomedge"
BROKEN = b"\x89PNG\r\n\x1a\nnothing more"


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Any:
    with glomedge.load(tiny_model, provider="cpu") as loaded:
        yield loaded


def test_health_and_metadata(server: Server, tiny_model: Path) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready", f"{MODEL}/versions/1/ready"):
        assert server.get(path).status == 200
    assert server.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    for path in (MODEL, f"{MODEL}/versions/1"):
        found = server.get(path).json()
        assert (found["name"], found["versions"]) == ("glomedge", ["1"])
        assert {entry["name"]: (entry["datatype"], entry["shape"]) for entry in found["inputs"]} == {
            "image": ("BYTES", [-1, 1]),
            "images": ("UINT8", [-1, 224, 224, 3]),
        }
        assert {entry["name"]: (entry["datatype"], entry["shape"]) for entry in found["outputs"]} == {
            "probability": ("FP32", [-1, 1]),
            "label": ("INT32", [-1, 1]),
            "status": ("BYTES", [-1, 1]),
            "activation": ("FP32", [-1, 7, 7]),
        }
        assert found["model_sha256"] == read_model_file(tiny_model).sha256


def test_files_are_answered_as_by_predict(server: Server, engine: Any) -> None:
    files = [crop_png(seed) for seed in range(8)]
    expected = engine.predict(files)
    reply = server.infer(*files_request(files, id="night 7"))
    assert reply.status == 200
    document = reply.json()
    assert (document["id"], document["model_name"]) == ("night 7", "glomedge")
    found = by_name(document)
    assert list(found) == ["probability", "label", "status"]
    # The same batch, so the same bits.
    assert np.array(found["probability"], np.float32).tolist() == [item.probability for item in expected]
    assert found["label"] == [item.label for item in expected]
    assert found["status"] == [item.status for item in expected]
    assert len(set(found["probability"])) == 8


def test_pixels_and_maps_are_answered_as_by_infer(server: Server, engine: Any) -> None:
    images = enhanced(3, 5)
    expected = engine.infer(images)
    names = ("activation", "probability")
    in_json = by_name(server.infer(*pixels_request(images, *names)).json())
    assert list(in_json) == list(names)
    assert np.array(in_json["probability"], np.float32).tobytes() == expected.probability.tobytes()
    assert np.array(in_json["activation"], np.float32).tobytes() == expected.activation.tobytes()
    reply = server.infer(*pixels_request(images, *names, parameters={"binary_data_output": True}))
    length = int(reply.headers["inference-header-content-length"])
    document = json.loads(reply.body[:length])
    sizes = [output["parameters"]["binary_data_size"] for output in document["outputs"]]
    assert [output["shape"] for output in document["outputs"]] == [[5, 7, 7], [5, 1]]
    assert sizes == [5 * 49 * 4, 5 * 4]
    assert reply.body[length:] == expected.activation.tobytes() + expected.probability.tobytes()


def test_binary_is_chosen_for_each_output(server: Server) -> None:
    document, binary = files_request([crop_png(1), BROKEN])
    document["outputs"] = [
        {"name": "status", "parameters": {"binary_data": True}},
        {"name": "label"},
        {"name": "probability", "parameters": {"binary_data": True}},
    ]
    reply = server.infer(document, binary)
    length = int(reply.headers["inference-header-content-length"])
    status, label, probability = json.loads(reply.body[:length])["outputs"]
    assert "data" not in status
    assert "data" not in probability
    assert label["data"][1] == -1
    raw = reply.body[length:]
    first, second = raw[: status["parameters"]["binary_data_size"]], raw[status["parameters"]["binary_data_size"] :]
    assert first.endswith(struct.pack("<I", 13) + b"error:corrupt")
    assert np.isnan(np.frombuffer(second, "<f4")).tolist() == [False, True]


def test_json_may_begin_with_a_byte_order_mark(server: Server) -> None:
    """As some tools of Windows write it; in another encoding than UTF-8 it is not JSON."""
    file = base64.b64encode(crop_png(1)).decode()
    text = json.dumps({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [file]}]})
    statuses = [
        server.request("POST", f"{MODEL}/infer", text.encode(encoding)).status
        for encoding in ("utf-8", "utf-8-sig", "utf-16")
    ]
    assert statuses == [200, 200, 400]


def test_everything_in_json(server: Server, engine: Any) -> None:
    crop = crop_png(4)
    entry = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(crop).decode()]}
    found = by_name(server.infer({"inputs": [entry]}, path=f"{MODEL}/versions/1/infer").json())
    assert found["probability"] == pytest.approx([engine.predict(crop)[0].probability], abs=1e-7)
    images = enhanced(5, 1)
    for data in (images.tolist(), images.reshape(-1).tolist()):
        entry = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": data}
        found = by_name(server.infer({"inputs": [entry]}).json())
        assert np.array(found["probability"], np.float32).tobytes() == engine.infer(images).probability.tobytes()


def test_one_broken_crop_costs_no_other_and_its_row_has_no_number(server: Server, engine: Any) -> None:
    files = [crop_png(1), BROKEN, b"", crop_png(2)]
    found = by_name(server.infer(*files_request(files, "probability", "label", "status", "activation")).json())
    alone = engine.predict([files[0], files[3]])
    assert np.array(found["probability"], np.float32)[[0, 3]].tolist() == [item.probability for item in alone]
    assert found["probability"][1:3] == [None, None]
    assert found["label"][1:3] == [-1, -1]
    assert [status.partition(":")[0] for status in found["status"][1:3]] == ["error", "error"]
    assert found["activation"][49:147] == [None] * 98
    assert None not in found["activation"][:49] + found["activation"][147:]


def test_only_broken_crops_are_an_answer_too(server: Server) -> None:
    found = by_name(server.infer(*files_request([BROKEN, b"text"])).json())
    assert found["probability"] == [None, None]


def test_every_response_says_what_it_is_for(server: Server) -> None:
    replies = [server.get(path) for path in ("/v2", MODEL, "/metrics", "/nowhere", "/v2/health/live")]
    replies.append(server.infer(*files_request([crop_png(1)])))
    replies.append(server.infer({}))
    assert {reply.headers["x-research-use"] for reply in replies} == {RESEARCH_USE_NOTICE}
    assert RESEARCH_USE_NOTICE in replies[5].json()["parameters"]["notice"]
    assert {"default-src 'none'"} == {r.headers["content-security-policy"].partition(";")[0] for r in replies}


def test_each_request_leaves_one_audit_line_without_pixels(server: Server, tiny_model: Path) -> None:
    files = [crop_png(11), BROKEN]
    reply = server.infer(*files_request(files, id="LIS-4711\nforged line"))
    (line,) = [line for line in server.audit() if line["id"].startswith("LIS-4711")]
    probability = by_name(reply.json())["probability"][0]
    assert line["client"] == "127.0.0.1"
    assert line["time"].endswith("Z")
    assert line["model_sha256"] == read_model_file(tiny_model).sha256
    assert [crop["sha256"] for crop in line["crops"]] == [hashlib.sha256(data).hexdigest() for data in files]
    assert [crop["probability"] for crop in line["crops"]] == [probability, None]
    assert [crop["status"] for crop in line["crops"]] == by_name(reply.json())["status"]
    assert line["notice"] == RESEARCH_USE_NOTICE


def test_metrics_count_what_happened(server: Server, tiny_model: Path) -> None:
    before = {name: server.metric(name) for name in ('glomedge_crops_total{kind="ok"}', "glomedge_batch_crops_sum")}
    failed = server.infer(*files_request([BROKEN]))
    assert failed.status == 200
    server.infer(*pixels_request(enhanced(1, 3)))
    assert server.metric('glomedge_crops_total{kind="ok"}') == before['glomedge_crops_total{kind="ok"}'] + 3
    assert server.metric("glomedge_batch_crops_sum") == before["glomedge_batch_crops_sum"] + 3
    assert server.metric('glomedge_crop_errors_total{code="corrupt"}') >= 1
    assert server.metric("glomedge_queue_crops") == 0
    assert server.metric("glomedge_bodies_bytes") == 0
    assert server.metric("glomedge_ready") == 1
    text = server.get("/metrics").body.decode()
    assert read_model_file(tiny_model).sha256 in text
    assert 'glomedge_request_seconds_bucket{le="0.1",protocol="http"}' in text


def test_what_takes_too_long_is_given_up_with_504(slow_model: Path) -> None:
    """One call for each request, and too many of them for the time that they have; the late ones are never computed."""
    requests = [pixels_request(enhanced(3, 1)), files_request([crop_png(1)]), files_request([crop_png(1)] * 2)] * 16
    with serving(slow_model, "--batch-size", "1", "--request-timeout", "1") as own:
        with ThreadPoolExecutor(len(requests)) as clients:
            replies = list(clients.map(lambda request: own.infer(*request), requests))
        late = [reply for reply in replies if reply.status == 504]
        assert {reply.status for reply in replies} <= {200, 504}
        assert len(late) > 10
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in late)
        assert own.metric("glomedge_queue_crops") == 0
        assert own.metric('glomedge_requests_total{code="504",protocol="http"}') == len(late)
        assert own.infer(*files_request([crop_png(1)])).status == 200
        # What is being computed when its time is over is not stopped.
        assert own.metric("glomedge_batch_crops_count") <= len(replies) - len(late) + 5


@pytest.mark.parametrize("optimise", ["latency", "throughput"])
def test_cores_go_to_one_batch_or_to_several(tiny_model: Path, engine: Any, optimise: str) -> None:
    images = enhanced(9, 24)
    expected = engine.infer(images).probability
    with serving(tiny_model, "--optimise", optimise) as own, ThreadPoolExecutor(8) as clients:
        ready = own.wait_for("ready")
        assert ready["batches_at_once"] == (1 if optimise == "latency" else run_threads(EngineOptions("cpu"), None))
        assert ready["threads"] == usable_cpus()
        replies = clients.map(lambda at: own.infer(*pixels_request(images[at : at + 1])), range(24))
        found = [by_name(reply.json())["probability"][0] for reply in replies]
    assert np.allclose(found, expected, atol=1e-6)
    assert len(set(found)) == 24
