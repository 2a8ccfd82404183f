"""Open Inference Protocol over gRPC: messages to crops, and answers to messages."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.serve import tensors
from glomedge.serve.core import Answered, Enhanced, Files
from glomedge.serve.grpc_messages import message
from glomedge.serve.options import MODEL_NAME, MODEL_VERSION
from glomedge.serve.refusal import malformed


def parse(request: Any, side_px: int, map_shape: tuple[int, int] | None) -> tuple[Files | Enhanced, tuple[str, ...]]:
    """The crops of a ``ModelInferRequest``, and the outputs that it wants. Raises RefusedError (400)."""
    tensors.one_input([entry.name for entry in request.inputs])
    (entry,) = request.inputs
    shape = tensors.check_shape(list(entry.shape))
    outputs = tensors.check_outputs((output.name for output in request.outputs), map_shape)
    for tensor in (entry, *request.outputs):
        tensors.check_parameters(tensor.parameters)
    if len(request.raw_input_contents) > 1:
        raise malformed("There is one input, and more than one of 'raw_input_contents'.")
    raw = memoryview(request.raw_input_contents[0]) if request.raw_input_contents else None
    if raw is not None and entry.HasField("contents"):
        raise malformed("An input has either 'contents' or 'raw_input_contents', not both.")
    if entry.name == tensors.FILES:
        count = tensors.count_files(entry.datatype, shape)
        crops: Files | Enhanced = _files(entry, count) if raw is None else tensors.files_of(raw, count)
    else:
        tensors.check_pixels(entry.datatype, shape, side_px)
        crops = _pixels(entry, shape) if raw is None else tensors.pixels_of(raw, shape)
    return crops, outputs


def _files(entry: Any, count: int) -> Files:
    found = len(entry.contents.bytes_contents)
    if found != count:
        raise malformed(f"'bytes_contents' holds {found} files, and the shape says {count}.")
    return Files(list(entry.contents.bytes_contents))


def _pixels(entry: Any, shape: tuple[int, ...]) -> Enhanced:
    if len(entry.contents.uint_contents) != math.prod(shape):
        raise malformed(f"'uint_contents' holds {len(entry.contents.uint_contents)} numbers, not those of the shape.")
    values = np.array(entry.contents.uint_contents, np.uint32)
    if values.size and int(values.max()) > 255:
        raise malformed("The numbers of 'uint_contents' must be 0 to 255.")
    return tensors.pixels_of(memoryview(values.astype(np.uint8).tobytes()), shape)


def render(answered: Answered, request: Any, outputs: tuple[str, ...]) -> Any:
    """A ``ModelInferResponse``; all values as raw contents."""
    response = message("ModelInferResponse")(model_name=MODEL_NAME, model_version=MODEL_VERSION, id=request.id)
    response.parameters["notice"].string_param = RESEARCH_USE_NOTICE
    response.parameters["model_sha256"].string_param = answered.model_sha256
    for name in outputs:
        datatype, shape = tensors.described(answered, name)
        response.outputs.add(name=name, datatype=datatype, shape=shape)
        response.raw_output_contents.append(tensors.raw_of(answered, name))
    return response


def server_metadata() -> Any:
    """A ``ServerMetadataResponse``."""
    return message("ServerMetadataResponse")(name=MODEL_NAME, version=__version__)


def model_metadata(side_px: int, map_shape: tuple[int, int] | None) -> Any:
    """A ``ModelMetadataResponse``."""
    return message("ModelMetadataResponse")(**tensors.model_metadata(side_px, map_shape))
