"""Fuzz target: any bytes as a journal; reading tells the whole part from the bad tail and raises nothing.

    python tests/fuzz/journal_target.py CORPUS_DIR -max_total_time=600      (needs atheris; libFuzzer options)

The default suite runs a short, seeded version of it without atheris (test_fuzz_journal.py).
"""

from __future__ import annotations

import sys
import tempfile
import zlib
from pathlib import Path

from glomedge.results.answer_table import Stored
from glomedge.results.journal import Contents, read_journal


def repaired(data: bytes) -> bytes:
    """The same lines with every CRC made right, so that mutations reach past the checksums."""
    out = []
    seed = 0
    for number, line in enumerate(data.splitlines(keepends=True)):
        body = line[9:].rstrip(b"\n")
        out.append(b"%08x %s\n" % (zlib.crc32(body, seed), body))
        if number == 0:
            seed = zlib.crc32(body)  # the CRCs of all other lines go on from the first one's
    return b"".join(out)


def one_input(path: Path, data: bytes) -> int:
    """Read one journal and every row of it; returns the rows. Raises AssertionError on a broken promise."""
    path.write_bytes(data)
    contents = read_journal(path)
    assert contents.good_bytes + contents.bad_bytes == len(data)
    rows = _rows(contents)
    assert len(rows) == len(contents.answers)
    assert all(contents.answers.fingerprint(name) is not None for name, _ in rows)
    contents.answers.copies()
    path.write_bytes(data[: contents.good_bytes])
    again = read_journal(path)
    assert (_rows(again), again.bad_bytes) == (rows, 0)
    return len(rows)


def _rows(contents: Contents) -> list[tuple[bytes, Stored]]:
    table = contents.answers
    return [(table.name(number), table.stored(number)) for number in table.numbers()]


def main() -> None:
    """Hand over to libFuzzer."""
    import atheris

    path = Path(tempfile.mkdtemp()) / "journal"
    atheris.instrument_all()

    def test_one_input(data: bytes) -> None:
        one_input(path, data)
        one_input(path, repaired(data))

    atheris.Setup(sys.argv, test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
