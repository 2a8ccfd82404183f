"""A site's slope and offset put into the graph of a finished model file, without the ``onnx`` package.

Before the Sigmoid that gives ``probability`` come a Mul and an Add with one float32 constant each; every other byte of
the graph stays as it was, so the weights and the activation map are the parent's. The file is copied field by field of
its protobuf (see ``file`` and ``graph`` for the wire format). Field numbers: onnx.proto3 (ModelProto.graph = 7;
GraphProto.node = 1, .initializer = 5; NodeProto.input = 1, .output = 2, .name = 3, .op_type = 4, .domain = 7;
TensorProto.data_type = 2, .name = 8, .raw_data = 9).
"""

from __future__ import annotations

import mmap
import struct
from collections import defaultdict
from pathlib import Path

from glomedge.errors import ModelError
from glomedge.model.file import (
    METADATA_FIELD,
    SEAL_KEY,
    SPEC_KEY,
    iter_fields,
    mapped,
    write_field,
    write_varint,
)
from glomedge.model.graph import OFFSET, SLOPE

PROBABILITY = "probability"
_GRAPH, _NODE, _INITIALIZER = 7, 1, 5
_INPUT, _OUTPUT, _NAME, _OP_TYPE, _DOMAIN = 1, 2, 3, 4, 7
_DATA_TYPE, _TENSOR_NAME, _RAW_DATA = 2, 8, 9
_FLOAT = 1
_SCALED, _SHIFTED = "site.scaled", "site.shifted"


def with_site_line(path: Path, slope: float, offset: float) -> bytes:
    """The serialised ModelProto of a model file with ``probability = sigmoid(slope * x + offset)``.

    ``x`` is what the file takes the sigmoid of. The result carries no spec and no seal: ``file.sealed`` adds them.

    Raises:
        ModelError: the graph has such constants already, or ``probability`` does not come from a Sigmoid.
    """
    buffer, _ = mapped(path)
    with buffer:
        try:
            parts, at = [], 0
            for number, begin, end in iter_fields(buffer, 0, len(buffer)):
                if number == _GRAPH:
                    parts.append(write_field(_GRAPH, _graph(path, buffer, (begin, end), slope, offset)))
                elif not (number == METADATA_FIELD and _is_ours(buffer, begin, end)):
                    parts.append(bytes(buffer[at:end]))
                at = end
        except (ValueError, IndexError, UnicodeDecodeError) as error:
            raise ModelError(f"The graph inside {path} cannot be read ({error}). Export the model again.") from error
    return b"".join(parts)


def _is_ours(buffer: mmap.mmap, begin: int, end: int) -> bool:
    key = next((bytes(buffer[b:e]) for number, b, e in iter_fields(buffer, begin, end) if number == 1), b"")
    return key in (SPEC_KEY.encode(), SEAL_KEY.encode())


def _graph(path: Path, buffer: mmap.mmap, span: tuple[int, int], slope: float, offset: float) -> bytes:
    """The GraphProto with the two nodes before its Sigmoid, and their constants."""
    parts, at, found = [], span[0], False
    for number, begin, end in iter_fields(buffer, *span):
        if number == _NODE and PROBABILITY.encode() in (fields := _fields(buffer, begin, end))[_OUTPUT]:
            parts.append(_recalibrated(path, fields))
            found = True
        else:
            if number == _INITIALIZER and SLOPE.encode() in _fields(buffer, begin, end, data=False)[_TENSOR_NAME]:
                raise ModelError(f"{path} was recalibrated before. Recalibrate the model that it was made from.")
            parts.append(bytes(buffer[at:end]))
        at = end
    if not found:
        raise ModelError(f"No node of {path} gives {PROBABILITY!r}. Export the model again.")
    return b"".join([*parts, _constant(SLOPE, slope), _constant(OFFSET, offset)])


def _fields(buffer: mmap.mmap, begin: int, end: int, *, data: bool = True) -> dict[int, list[bytes]]:
    """The fields of a message by number; without ``data``, weights are not copied."""
    found: dict[int, list[bytes]] = defaultdict(list)
    for number, b, e in iter_fields(buffer, begin, end):
        if data or number == _TENSOR_NAME:
            found[number].append(bytes(buffer[b:e]))
    return found


def _recalibrated(path: Path, sigmoid: dict[int, list[bytes]]) -> bytes:
    """Mul, Add and the Sigmoid that reads them."""
    operator = b"".join(sigmoid[_OP_TYPE])
    if operator != b"Sigmoid" or sigmoid[_DOMAIN] not in ([], [b""], [b"ai.onnx"]) or len(sigmoid[_INPUT]) != 1:
        raise ModelError(
            f"{path} cannot be recalibrated: its probability comes from {operator.decode('utf-8', 'replace')!r}, not "
            "from a sigmoid. Export the model again with this version of glomedge."
        )
    (logit,) = sigmoid[_INPUT]
    name = b"".join(sigmoid[_NAME]) or PROBABILITY.encode()
    return (
        _node([logit, SLOPE.encode()], _SCALED.encode(), _SCALED.encode(), b"Mul")
        + _node([_SCALED.encode(), OFFSET.encode()], _SHIFTED.encode(), _SHIFTED.encode(), b"Add")
        + _node([_SHIFTED.encode()], PROBABILITY.encode(), name, b"Sigmoid")
    )


def _node(inputs: list[bytes], output: bytes, name: bytes, operator: bytes) -> bytes:
    named = b"".join(write_field(_INPUT, one) for one in inputs) + write_field(_OUTPUT, output)
    return write_field(_NODE, named + write_field(_NAME, name) + write_field(_OP_TYPE, operator))


def _constant(name: str, value: float) -> bytes:
    """A float32 scalar: without dims."""
    data_type = write_varint(_DATA_TYPE << 3) + write_varint(_FLOAT)
    text, raw = write_field(_TENSOR_NAME, name.encode()), write_field(_RAW_DATA, struct.pack("<f", value))
    return write_field(_INITIALIZER, data_type + text + raw)
