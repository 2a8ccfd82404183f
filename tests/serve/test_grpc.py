"""Open Inference Protocol over gRPC: the same answers as over HTTP, and the same refusals."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

import glomedge
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.serve.grpc_messages import SERVICE, calls, message
from helpers.server import Server, refused, serving, until
from helpers.v2 import crop_png, enhanced
from tools import grpc_messages

TOKEN = "5f2d8c1be0a94737"


class Client:
    """A plain client of one server."""

    def __init__(self, server: Server, **metadata: str) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{server.grpc_port}", options=[("grpc.max_send_message_length", -1)]
        )
        self._metadata = list(metadata.items())

    def __call__(self, call: str, request: Any = None, /, **fields: Any) -> Any:
        request = request or message(f"{call}Request")(**fields)
        return self._call(call)(request, metadata=self._metadata, timeout=60)

    def _call(self, name: str) -> Any:
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=message(f"{name}Request").SerializeToString,
            response_deserializer=message(f"{name}Response").FromString,
        )

    def later(self, name: str, request: Any) -> Any:
        """A call that is not waited for."""
        return self._call(name).future(request, timeout=60)

    def refused(self, call: str, request: Any = None, /, **fields: Any) -> grpc.RpcError:
        """The error of a call."""
        with pytest.raises(grpc.RpcError) as error:
            self(call, request, **fields)
        return error.value


@pytest.fixture(scope="module")
def rpc(tiny_model: Path) -> Iterator[Server]:
    with serving(tiny_model, "--grpc-port", "0", "--max-crops", "16", "--max-body", "8") as running:
        yield running


@pytest.fixture(scope="module")
def client(rpc: Server) -> Iterator[Client]:
    made = Client(rpc)
    yield made
    made.channel.close()


def infer_request(**fields: Any) -> Any:
    return message("ModelInferRequest")(model_name="glomedge", **fields)


def files(contents: list[bytes], *outputs: str) -> Any:
    raw = b"".join(struct.pack("<I", len(data)) + data for data in contents)
    request = infer_request(raw_input_contents=[raw], outputs=[{"name": name} for name in outputs])
    request.inputs.add(name="image", datatype="BYTES", shape=[len(contents), 1])
    return request


def pixels(images: Any, *outputs: str) -> Any:
    request = infer_request(raw_input_contents=[images.tobytes()], outputs=[{"name": name} for name in outputs])
    request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    return request


def values(response: Any, name: str) -> Any:
    """One output of a response as an array, or as a list of bytes."""
    index = [output.name for output in response.outputs].index(name)
    output, raw = response.outputs[index], response.raw_output_contents[index]
    if output.datatype == "BYTES":
        found = []
        while raw:
            (length,) = struct.unpack_from("<I", raw)
            found.append(raw[4 : 4 + length])
            raw = raw[4 + length :]
        return found
    return np.frombuffer(raw, {"FP32": "<f4", "INT32": "<i4"}[output.datatype]).reshape(list(output.shape))


def test_the_descriptor_is_that_of_the_proto_file() -> None:
    assert (grpc_messages.FOLDER / "grpc_descriptor.py").read_text("utf-8") == grpc_messages.source()
    assert calls() == ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer"]


def test_health_and_metadata_are_those_of_http(rpc: Server, client: Client) -> None:
    assert client("ServerLive").live
    assert client("ServerReady").ready
    assert client("ModelReady", name="glomedge", version="1").ready
    assert client("ServerMetadata").name == "glomedge"
    found, over_http = client("ModelMetadata", name="glomedge"), rpc.get("/v2/models/glomedge").json()
    for side in ("inputs", "outputs"):
        told = [(entry.name, entry.datatype, list(entry.shape)) for entry in getattr(found, side)]
        assert told == [(entry["name"], entry["datatype"], entry["shape"]) for entry in over_http[side]]


def test_answers_are_those_of_predict(client: Client, tiny_model: Path) -> None:
    contents = [crop_png(1), b"\x89PNG\r\n\x1a\n\0no picture", crop_png(2)]
    images = enhanced(3, 4)
    with glomedge.load(tiny_model, provider="cpu") as engine:
        expected, network = engine.predict(contents), engine.infer(images)
    response = client("ModelInfer", files(contents))
    assert response.parameters["notice"].string_param == RESEARCH_USE_NOTICE
    assert values(response, "status") == [item.status.encode() for item in expected]
    assert values(response, "label")[:, 0].tolist() == [expected[0].label, -1, expected[2].label]
    probability = values(response, "probability")[:, 0]
    assert np.isnan(probability[1])
    assert probability[[0, 2]].tolist() == [expected[0].probability, expected[2].probability]
    response = client("ModelInfer", pixels(images, "activation", "probability"))
    assert [output.name for output in response.outputs] == ["activation", "probability"]
    assert network.activation is not None
    assert values(response, "activation").tobytes() == network.activation.tobytes()
    assert values(response, "probability").tobytes() == network.probability.tobytes()


def test_contents_need_not_be_raw(client: Client) -> None:
    images = enhanced(3, 1)
    typed = infer_request()
    entry = typed.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    entry.contents.uint_contents.extend(images.reshape(-1).tolist())
    raw = client("ModelInfer", pixels(images))
    assert client("ModelInfer", typed).raw_output_contents == raw.raw_output_contents
    typed = infer_request()
    typed.inputs.add(name="image", datatype="BYTES", shape=[1], contents={"bytes_contents": [crop_png(1)]})
    assert (
        client("ModelInfer", typed).raw_output_contents
        == client("ModelInfer", files([crop_png(1)])).raw_output_contents
    )


def broken(**changes: Any) -> Any:
    request = files([b"1234"])
    for name, value in changes.items():
        if name in ("datatype", "name"):
            setattr(request.inputs[0], name, value)
        elif name == "shape":
            request.inputs[0].shape[:] = value
        elif name == "raw":
            request.raw_input_contents[:] = value
        elif name == "outputs":
            for entry in value:
                request.outputs.add(name=entry)
        elif name == "parameter":
            request.inputs[0].parameters[value].string_param = "r"
        elif name == "output_parameter":
            request.outputs.add(name="label").parameters[value].int64_param = 1
    return request


@pytest.mark.parametrize(
    "request_",
    [
        infer_request(), broken(name="pictures"), broken(datatype="UINT8"), broken(shape=[-1]), broken(shape=[]),
        broken(shape=[2]), broken(shape=[2**62, 2**62]), broken(shape=[1, 1, 1]), broken(raw=[]), broken(raw=[b"1"]),
        broken(raw=[b"\xff\xff\xff\xff"]), broken(raw=[b"", b""]), broken(outputs=["diagnosis"]),
        broken(outputs=["label", "label"]), broken(name="images", datatype="UINT8", shape=[1, 224, 224, 3]),
        files([b"1234"] * 17), broken(shape=[0], raw=[b""]), broken(parameter="shared_memory_region"),
        broken(output_parameter="shared_memory_region"), broken(output_parameter="classification"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_an_invalid_argument(client: Client, request_: Any) -> None:
    error = client.refused("ModelInfer", request_)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert 20 < len(error.details()) < 300


def test_unknown_models_and_large_messages_are_refused(client: Client) -> None:
    for name, fields in (
        ("ModelReady", {"name": "other"}), ("ModelMetadata", {"name": "glomedge", "version": "2"}),
        ("ModelInfer", {"model_name": "other"}),
    ):  # fmt: skip
        assert client.refused(name, **fields).code() == grpc.StatusCode.NOT_FOUND
    error = client.refused("ModelInfer", files([bytes(9_000_000)]))
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_audit_line_is_left_and_the_request_counted(rpc: Server, client: Client) -> None:
    request = files([crop_png(1)])
    request.id = "over grpc"
    client("ModelInfer", request)
    (line,) = [line for line in rpc.audit() if line["id"] == "over grpc"]
    assert (line["protocol"], line["client"]) == ("grpc", "127.0.0.1")
    assert rpc.metric('glomedge_requests_total{code="200",protocol="grpc"}') >= 1


def test_a_token_is_needed_where_one_is_given(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with serving(tiny_model, "--grpc-port", "0", "--token-file", str(tokens)) as server:
        stranger, friend = Client(server), Client(server, authorization=f"Bearer {TOKEN}")
        assert stranger("ServerReady").ready
        for name, fields in (("ServerMetadata", {}), ("ModelReady", {"name": "glomedge"})):
            assert stranger.refused(name, **fields).code() == grpc.StatusCode.UNAUTHENTICATED
        assert stranger.refused("ModelInfer", files([crop_png(1)])).code() == grpc.StatusCode.UNAUTHENTICATED
        assert friend("ServerMetadata").name == "glomedge"
        stranger.channel.close()
        friend.channel.close()


def test_what_a_stranger_sends_is_not_read(tiny_model: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    with serving(tiny_model, "--grpc-port", "0", "--token-file", str(tokens)) as server:
        stranger, friend = Client(server), Client(server, authorization=f"Bearer {TOKEN}")
        before_mb = server.rss_mb()
        for name in ("ModelInfer", "ServerReady"):
            asked = [stranger.later(name, large(name)) for _ in range(6)]
            codes = {future.code() for future in asked}
            assert codes == {grpc.StatusCode.UNAUTHENTICATED if name == "ModelInfer" else grpc.StatusCode.OK}
        assert server.rss_mb() - before_mb < 60
        assert friend("ServerMetadata").name == "glomedge"
        stranger.channel.close()
        friend.channel.close()


def large(name: str) -> Any:
    """A request of 50 MB; one without fields holds it as a field that nobody knows."""
    if name == "ModelInfer":
        return files([bytes(50_000_000)])
    request = message(f"{name}Request")()
    request.MergeFromString(b"\x7a\x80\xe1\xeb\x17" + bytes(50_000_000))
    return request


def test_a_call_without_a_message_or_with_nonsense_is_refused(rpc: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{rpc.grpc_port}") as channel:
        for sent in ([], [b"\xff\xff"]):
            with pytest.raises(grpc.RpcError) as error:
                channel.stream_unary(f"/{SERVICE}/ModelInfer")(iter(sent), timeout=30)
            assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_port_that_is_taken_is_said(rpc: Server, tiny_model: Path) -> None:
    assert "gRPC cannot listen" in refused(tiny_model, "--grpc-port", str(rpc.grpc_port))


def test_full_queue_gone_clients_and_the_end(slow_model: Path) -> None:
    request = pixels(enhanced(1, 1))
    options = ("--grpc-port", "0", "--queue", "8", "--max-crops", "8", "--batch-size", "1", "--drain-timeout", "60")
    with serving(slow_model, *options) as server:
        client = Client(server)
        asked = [client.later("ModelInfer", request) for _ in range(24)]
        codes = {future.code() for future in asked}
        assert codes == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        refusals = [future for future in asked if future.code() == grpc.StatusCode.UNAVAILABLE]
        assert all(int(dict(future.trailing_metadata())["retry-after"]) >= 1 for future in refusals)
        gone = [client.later("ModelInfer", request) for _ in range(8)]
        until(lambda: server.metric("glomedge_queue_crops") == 8)
        for future in gone:
            future.cancel()
        until(lambda: server.metric("glomedge_queue_crops") == 0)
        last = [client.later("ModelInfer", request) for _ in range(8)]
        until(lambda: server.metric("glomedge_queue_crops") == 8)
        server.signal(signal.SIGTERM)
        assert [future.code() for future in last] == [grpc.StatusCode.OK] * 8
        assert server.process.wait(20) == 0
        client.channel.close()
