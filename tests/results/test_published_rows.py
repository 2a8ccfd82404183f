"""Every published row is that of its own crop, whatever became of the files since they were answered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.cases.names import CaseFinder
from glomedge.pipeline.inputs import Found, Keys
from glomedge.pipeline.prepare import Answer
from glomedge.results.journal import Identity, Journal, read_journal
from glomedge.results.published_rows import PublishedRows
from glomedge.results.resume import publishable
from glomedge.results.rows import Attachment

NAMES = [f"S{slide}-{number}.png".encode() for slide in range(1, 4) for number in range(1, 4)]
PROBABILITY = {name.decode(): (place + 1) / 16 for place, name in enumerate(NAMES)}


def _published(folder: Path, gone: set[bytes], broken: set[bytes]) -> PublishedRows:
    """Rows of a journal of all names, published after the files in ``gone`` were removed."""
    journal = Journal(folder / "journal")
    journal.head(Identity("f", "0" * 64, "r", 0.5, 1, 16))
    journal.engine("cpu")
    rows: list[tuple[Answer, Attachment | None]] = []
    for place, name in enumerate(NAMES):
        answer = Answer(Found(name))
        answer.sha256 = f"{place:064x}"
        if name in broken:
            answer.fail("corrupt", "broken")
        else:
            answer.probability = PROBABILITY[name.decode()]
        rows.append((answer, None if name in broken else Attachment(100 * place, 10, 1)))
    journal.rows(rows)
    journal.close()
    inputs = [Found(name) for name in NAMES if name not in gone]
    content = publishable(folder / "journal", inputs, read_journal(folder / "journal", inputs))
    return PublishedRows(content.answers, 0.5, ("no", "yes"), "cpu", (0.4, 0.6), CaseFinder(Keys(inputs)))


@settings(max_examples=150, deadline=None)
@given(st.sets(st.sampled_from(NAMES), max_size=8), st.sets(st.sampled_from(NAMES)))
def test_each_row_is_of_its_own_crop(gone: set[bytes], broken: set[bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows = _published(Path(folder), gone, broken)
        shown = set()
        for block in rows.blocks():
            for path, probability in zip(block.paths, block.probabilities, strict=True):
                shown.add(path)
                assert probability == (None if path.encode() in broken else PROBABILITY[path])
        assert shown >= {name.decode() for name in NAMES if name not in gone}
        for row in rows.where(lambda probability: probability is not None):
            place = NAMES.index(row.path.encode())
            assert row.attachment is not None
            assert (row.attachment.offset, row.sha256) == (100 * place, f"{place:064x}")
            assert row.probability == PROBABILITY[row.path]
