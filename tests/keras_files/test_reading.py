"""What a reader's error becomes: damage is said of the file, and of nothing that this machine lacks."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from glomedge.errors import ModelError
from glomedge_export.keras_files.reading import refusing

MESSAGE = "m.keras is damaged ({reason}). Copy it again."


@pytest.mark.parametrize("error", [KeyError("layer"), struct.error("short"), OSError("truncated file"), ValueError("")])
def test_what_a_reader_raises_is_damage(error: Exception) -> None:
    with pytest.raises(ModelError, match="is damaged") as refused, refusing(Path("m.keras"), MESSAGE):
        raise error
    assert "{" not in str(refused.value)
    assert refused.value.__cause__ is error


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no room for a temporary copy of m.keras"),
        (errno.EROFS, "set TMPDIR"),
        (errno.EACCES, "Permission denied. Check its permissions"),
        (errno.EIO, "cannot be read"),
    ],
)
def test_what_the_machine_lacks_is_no_damage(number: int, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused, refusing(Path("m.keras"), MESSAGE):
        raise OSError(number, os.strerror(number))
    assert "damaged" not in str(refused.value)


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no"), RuntimeError("std::bad_alloc")])
def test_memory_that_ran_out_is_left_to_the_caller(error: Exception) -> None:
    with pytest.raises(type(error)), refusing(Path("m.keras"), MESSAGE):
        raise error


def test_a_refusal_stays_as_it_is() -> None:
    with pytest.raises(ModelError, match=r"^holds a Lambda layer$"), refusing(Path("m.keras"), MESSAGE):
        raise ModelError("holds a Lambda layer")
