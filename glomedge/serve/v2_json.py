"""Open Inference Protocol over HTTP: bodies to crops and answers to bodies, in JSON and with the binary extension."""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import math
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.serve import tensors
from glomedge.serve.core import Answered, Enhanced, Files
from glomedge.serve.options import MODEL_NAME, MODEL_VERSION
from glomedge.serve.refusal import malformed, too_many

Headers = list[tuple[bytes, bytes]]

HEADER_LENGTH = b"inference-header-content-length"
"""Name of the HTTP header that says where the JSON ends and the binary data begins."""
_MOST_ID_CHARACTERS = 1024
_SPARE_VALUES = 10_000


@dataclass(frozen=True)
class InferRequest:
    """What a body asks for.

    Attributes:
        request_id: empty where the client gave none.
        crops: perhaps none at all.
        outputs: names, in order.
        binary: those of them that are wanted as binary data.
    """

    request_id: str
    crops: Files | Enhanced
    outputs: tuple[str, ...]
    binary: frozenset[str]


def strict_json(text: bytes | memoryview, most_commas: int, most_brackets: int) -> dict[str, Any]:
    """A JSON object. Raises RefusedError; NaN and Infinity are not JSON.

    Args:
        text: of it.
        most_commas, most_brackets: it may hold. An empty list is three bytes of a body and sixty of memory.
    """
    data = bytes(text)
    if data.count(b",") > most_commas or data.count(b"[") + data.count(b"{") > most_brackets:
        raise malformed("The JSON holds more values than any request needs. Send fewer crops.")
    try:
        document = _DECODER.decode(data.removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except RecursionError:
        raise malformed("The JSON is nested too deeply.") from None
    except ValueError:
        raise malformed("The body, or its part before the binary data, is not JSON.") from None
    if not isinstance(document, dict):
        raise malformed("The JSON must be an object.")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(name)


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


def parse(
    body: bytes, json_bytes: int, most_crops: int, side_px: int, map_shape: tuple[int, int] | None
) -> InferRequest:
    """One inference request.

    Args:
        body: JSON and the binary data behind it.
        json_bytes: length of the JSON.
        most_crops: of one request.
        side_px, map_shape: of the model.

    Raises:
        RefusedError: 400.
    """
    view = memoryview(body)
    # Pixels nested as their shape is: a list for each crop, row and pixel.
    most_commas = most_crops * side_px * side_px * 3 + _SPARE_VALUES
    most_brackets = most_crops * (side_px * side_px + side_px + 1) + _SPARE_VALUES
    document = strict_json(view[:json_bytes], most_commas, most_brackets)
    inputs = _objects(document, "inputs")
    tensors.one_input([entry.get("name") for entry in inputs])
    crops = _crops(inputs[0], view[json_bytes:], most_crops, side_px)
    request_id = document.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > _MOST_ID_CHARACTERS:
        raise malformed(f"The 'id' must be a text of at most {_MOST_ID_CHARACTERS} characters.")
    outputs, binary = _outputs(document, map_shape)
    return InferRequest(request_id, crops, outputs, binary)


def json_length(header: str | None, total: int) -> int:
    """The length of the JSON in a body of ``total`` bytes, by ``HEADER_LENGTH``. Raises RefusedError."""
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and len(header) < 16) or int(header) > total:
        raise malformed(
            f"The header {HEADER_LENGTH.decode()} must be the length of the JSON, at most that of the body."
        )
    return int(header)


