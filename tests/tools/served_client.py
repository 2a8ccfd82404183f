"""Asks a server of the Open Inference Protocol with NVIDIA's own client; runs in an environment of its own.

    build/triton/client/bin/python tests/tools/served_client.py 127.0.0.1:8080 127.0.0.1:8081 FOLDER

FOLDER holds ``*.png`` and ``pixels.npy`` (uint8 ``[N, side, side, 3]``). Prints one JSON object: for each protocol the
answers to the files and to the pixels.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def answers(library: Any, address: str, folder: Path, **binary: Any) -> dict[str, Any]:
    """What one protocol says."""
    client = library.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("glomedge")
    files = np.array([[path.read_bytes()] for path in sorted(folder.glob("*.png"))], dtype=np.object_)
    pixels = np.load(folder / "pixels.npy")
    found: dict[str, Any] = {}
    for name, datatype, values in (("image", "BYTES", files), ("images", "UINT8", pixels)):
        given = library.InferInput(name, list(values.shape), datatype)
        given.set_data_from_numpy(values)
        outputs = [
            library.InferRequestedOutput(output, **binary)
            for output in ("probability", "label", "status", "activation")
        ]
        result = client.infer("glomedge", [given], outputs=outputs, request_id="conformance")
        probability = result.as_numpy("probability")
        found[name] = {
            "shape": list(probability.shape),
            "probability_hex": probability.astype("<f4").tobytes().hex(),
            "label": result.as_numpy("label").reshape(-1).tolist(),
            "status": [
                str(value, "ascii") if isinstance(value, bytes) else str(value)
                for value in result.as_numpy("status").reshape(-1)
            ],
            "activation_hex": result.as_numpy("activation").astype("<f4").tobytes().hex(),
        }
    client.close()
    return found


def main() -> None:
    """Ask over both protocols."""
    import tritonclient.grpc as over_grpc
    import tritonclient.http as over_http

    http_address, grpc_address, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    print(
        json.dumps(
            {
                "http": answers(over_http, http_address, folder, binary_data=True),
                "http in JSON": answers(over_http, http_address, folder, binary_data=False),
                "grpc": answers(over_grpc, grpc_address, folder),
            }
        )
    )


if __name__ == "__main__":
    main()
