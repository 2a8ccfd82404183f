"""The tensors of the Open Inference Protocol that glomedge takes and gives; the same for JSON, binary data and gRPC."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
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

_DATATYPES = {PROBABILITY: "FP32", LABEL: "INT32", STATUS: "BYTES", ACTIVATION: "FP32"}
_MOST_DIMENSIONS = 8
_MOST_ELEMENTS = 1 << 31


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
    for size in shape:
        if type(size) is not int or not 0 <= size <= _MOST_ELEMENTS:
            raise malformed("The sizes in the shape of an input must be whole numbers from 0, and not too large.")
    if math.prod(shape) > _MOST_ELEMENTS:
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
    asked = list[str]()
    for name in names:
        if not isinstance(name, str) or name not in _DATATYPES or name in asked:
            raise malformed(f"The outputs are {', '.join(_DATATYPES)}; each can be asked for once, by its 'name'.")
        asked.append(name)
    if ACTIVATION in asked and map_shape is None:
        raise malformed(f"This model has no exact activation map. Leave the output {ACTIVATION!r} out.")
    return tuple(asked) or DEFAULT_OUTPUTS


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


def described(answered: Answered, name: str) -> tuple[str, list[int]]:
    """Datatype and shape of an output."""
    sides = answered.map_shape if name == ACTIVATION else (1,)
    assert sides is not None  # ``check_outputs``
    return _DATATYPES[name], [len(answered.answers), *sides]


def json_of(answered: Answered, name: str) -> list[Any]:
    """The values of an output for JSON, row-major. JSON knows no NaN: what is not a number is null."""
    answers = answered.answers
    match name:
        case "probability":
            # The shortest decimal of a float32 already (``prepare.fill``): read as float32 it is the same number.
            return [answer.probability for answer in answers]
        case "label":
            return _labels(answered)
        case "status":
            return [answer.status for answer in answers]
    return [None if text == "nan" else float(text) for text in map(str, _maps(answered).reshape(-1))]


def raw_of(answered: Answered, name: str) -> bytes:
    """An output in the protocol's binary form."""
    answers = answered.answers
    match name:
        case "probability":
            values = [math.nan if answer.probability is None else answer.probability for answer in answers]
            return np.array(values, "<f4").tobytes()
        case "label":
            return np.array(_labels(answered), "<i4").tobytes()
        case "status":
            statuses = [answer.status.encode("ascii") for answer in answers]
            return b"".join(struct.pack("<I", len(status)) + status for status in statuses)
    return _maps(answered).astype("<f4").tobytes()


def _labels(answered: Answered) -> list[int]:
    return [NO_LABEL if (label := answered.label(answer)) is None else label for answer in answered.answers]


def _maps(answered: Answered) -> npt.NDArray[np.float32]:
    """``[N, cells, cells]``; NaN where a crop has no answer."""
    assert answered.map_shape is not None  # ``check_outputs``
    maps = np.full((len(answered.answers), *answered.map_shape), np.nan, np.float32)
    for index, answer in enumerate(answered.answers):
        if answer.activation is not None and answer.probability is not None:
            maps[index] = answer.activation
    return maps


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