def _objects(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found = document.get(name, [])
    if not isinstance(found, list):
        raise malformed(f"'{name}' must be a list of objects.")
    for entry in found:
        if not isinstance(entry, dict):
            raise malformed(f"'{name}' must be a list of objects.")
    return found


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    found = holder.get("parameters", {})
    if not isinstance(found, dict):
        raise malformed("'parameters' must be an object.")
    return found


def _crops(entry: dict[str, Any], binary: memoryview, most_crops: int, side_px: int) -> Files | Enhanced:
    shape = tensors.check_shape(entry.get("shape"))
    if shape[0] > most_crops:
        raise too_many(shape[0], most_crops)
    is_files = entry["name"] == tensors.FILES
    count = tensors.count_files(entry.get("datatype"), shape) if is_files else 0
    if not is_files:
        tensors.check_pixels(entry.get("datatype"), shape, side_px)
    parameters = _parameters(entry)
    tensors.check_parameters(parameters)
    size = parameters.get("binary_data_size")
    if size is not None:
        if type(size) is not int or size != len(binary) or "data" in entry:
            raise malformed(f"'binary_data_size' does not match the {len(binary)} bytes behind the JSON.")
        return tensors.files_of(binary, count) if is_files else tensors.pixels_of(binary, shape)
    if len(binary):
        raise malformed("There is binary data behind the JSON, and no input says that it is its own.")
    data = entry.get("data")
    if not isinstance(data, list):
        raise malformed("The input must have a list 'data', or a 'binary_data_size' in its parameters.")
    return _files_in_json(data, count) if is_files else _pixels_in_json(data, shape)


def _files_in_json(data: list[Any], count: int) -> Files:
    """JSON holds no bytes, so each file is a text in base64."""
    flat = [item for part in data for item in (part if isinstance(part, list) else [part])]
    if len(flat) != count or not all(isinstance(item, str) for item in flat):
        raise malformed(f"'data' must hold {count} texts, one a file, in base64.")
    return Files([base64_bytes(item) for item in flat])


def base64_bytes(text: str) -> bytes:
    """What a text in base64 says. Raises RefusedError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise malformed("A file in JSON must be in base64; use the binary extension for bytes as they are.") from None


def _pixels_in_json(data: list[Any], shape: tuple[int, ...]) -> Enhanced:
    try:
        values = np.asarray(data)
    except (ValueError, RecursionError, OverflowError):
        raise malformed("The rows of 'data' are not of one length.") from None
    # An array of booleans, floats, texts or of very large numbers is of another kind.
    if values.dtype.kind not in "iu" or values.size != math.prod(shape) or values.shape not in (shape, (values.size,)):
        raise malformed("'data' must hold whole numbers, as many as the shape says, flat or nested as the shape is.")
    if values.size and not 0 <= int(values.min()) <= int(values.max()) <= 255:
        raise malformed("The numbers of 'data' must be 0 to 255.")
    return Enhanced(values.astype(np.uint8).reshape(shape))


def _outputs(document: dict[str, Any], map_shape: tuple[int, int] | None) -> tuple[tuple[str, ...], frozenset[str]]:
    asked = _objects(document, "outputs")
    outputs = tensors.check_outputs([entry.get("name") for entry in asked], map_shape)
    by_default = _flag(_parameters(document), "binary_data_output", default=False)
    if not asked:
        return outputs, frozenset(outputs if by_default else ())
    binary = []
    for entry in asked:
        parameters = _parameters(entry)
        tensors.check_parameters(parameters)
        if _flag(parameters, "binary_data", default=by_default):
            binary.append(entry["name"])
    return outputs, frozenset(binary)


def _flag(parameters: dict[str, Any], name: str, *, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise malformed(f"'{name}' must be true or false.")
    return value


def render(answered: Answered, request: InferRequest) -> tuple[bytes, Headers]:
    """The body of the answer and its HTTP headers, but for its length."""
    entries, parts = [], []
    for name in request.outputs:
        datatype, shape = tensors.described(answered, name)
        entry: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if name in request.binary:
            raw = tensors.raw_of(answered, name)
            entry["parameters"] = {"binary_data_size": len(raw)}
            parts.append(raw)
        else:
            entry["data"] = tensors.json_of(answered, name)
        entries.append(entry)
    document = {
        "model_name": MODEL_NAME,
        "model_version": MODEL_VERSION,
        **({"id": request.request_id} if request.request_id else {}),
        "parameters": {"notice": RESEARCH_USE_NOTICE, "model_sha256": answered.model_sha256},
        "outputs": entries,
    }
    text = _ENCODER.encode(document).encode("ascii")
    if not parts:
        return text, [(b"content-type", b"application/json")]
    headers = [
        (b"content-type", b"application/octet-stream"),
        (HEADER_LENGTH, b"%d" % len(text)),
    ]
    return b"".join((text, *parts)), headers
