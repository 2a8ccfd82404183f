"""The tensors of the Open Inference Protocol that glomedge takes and gives; the same for JSON, binary data and gRPC."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.serve.core import Answered, Enhanced, Files
from glomedge.serve.options import MODEL_NAME, MODEL_VERSION
from glomedge.serve.refusal import malformed, not_found

FILES, PIXELS = "image", "images"
"""Names of the two inputs; a request has one of them."""
PROBABILITY, LABEL, STATUS, ACTIVATION = "probability", "label", "status", "activation"
DEFAULT_OUTPUTS = (PROBABILITY, LABEL, STATUS)
NO_LABEL = -1
"""The label of a crop without an answer; its probability is NaN, and null in JSON."""

_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 31


@dataclass(frozen=True)
class Output:
    """One output tensor.

    Attributes:
        name: one of those above.
        datatype: of the protocol.
        values: float32 or int32 ``[N, ...]``, or bytes ``[N, 1]`` as objects.
    """

    name: str
    datatype: str
    values: npt.NDArray[Any]


def check_model(name: str, version: str) -> None:
    """Raise RefusedError (404) where that is not the model that is served; an empty version is the one there is."""
    if name != MODEL_NAME:
        raise not_found(f"There is no such model here. Its name is {MODEL_NAME}.")
    if version not in ("", MODEL_VERSION):
        raise not_found(f"There is no such version. The version of {MODEL_NAME} is {MODEL_VERSION}.")


def check_shape(shape: object) -> tuple[int, ...]:
    """A shape as the protocol has it. Raises RefusedError."""
    if not isinstance(shape, list | tuple) or not 1 <= len(shape) <= _MOST_DIMENSIONS:
        raise malformed(f"The shape of an input must be a list of 1 to {_MOST_DIMENSIONS} sizes.")
    if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) > _MOST_ELEMENTS:
        raise malformed("The sizes in the shape of an input must be whole numbers from 0, and not too large.")
    return tuple(shape)


def one_input(names: Sequence[object]) -> None:
    """Raise RefusedError unless a request has exactly one input, ``image`` or ``images``."""
    if len(names) != 1 or names[0] not in (FILES, PIXELS):
        raise malformed(
            f"A request has one input: {FILES!r} (BYTES [N, 1], image files as they are) or {PIXELS!r} (UINT8 "
            "[N, side, side, 3], enhanced crops)."
        )


def count_files(datatype: object, shape: tuple[int, ...]) -> int:
    """How many files an input ``image`` declares. Raises RefusedError."""
    if datatype != "BYTES" or len(shape) > 2 or shape[1:] not in ((), (1,)):
        raise malformed(f"The input {FILES!r} must be BYTES of shape [N] or [N, 1].")
    return shape[0]


def check_pixels(datatype: object, shape: tuple[int, ...], side_px: int) -> None:
    """Raise RefusedError unless an input ``images`` is declared as the network takes it."""
    if datatype != "UINT8" or len(shape) != 4 or shape[1:] != (side_px, side_px, 3):
        raise malformed(f"The input {PIXELS!r} must be UINT8 of shape [N, {side_px}, {side_px}, 3].")


def files_of(raw: memoryview, count: int) -> Files:
    """BYTES in binary form: before each element its length, 4 bytes, little-endian. Raises RefusedError."""
    contents = []
    at = 0
    for _ in range(count):
        if at + 4 > len(raw):
            raise malformed(f"The binary data of {FILES!r} ends before its {count} elements do.")
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4 + length
        if at > len(raw):
            raise malformed(f"An element of {FILES!r} is longer than the binary data.")
        contents.append(bytes(raw[at - length : at]))
    if at != len(raw):
        raise malformed(f"The binary data of {FILES!r} is longer than its {count} elements.")
    return Files(contents)


def pixels_of(raw: memoryview, shape: tuple[int, ...]) -> Enhanced:
    """UINT8 in binary form: row-major. Raises RefusedError."""
    if len(raw) != math.prod(shape):
        raise malformed(f"The data of {PIXELS!r} has {len(raw)} elements, and its shape {math.prod(shape)}.")
    return Enhanced(np.frombuffer(raw, np.uint8).reshape(shape))


def check_outputs(names: Iterable[object], map_shape: tuple[int, int] | None) -> tuple[str, ...]:
    """The outputs that were asked for; the usual ones where none were. Raises RefusedError."""
    asked = list(names)
    known = (*DEFAULT_OUTPUTS, ACTIVATION)
    if any(name not in known for name in asked) or len(set(asked)) != len(asked):
        raise malformed(f"The outputs are {', '.join(known)}; each can be asked for once.")
    if ACTIVATION in asked and map_shape is None:
        raise malformed(f"This model has no exact activation map. Leave the output {ACTIVATION!r} out.")
    return tuple(str(name) for name in asked) or DEFAULT_OUTPUTS


def check_parameters(names: Iterable[str]) -> None:
    """Refuse parameters of a tensor that ask for what is not offered: ignored, they would give another answer.

    Raises:
        RefusedError: shared memory or the classification extension (400).
    """
    for name in names:
        if name.startswith("shared_memory_"):
            raise malformed("Shared memory is not offered here. Send the data in the request.")
        if name == "classification":
            raise malformed(f"Classes are not offered as an output of their own. Read the output {LABEL!r}.")


def outputs_of(answered: Answered, names: Iterable[str]) -> list[Output]:
    """The tensors that were asked for, in that order."""
    return [_output(answered, name) for name in names]


def _output(answered: Answered, name: str) -> Output:
    answers = answered.answers
    match name:
        case "probability":
            values = [math.nan if answer.probability is None else answer.probability for answer in answers]
            return Output(name, "FP32", np.array(values, np.float32).reshape(-1, 1))
        case "label":
            labels = [NO_LABEL if (label := answered.label(answer)) is None else label for answer in answers]
            return Output(name, "INT32", np.array(labels, np.int32).reshape(-1, 1))
        case "status":
            statuses = np.array([answer.status.encode("ascii") for answer in answers], object)
            return Output(name, "BYTES", statuses.reshape(-1, 1))
    assert answered.map_shape is not None  # ``check_outputs``
    maps = np.full((len(answers), *answered.map_shape), np.nan, np.float32)
    for index, answer in enumerate(answers):
        if answer.activation is not None and answer.probability is not None:
            maps[index] = answer.activation
    return Output(name, "FP32", maps)


def raw_of(output: Output) -> bytes:
    """A tensor in the protocol's binary form."""
    if output.datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in output.values.flat)
    little: npt.NDArray[Any] = output.values.astype(output.values.dtype.newbyteorder("<"))
    return little.tobytes()


def model_metadata(side_px: int, map_shape: tuple[int, int] | None) -> dict[str, Any]:
    """The model's metadata, as the protocol has it."""
    outputs = [
        {"name": PROBABILITY, "datatype": "FP32", "shape": [-1, 1]},
        {"name": LABEL, "datatype": "INT32", "shape": [-1, 1]},
        {"name": STATUS, "datatype": "BYTES", "shape": [-1, 1]},
    ]
    if map_shape is not None:
        outputs.append({"name": ACTIVATION, "datatype": "FP32", "shape": [-1, *map_shape]})
    return {
        "name": MODEL_NAME,
        "versions": [MODEL_VERSION],
        "platform": "onnxruntime_onnx",
        "inputs": [
            {"name": FILES, "datatype": "BYTES", "shape": [-1, 1]},
            {"name": PIXELS, "datatype": "UINT8", "shape": [-1, side_px, side_px, 3]},
        ],
        "outputs": outputs,
    }
