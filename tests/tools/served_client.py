"""Asks a server of the Open Inference Protocol with NVIDIA's own client; runs in an environment of its own.

    build/triton/client/bin/python tests/tools/served_client.py 127.0.0.1:8080 127.0.0.1:8081 FOLDER

FOLDER holds ``pixels.npy`` (uint8 ``[N, side, side, 3]``), and ``*.png`` where the server takes files. Writes the
answers to the pixels, in batches of several sizes, into ``answers.npz``, and prints one JSON object: for each protocol
the metadata, the answers to the files, and how requests are refused that no server can answer.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.utils import InferenceServerException

MODEL = "glomedge"
BATCHES = (1, 2, 5, 32)
LARGEST = 32


class Protocol:
    """One protocol of one server.

    Args:
        library: ``tritonclient.http`` or ``tritonclient.grpc``.
        binary: whether tensors go as binary data; None where the protocol knows nothing else.
    """

    def __init__(self, library: Any, address: str, binary: bool | None = None) -> None:
        self._library = library
        self._binary = {} if binary is None else {"binary_data": binary}
        self._client = library.InferenceServerClient(address)

    def metadata(self) -> dict[str, Any]:
        """Health, and name, type and shape of every tensor."""
        found = self._client.get_model_metadata(MODEL, **({} if self._binary else {"as_json": True}))
        tensors = {
            tensor["name"]: [tensor["datatype"], [int(size) for size in tensor["shape"]]]
            for tensor in (*found["inputs"], *found["outputs"])
        }
        healthy = (self._client.is_server_live(), self._client.is_server_ready(), self._client.is_model_ready(MODEL))
        return {"healthy": all(healthy), "name": found["name"], "versions": found["versions"], "tensors": tensors}

    def ask(
        self, name: str, values: Any, outputs: tuple[str, ...], *, model: str = MODEL, datatype: str = "", **more: Any
    ) -> dict[str, Any]:
        """The outputs of one request."""
        given = self._library.InferInput(name, list(values.shape), datatype or "UINT8")
        given.set_data_from_numpy(values, **self._binary)
        wanted = [self._library.InferRequestedOutput(output, **self._binary) for output in outputs]
        answer = self._client.infer(model, [given], outputs=wanted, request_id="conformance", **more)
        return {output: answer.as_numpy(output) for output in outputs}

    def pixels(self, images: Any) -> dict[str, Any]:
        """The answers to all crops, in batches of several sizes."""
        outputs = ("probability", "activation")
        parts: list[dict[str, Any]] = []
        at = 0
        while at < len(images):
            size = BATCHES[len(parts) % len(BATCHES)]
            parts.append(self.ask("images", images[at : at + size], outputs))
            at += size
        return {output: np.concatenate([part[output] for part in parts]) for output in outputs}

    def files(self, contents: list[bytes]) -> dict[str, Any]:
        """The answers to image files as they are; in JSON, which holds text alone, in base64."""
        if self._binary == {"binary_data": False}:
            contents = [base64.b64encode(content) for content in contents]
        values = np.array([[content] for content in contents], dtype=np.object_)
        found = self.ask("image", values, ("probability", "label", "status"), datatype="BYTES")
        return {
            "probability_hex": found["probability"].astype("<f4").tobytes().hex(),
            "label": found["label"].reshape(-1).tolist(),
            "status": [
                str(value, "ascii") if isinstance(value, bytes) else str(value) for value in found["status"].reshape(-1)
            ],
        }

    def refusals(self, images: Any) -> dict[str, str | None]:
        """What the client is told of requests that cannot be answered; None where one was."""
        one, outputs = images[:1], ("probability",)
        asked: dict[str, tuple[str, Any, tuple[str, ...], dict[str, Any]]] = {
            "unknown model": ("images", one, outputs, {"model": "other"}),
            "unknown version": ("images", one, outputs, {"model_version": "7"}),
            "unknown input": ("pictures", one, outputs, {}),
            "unknown output": ("images", one, ("diagnosis",), {}),
            "wrong side": ("images", one[:, :, 1:], outputs, {}),
            "wrong rank": ("images", one[0], outputs, {}),
            "wrong type": ("images", one.astype(np.float32), outputs, {"datatype": "FP32"}),
            "over the largest batch": ("images", np.repeat(one, LARGEST + 1, axis=0), outputs, {}),
        }
        told: dict[str, str | None] = {}
        for name, (tensor, values, wanted, more) in asked.items():
            try:
                self.ask(tensor, values, wanted, **more)
            except InferenceServerException as error:
                told[name] = str(error.status())
            else:
                told[name] = None
        return told

    def close(self) -> None:
        """Hang up."""
        self._client.close()


def main() -> None:
    """Ask over every protocol."""
    import tritonclient.grpc as over_grpc
    import tritonclient.http as over_http

    http_address, grpc_address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    contents = [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    images = np.load(folder / "pixels.npy")
    protocols = {
        "http": Protocol(over_http, http_address, binary=True),
        "http in JSON": Protocol(over_http, http_address, binary=False),
        "grpc": Protocol(over_grpc, grpc_address),
    }
    told: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for name, protocol in protocols.items():
        # A crop is 150,528 numbers: in JSON a few will do.
        given = images[:8] if name == "http in JSON" else images
        answers |= {f"{name}/{output}": values for output, values in protocol.pixels(given).items()}
        told[name] = {
            "metadata": protocol.metadata(),
            "refusals": protocol.refusals(images),
            "files": protocol.files(contents) if contents else None,
        }
        protocol.close()
    np.savez(folder / "answers.npz", **answers)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
