"""A stand-in for Triton's backend ``onnxruntime``, to load our configurations where only the Python backend is there.

Copied as ``backends/onnxruntime/model.py`` into a tritonserver. Like the real one it compares the dimensions of the
configuration with those of the file and refuses what does not fit; accelerators it ignores.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils


def _dims(tensor: dict[str, Any], batching: bool) -> list[int]:
    dims = [int(size) for size in tensor.get("reshape", {}).get("shape", tensor["dims"])]
    return [-1, *dims] if batching else dims


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        name = config["default_model_filename"]
        path = Path(args["model_repository"]) / args["model_version"] / name
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._inputs = [tensor["name"] for tensor in config["input"]]
        self._outputs = [tensor["name"] for tensor in config["output"]]
        batching = config["max_batch_size"] > 0
        for declared, found in (
            (config["input"], self._session.get_inputs()),
            (config["output"], self._session.get_outputs()),
        ):
            there = {tensor.name: [size if isinstance(size, int) else -1 for size in tensor.shape] for tensor in found}
            for tensor in declared:
                if there.get(tensor["name"]) != _dims(tensor, batching):
                    raise pb_utils.TritonModelException(
                        f"tensor {tensor['name']!r}: configuration {_dims(tensor, batching)}, file {there}"
                    )

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            feed = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self._inputs}
            answers = self._session.run(self._outputs, feed)
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(answer))
                for name, answer in zip(self._outputs, answers, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
        return responses
