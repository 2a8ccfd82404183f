"""A short, seeded run of the journal's fuzz target."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fuzz.journal_target import one_input, repaired
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.journal import Identity, Journal
from glomedge.results.rows import Attachment


def journal_bytes(path: Path) -> bytes:
    """A small journal of everything that one holds."""
    journal = Journal(path)
    journal.head(Identity("/crops", "a" * 64, "{}", 0.5, 1, 4))
    journal.engine("cpu")
    for batch in range(3):
        journal.start([f"{batch}.png"])
        answer = Answer(Found(f"{batch}.png".encode()), "ok", 0.25, "b" * 64, 10, 20)
        journal.rows([(answer, Attachment(0, 300, 1))])
    journal.done(3)
    journal.close()
    return path.read_bytes()


def test_mutated_journals(tmp_path: Path) -> None:
    whole = journal_bytes(tmp_path / "seed")
    assert one_input(tmp_path / "journal", whole) == 3
    rng = np.random.default_rng(6)
    interesting = [
        b"null",
        b"-1",
        b"1e999",
        b"NaN",
        b"[]",
        b"{}",
        b'"',
        b"\\ud800",
        b"true",
        b"\n",
        b"9" * 40,
        b"[" * 3000,
    ]
    rows = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(int(rng.integers(1, 6))):
            at = int(rng.integers(0, len(data)))
            match int(rng.integers(0, 4)):
                case 0:
                    data[at] ^= 1 << int(rng.integers(0, 8))
                case 1:
                    del data[at : at + int(rng.integers(1, 40))]
                case 2:
                    data[at:at] = interesting[int(rng.integers(0, len(interesting)))]
                case _:
                    data[at:at] = data[: int(rng.integers(0, 200))]
        rows += one_input(tmp_path / "journal", bytes(data))
        rows += one_input(tmp_path / "journal", repaired(bytes(data)))
    assert rows > 500  # the mutations must not all die at the first line
