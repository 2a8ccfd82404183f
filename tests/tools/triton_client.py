"""What tests ask of NVIDIA's client, in its own environment. Prints JSON.

python triton_client.py parse config.pbtxt ...       # each as JSON, or {"error": ...}
python triton_client.py infer HTTP_PORT GRPC_PORT crops.npz answers.npz
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format, text_format
from tritonclient import grpc, http
from tritonclient.grpc import model_config_pb2


def parse(paths: list[str]) -> list[Any]:
    found = []
    for path in paths:
        try:
            config = text_format.Parse(Path(path).read_text("utf-8"), model_config_pb2.ModelConfig())
            found.append(json_format.MessageToDict(config, preserving_proto_field_name=True))
        except text_format.ParseError as error:
            found.append({"error": str(error)})
    return found


def ask(module: Any, client: Any, model: str, tensor: str, pixels: Any) -> dict[str, Any]:
    given = module.InferInput(tensor, list(pixels.shape), "UINT8")
    given.set_data_from_numpy(pixels)
    answer = client.infer(model, [given])
    outputs = answer.get_response().outputs if module is grpc else answer.get_response()["outputs"]
    names = [output.name if module is grpc else output["name"] for output in outputs]
    return {name: answer.as_numpy(name) for name in names}


def infer(http_port: str, grpc_port: str, crops_file: str, answers_file: str) -> dict[str, str]:
    clients: dict[str, Any] = {
        "http": (http, http.InferenceServerClient(f"127.0.0.1:{http_port}", concurrency=8)),
        "grpc": (grpc, grpc.InferenceServerClient(f"127.0.0.1:{grpc_port}")),
    }
    answers: dict[str, Any] = {}
    crops = dict(np.load(crops_file))
    # The HTTP client is for one thread; gRPC's takes many, whose crops share batches.
    with ThreadPoolExecutor(8) as pool:
        for kind, (module, client) in clients.items():
            run: Any = map if kind == "http" else pool.map
            asked = [(name, model) for name in crops for model in ("glomedge_crop", "glomedge_enhance")]
            given = run(lambda pair, m=module, c=client: ask(m, c, pair[1], "crop", crops[pair[0]]), asked)
            for (name, model), outputs in zip(asked, given, strict=True):
                answers |= {f"{kind}/{name}/{model}/{output}": value for output, value in outputs.items()}
    config = clients["grpc"][1].get_model_config("glomedge", as_json=True)["config"]
    np.savez(answers_file, **answers)
    return {key: value["string_value"] for key, value in config["parameters"].items()}


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    print(json.dumps(parse(arguments) if command == "parse" else infer(*arguments)))
