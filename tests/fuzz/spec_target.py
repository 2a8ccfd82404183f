"""Fuzz target: any bytes as a spec, or as a model file under a seal that is right; only ModelError comes out.

    PYTHONPATH=. python tests/fuzz/spec_target.py CORPUS_DIR -max_total_time=600      (needs atheris; libFuzzer options)

The default suite runs a short, seeded version of it without atheris (test_fuzz_spec.py).
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np

from glomedge.errors import ModelError
from glomedge.model.file import SEAL_BYTES, SEAL_KEY, read_model_file
from glomedge.model.graph import check_graph
from glomedge.model.spec import ModelSpec


def resealed(body: bytes) -> bytes:
    """A model file of this body with the seal that glomedge would have put behind it: mutations reach past it."""
    # onnx.proto3: ModelProto.metadata_props = 14 {key = 1, value = 2}, each with its length in front.
    key, value = SEAL_KEY.encode(), hashlib.sha256(body).hexdigest().encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12" + bytes([len(value)]) + value
    return body + b"\x72" + bytes([len(entry)]) + entry


def body(model_file: bytes) -> bytes:
    """What the seal is over."""
    return model_file[:-SEAL_BYTES]


def one_spec(data: bytes) -> bool:
    """Read one spec; whether it was taken. Raises AssertionError on a broken promise."""
    try:
        spec = ModelSpec.from_json(data)
    except ModelError:
        return False
    # What is taken can be written again and says the same.
    assert ModelSpec.from_json(spec.to_json().encode()) == spec
    try:
        pixels_hwc = spec.golden.pixels()
    except ModelError:
        return True
    assert pixels_hwc.shape == (spec.golden.side_px, spec.golden.side_px, 3)
    assert pixels_hwc.dtype == np.uint8
    return True


def one_file(path: Path, data: bytes) -> bool:
    """Seal, read and walk one model file; whether it was taken. Raises AssertionError on a broken promise."""
    path.write_bytes(resealed(data))
    try:
        file = read_model_file(path)
        facts = check_graph(path, file.spec)
    except ModelError:
        return False
    assert (facts.opset, facts.precision) == (file.spec.opset, file.spec.precision)
    assert not facts.external
    assert not facts.foreign_domains
    return True


def main() -> None:
    """Hand over to libFuzzer."""
    import atheris

    path = Path(tempfile.mkdtemp()) / "model.onnx"
    atheris.instrument_all()

    def test_one_input(data: bytes) -> None:
        one_spec(data)
        one_file(path, data)

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
