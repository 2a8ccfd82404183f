"""``config.pbtxt`` of the three models of a repository, in protobuf's text format.

Fields: ModelConfig of triton-inference-server/common (``model_config.proto``); tests parse what is written here with
the message of NVIDIA's own client.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.model.file import ModelFile
from glomedge.model.spec import BatchProfile, ModelSpec

NETWORK, ENHANCEMENT, CROP = "glomedge", "glomedge_enhance", "glomedge_crop"
Device = Literal["gpu", "cpu"]


class Constant(str):
    """A name of an enumeration: written without quotes."""


@dataclass(frozen=True)
class Serving:
    """How the server runs the network.

    Attributes:
        device: ``gpu`` for TensorRT within onnxruntime, ``cpu`` for onnxruntime's CPU provider.
        instances: copies of the network on each GPU, or on the CPU.
        queue_delay_us: how long a request may wait for others to share its batch.
        queue_size: requests that may wait; more are refused at once.
        engine_cache: folder on the server for TensorRT's engines, which take minutes to build.
    """

    device: Device = "gpu"
    instances: int = 1
    queue_delay_us: int = 2000
    queue_size: int = 128
    engine_cache: str = "/var/cache/glomedge"


def text(message: Mapping[str, Any], indent: int = 0) -> str:
    """A message in protobuf's text format: mappings are messages, sequences repeated fields."""
    lines = []
    for name, value in message.items():
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        for one in values:
            if isinstance(one, Mapping):
                lines.append(f"{name} {{\n{text(one, 2)}}}")
            else:
                lines.append(f"{name}: {_scalar(one)}")
    return "".join(" " * indent + line + "\n" for block in lines for line in block.splitlines())


def _scalar(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Constant():
            return str(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
    return repr(value)


def _known(file: ModelFile) -> list[dict[str, Any]]:
    """What a client can ask for: which model this is, and what its answer means."""
    spec = file.spec
    known = {
        "notice": RESEARCH_USE_NOTICE,
        "producer": spec.producer,
        "model_sha256": file.sha256,
        "recipe": spec.recipe.model_dump_json(),
        "threshold": repr(spec.threshold),
        "positive_class": spec.class_names[1],
    }
    return _parameters(known)


def _parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"string_value": value}} for key, value in values.items()]


def batch_sizes(profile: BatchProfile) -> list[int]:
    """The batch sizes that are preferred: from the usual one, doubled up to the largest."""
    sizes = [profile.opt]
    while sizes[-1] * 2 < profile.max:
        sizes.append(sizes[-1] * 2)
    return sorted({*sizes, profile.max})


def network(file: ModelFile, serving: Serving) -> dict[str, Any]:
    """The model as it is: ``images`` uint8 ``[N, side, side, 3]``, enhanced, to ``probability``.

    No ``label_filename``: with one number an answer, Triton's classification would name its class at any probability.
    """
    spec = file.spec
    side_px = spec.input.side_px
    dims = [side_px, side_px, 3]
    preferred = batch_sizes(spec.batch_profile)
    queue = {
        "timeout_action": Constant("REJECT"),
        "default_timeout_microseconds": 2_000_000,
        "max_queue_size": serving.queue_size,
    }
    config: dict[str, Any] = {
        "name": NETWORK,
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": spec.batch_profile.max,
        "input": [{"name": "images", "data_type": Constant("TYPE_UINT8"), "dims": dims}],
        "output": [
            {"name": name, "data_type": Constant("TYPE_FP32"), "dims": shape} for name, shape in _outputs(spec).items()
        ],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"kind": Constant(f"KIND_{serving.device.upper()}"), "count": serving.instances}],
        "dynamic_batching": {
            "preferred_batch_size": preferred,
            "max_queue_delay_microseconds": serving.queue_delay_us,
            "default_queue_policy": queue,
        },
        # TensorRT builds its engine for the batches that it has seen: the smallest and the largest come first.
        "model_warmup": [
            _warmup(f"batch of {size}", "images", dims, size) for size in dict.fromkeys([1, preferred[-1], *preferred])
        ],
        "parameters": _known(file),
    }
    if serving.device == "gpu":
        config["optimization"] = {"execution_accelerators": {"gpu_execution_accelerator": [_tensorrt(spec, serving)]}}
    return config


def _outputs(spec: ModelSpec) -> dict[str, list[int]]:
    """Dimensions of each output without the batch's."""
    outputs = {"probability": [1]}
    if spec.map_shape is not None:
        outputs["activation"] = list(spec.map_shape)
    return outputs


def _tensorrt(spec: ModelSpec, serving: Serving) -> dict[str, Any]:
    options = {
        "precision_mode": spec.precision.upper(),
        "max_workspace_size_bytes": str(2**30),
        "trt_engine_cache_enable": "true",
        "trt_engine_cache_path": serving.engine_cache,
    }
    return {"name": "tensorrt", "parameters": [{"key": key, "value": value} for key, value in options.items()]}


def _warmup(name: str, tensor: str, dims: list[int], batch_size: int) -> dict[str, Any]:
    value = {"data_type": Constant("TYPE_UINT8"), "dims": dims, "zero_data": True}
    return {"name": name, "batch_size": batch_size, "inputs": [{"key": tensor, "value": value}]}


def enhancement(file: ModelFile) -> dict[str, Any]:
    """The colour enhancement: one decoded crop of any size to an image, on the CPU, in one thread an instance."""
    side_px = file.spec.input.side_px
    dims = [side_px, side_px, 3]
    return {
        "name": ENHANCEMENT,
        "backend": "onnxruntime",
        "default_model_filename": "model.onnx",
        "max_batch_size": 0,
        "input": [{"name": "crop", "data_type": Constant("TYPE_UINT8"), "dims": [-1, -1, 3]}],
        # The network behind it takes batches, this model does not: its image goes there as a batch of one.
        "output": [
            {"name": "image", "data_type": Constant("TYPE_UINT8"), "dims": [1, *dims], "reshape": {"shape": dims}}
        ],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"kind": Constant("KIND_CPU"), "count": 2}],
        "model_warmup": [_warmup("one crop", "crop", dims, 0)],
        "parameters": _parameters(
            {
                "notice": RESEARCH_USE_NOTICE,
                "recipe": file.spec.recipe.model_dump_json(),
                "intra_op_thread_count": "1",
                "inter_op_thread_count": "1",
            }
        ),
    }


def crop(file: ModelFile) -> dict[str, Any]:
    """Both in one request: a decoded crop to its answer. Crops of several requests share the network's batches."""
    outputs = {name: [1, *shape] for name, shape in _outputs(file.spec).items()}
    return {
        "name": CROP,
        "platform": "ensemble",
        "max_batch_size": 0,
        "input": [{"name": "crop", "data_type": Constant("TYPE_UINT8"), "dims": [-1, -1, 3]}],
        "output": [
            {"name": name, "data_type": Constant("TYPE_FP32"), "dims": shape} for name, shape in outputs.items()
        ],
        "version_policy": {"latest": {"num_versions": 1}},
        "ensemble_scheduling": {
            "step": [
                _step(ENHANCEMENT, {"crop": "crop"}, {"image": "image"}),
                _step(NETWORK, {"images": "image"}, {name: name for name in outputs}),
            ]
        },
        "parameters": _known(file),
    }


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, Any]:
    def mapped(names: Mapping[str, str]) -> list[dict[str, str]]:
        return [{"key": key, "value": value} for key, value in names.items()]

    return {
        "model_name": model, "model_version": -1, "input_map": mapped(inputs), "output_map": mapped(outputs),
    }  # fmt: skip
