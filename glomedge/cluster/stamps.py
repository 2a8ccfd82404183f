"""Size and time of every file when it was answered, beside the parts: what ``--resume`` tells replaced crops by."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from glomedge.cluster.plan import Plan
from glomedge.cluster.store import Store, parquet_bytes
from glomedge.files.addresses import is_address
from glomedge.pipeline.inputs import Found
from glomedge.results.answer_table import Fingerprint
from glomedge.results.journal_rows import LOW_64
from glomedge.results.resume import changed_since
from glomedge.system.stopping import StoppedError

if TYPE_CHECKING:
    from glomedge.pipeline.prepare import Answer

_AT_ONCE = 16


def stamps_bytes(answers: Sequence[Answer]) -> bytes:
    """For ``Plan.stamps_file``: size in bytes and time in nanoseconds of each input of a part, in order; empty where
    they are not known."""
    import pyarrow

    columns = {
        "size_bytes": pyarrow.array([answer.size_bytes for answer in answers], pyarrow.int64()),
        "mtime_ns": pyarrow.array([answer.mtime_ns for answer in answers], pyarrow.int64()),
    }
    return parquet_bytes(pyarrow.table(columns))


def changed_parts(
    store: Store, plan: Plan, root: bytes, inputs: Sequence[Found], parts: Sequence[int], stop: Callable[[], bool]
) -> list[int]:
    """Those of some parts with an input that was replaced since; and those of which that cannot be told.

    Args:
        root: folder or address that the inputs are relative to.
        inputs: of the run.

    Raises:
        StoppedError: ``stop`` returned true.
        OutputError, StorageError: the store or the objects cannot be asked.
    """

    def is_changed(part: int) -> bool:
        found = inputs[slice(*plan.bounds(part))]
        before = _read(store, plan, part)
        return len(before) != len(found) or any(changed_since(root, found, before))

    changed = list[int]()
    # Each file may be a round trip away; of objects many are asked for at once already.
    at_once = 1 if is_address(root) else _AT_ONCE
    with ThreadPoolExecutor(at_once) as pool:
        for begin in range(0, len(parts), at_once):
            some = parts[begin : begin + at_once]
            if stop():
                raise StoppedError
            changed += [part for part, answer in zip(some, pool.map(is_changed, some), strict=True) if answer]
    return changed


def _read(store: Store, plan: Plan, part: int) -> list[Fingerprint]:
    """Of a part; empty where its file is gone or damaged."""
    import pyarrow
    import pyarrow.parquet

    data = store.read(plan.stamps_file(part))
    try:
        columns = pyarrow.parquet.read_table(io.BytesIO(data or b"")).to_pydict()
        sizes_bytes, mtimes_ns = columns["size_bytes"], columns["mtime_ns"]
    except (pyarrow.ArrowException, OSError, KeyError):
        return []

    def low(value: int | None) -> int | None:
        return None if value is None else value & LOW_64

    return [Fingerprint(low(size), low(mtime), False) for size, mtime in zip(sizes_bytes, mtimes_ns, strict=True)]
