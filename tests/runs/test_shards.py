"""``glomedge infer --shard``: every input is answered by exactly one of the processes that share a run."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from glomedge.errors import OutputError, UsageError
from glomedge.pipeline.batching import PlacedBatch, placed_batches, sizes
from glomedge.pipeline.inputs import Found
from glomedge.results.folder import OutputFolder
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.merge import MergeOptions, merge_shards
from glomedge.runs.outcome import Outcome
from glomedge.runs.shard_of import Shard
from helpers.run_kit import table


def shards(options: Options, of: int, by: str = "path") -> list[Path]:
    """Run every shard; their folders."""
    for number in range(1, of + 1):
        assert infer_folder(replace(options, shard=Shard(number, of, by))).complete
    return [Shard(number, of, by).folder(options.output) for number in range(1, of + 1)]


def answered(folder: Path) -> list[str]:
    """The paths that a shard's journal has rows of."""
    lines = [json.loads(line[9:]) for line in (folder / ".glomedge" / "journal").read_bytes().splitlines()]
    return [row[0] for line in lines if line["kind"] == "rows" for row in line["rows"]]


@pytest.mark.parametrize("by", ["path", "case"])
@pytest.mark.parametrize("of", [1, 3, 40])
def test_every_input_is_answered_once(options: Options, of: int, by: str) -> None:
    folders = shards(options, of, by)
    by_shard = [answered(folder) for folder in folders]
    every = [path for paths in by_shard for path in paths]
    expected = sorted(str(path.relative_to(options.folder)) for path in options.folder.rglob("*.png"))
    assert sorted(every) == expected
    if by == "case":
        of_case = [{path.rpartition("/")[2].split("-")[0] for path in paths} for paths in by_shard]
        assert sum(map(len, of_case)) == 3  # each biopsy is in one shard
    for number, folder in enumerate(folders, 1):
        record = json.loads((folder / "run.json").read_text("utf-8"))
        assert record["shard"] == {"number": number, "of": of, "by": by}
        assert (record["inputs"], record["inputs_of_all_shards"]) == (len(by_shard[number - 1]), 30)
        assert sum(record["counts"][kind] for kind in ("ok", "flagged", "error")) == record["rows"] == record["inputs"]
        # Half a biopsy has no percentage.
        assert sorted(path.name for path in folder.iterdir()) == [".glomedge", "run.json"]


def test_the_share_of_a_path_is_the_same_for_ever() -> None:
    assert [Shard(number, 7).takes(b"a/case1-10.png") for number in range(1, 8)].index(True) == 4
    assert [Shard(number, 7).takes(b"S-1.svs") for number in range(1, 8)].index(True) == 2


@pytest.mark.parametrize("text", ["0/7", "8/7", "3", "3/", "-1/7", "3/7/9", "3/10001", "1.5/7", ""])
def test_no_share_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="Write it like 3/7, from 1/7 to 7/7"):
        Shard.parse(text)


def test_how_inputs_are_dealt_is_path_or_case() -> None:
    assert Shard.parse("3/7", "case") == Shard(3, 7, "case")
    with pytest.raises(UsageError, match="--by 'size' is unknown: use path or case"):
        Shard.parse("3/7", "size")


def test_a_shard_is_resumed_like_any_run(options: Options) -> None:
    first = replace(options, shard=Shard(1, 2), report=False)
    polls = 0

    def stop() -> bool:
        nonlocal polls
        polls += 1
        return polls > 60

    whole = answered(shards(replace(options, output=options.output.with_name("whole")), 2)[0])
    stopped = infer_folder(first, stop=stop)
    if not stopped.complete and stopped.answered:
        with pytest.raises(OutputError, match="unfinished run"):
            infer_folder(first)
    assert infer_folder(replace(first, resume=True)).complete
    assert sorted(answered(first.shard.folder(options.output))) == sorted(whole)  # type: ignore[union-attr]
    # A requeued job whose work is done: nothing is classified again.
    assert infer_folder(replace(first, resume=True)).predicted == 0
    with pytest.raises(OutputError, match="shard: 1/2 by path in the unfinished run, 1/2 by case now"):
        infer_folder(replace(first, shard=Shard(1, 2, "case"), resume=True))


def test_a_shard_and_a_merge_have_one_writer(options: Options) -> None:
    first, merged = replace(options, shard=Shard(1, 2)), options.output.with_name("merged")
    assert infer_folder(replace(options, shard=Shard(2, 2))).complete
    writers: list[tuple[Path, Callable[[], Outcome]]] = [
        (Shard(1, 2).folder(options.output), partial(infer_folder, first)),
        (merged, partial(merge_shards, MergeOptions((options.output,), merged))),
    ]
    for folder, run in writers:
        other = OutputFolder(folder, 0)
        try:
            with pytest.raises(OutputError, match="Another run"):
                run()
        finally:
            other.close()
        assert run().complete
    assert len(table(merged)) == 30


def test_crops_keep_their_place_and_the_size_of_their_batch() -> None:
    every = [Found(b"%04d.png" % number) for number in range(203)]
    of_all = {}
    begin = 0
    for size in sizes(len(every), 8):
        of_all.update({found: (size, place) for place, found in enumerate(every[begin : begin + size])})
        begin += size
    wanted = [found for found in every if zlib.crc32(found.relative) % 3 == 0]
    batches = list(placed_batches(every, wanted, 8))
    assert all(isinstance(batch, PlacedBatch) for batch in batches)
    dealt = {
        found: (batch.size, place) for batch in batches for found, place in zip(batch.inputs, batch.places, strict=True)
    }
    assert dealt == {found: of_all[found] for found in wanted}
    assert sum(len(batch.inputs) for batch in batches) == len(wanted)
    assert list(placed_batches(every, (), 8)) == []
