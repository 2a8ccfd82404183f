from __future__ import annotations

import json
import zlib
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.errors import OutputError
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.answer_table import Fingerprint, Stored
from glomedge.results.journal import Contents, Identity, Journal, read_journal, read_on
from glomedge.results.resume import plan, publishable
from glomedge.results.rows import Attachment

IDENTITY = Identity(folder="/crops", model_sha256="a" * 64, recipe="{}", threshold=0.5, tta=1, batch_size=4)


def _answers(batch: int) -> list[tuple[Answer, Attachment | None]]:
    first, second, third, fourth = (Found(f"b{batch}/{rest}".encode()) for rest in _NAMES)
    return [
        (Answer(first, "ok", 0.1234567, "ab" * 32, 123, 456), Attachment(1, 2, 3)),
        (Answer(second, "flagged:blank+blurred", 1.0, "cd" * 32, 5, 6, disagreement=0.25), None),
        (Answer(third, "error:truncated", None, "ef" * 32, 7, 8, message="cut short"), None),
        (Answer(fourth, "error:vanished", message="gone"), None),
    ]


_NAMES = ("0 =ü\n.png", "1.png", "2.png", "3.png")
INPUTS = [answer.found for batch in range(5) for answer, _ in _answers(batch)]


def _stored(batch: int) -> list[tuple[bytes, Stored]]:
    return [
        (
            answer.found.relative,
            Stored(answer.status, answer.probability, answer.sha256, answer.disagreement, answer.message, attachment),
        )
        for answer, attachment in _answers(batch)
    ]


def _write(path: Path, batches: int = 5, identity: Identity = IDENTITY) -> bytes:
    journal = Journal(path)
    journal.head(identity)
    journal.engine("cpu")
    for batch in range(batches):
        answers = _answers(batch)
        journal.start([answer.found.key for answer, _ in answers])
        journal.rows(answers)
    journal.sync()
    journal.close()
    return path.read_bytes()


def _all(contents: Contents) -> list[tuple[bytes, Stored]]:
    table = contents.answers
    return [(table.name(number), table.stored(number)) for number in table.numbers()]


@pytest.mark.parametrize("inputs", [[], INPUTS, INPUTS[3:9]])
def test_what_is_written_is_read(tmp_path: Path, inputs: list[Found]) -> None:
    path = tmp_path / "journal"
    data = _write(path)
    contents = read_journal(path, inputs)
    assert _all(contents) == [stored for batch in range(5) for stored in _stored(batch)]
    assert len(contents.answers) == 20
    assert contents.identity == IDENTITY
    assert contents.provider == "cpu"
    assert (contents.good_bytes, contents.bad_bytes, contents.suspects, contents.complete) == (len(data), 0, {}, False)
    assert [found for found in INPUTS if _before(contents, found.relative).may_pass] == INPUTS[3::4]


def _before(contents: Contents, name: bytes) -> Fingerprint:
    before = contents.answers.fingerprint(name)
    assert before is not None
    return before


@pytest.mark.parametrize("cut", range(0, 12))
def test_reading_on_is_reading_everything(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "journal"
    data = _write(path)
    lines = data.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:cut]) + b"torn")
    contents = read_journal(path, INPUTS)
    path.write_bytes(data)
    contents = read_on(path, contents)
    assert (contents.good_bytes, contents.bad_bytes, contents.damaged) == (len(data), 0, False)
    assert _all(contents) == _all(read_journal(path))
    # What has become shorter since is not what was read.
    path.write_bytes(b"".join(lines[:4]))
    assert len(read_on(path, contents).answers) == 4
    path.unlink()
    assert len(read_on(path, contents).answers) == 0


def test_started_and_never_finished_are_suspects(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    _write(path)
    journal = Journal(path, path.stat().st_size)
    journal.start(["x.png", "y.png"])
    journal.close()
    assert list(read_journal(path).suspects) == ["x.png", "y.png"]
    journal = Journal(path, path.stat().st_size)
    journal.stop()
    journal.close()
    assert not read_journal(path).suspects  # stopped in good order: no decoder did it


@pytest.mark.parametrize(
    ("status", "sha256", "again"),
    [
        ("error:permission", None, True),
        ("error:not_regular", None, True),
        ("error:decoder", None, True),  # hung before its bytes were there: the disk's fault
        ("error:decoder", "ab" * 32, False),
        ("error:truncated", "ab" * 32, False),
    ],
)
def test_whose_fault_may_have_passed(tmp_path: Path, status: str, sha256: str | None, again: bool) -> None:
    path = tmp_path / "journal"
    _write(path, 0)
    journal = Journal(path, path.stat().st_size)
    journal.rows([(Answer(Found(b"x.png"), status, None, sha256, message="why"), None)])
    journal.close()
    assert _before(read_journal(path), b"x.png").may_pass is again


def test_the_last_answer_counts(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    _write(path)
    journal = Journal(path, path.stat().st_size)
    journal.rows([(Answer(Found(b"b0/3.png"), "ok", 0.5, "00" * 32, 1, 2), None)])
    journal.done(20)
    journal.close()
    contents = read_journal(path)
    assert contents.complete
    assert _before(contents, b"b0/3.png") == (1, 2, False)
    assert len(contents.answers) == 20
    assert [stored.status for name, stored in _all(contents) if name == b"b0/3.png"] == ["ok"]


def test_1000_torn_and_foreign_tails(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    data = _write(path)
    ends = [0] + [index + 1 for index, byte in enumerate(data) if byte == 10]
    rng = np.random.default_rng(24)
    # Whole journals of other runs, and of this very one; their rows would all be good ones.
    foreign = [
        _write(tmp_path / "other", identity=identity)
        for identity in (replace(IDENTITY, model_sha256="b" * 64), replace(IDENTITY, threshold=0.25), IDENTITY)
    ]
    for _ in range(1000):
        cut = int(rng.integers(0, len(data) + 1))
        tail = rng.bytes(int(rng.integers(0, 200)))
        kind = rng.random()
        if kind < 0.3 and cut < len(data):
            tail += bytes([data[cut] ^ (1 << int(rng.integers(0, 8)))]) + data[cut + 1 :]
        elif kind < 0.6:
            cut = int(rng.choice(ends[1:]))
            tail = foreign[int(rng.integers(0, 3))]
        elif kind < 0.8:
            # Its lines without its head.
            cut = int(rng.choice(ends[1:]))
            other = foreign[int(rng.integers(0, 2))]
            tail = other[int(rng.choice(ends[1:-1])) :]
        path.write_bytes(data[:cut] + tail)
        contents = read_journal(path)
        whole = max(end for end in ends if end <= cut)
        # Junk could only be taken for a line by guessing its CRC; a flip within the next line is found by it.
        assert contents.good_bytes == whole, (cut, tail)
        assert contents.bad_bytes == cut - whole + len(tail)
        assert contents.identity == (IDENTITY if whole else None)
        assert contents.damaged == (b"\n" in data[whole:cut] + tail)
        journal = Journal(path, contents.good_bytes)
        if contents.identity is None:
            journal.head(IDENTITY)
        journal.rows(_answers(9))
        journal.close()
        again = read_journal(path)
        assert again.bad_bytes == 0
        assert _all(again)[-4:] == _stored(9)


def test_every_flipped_bit_of_a_line_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    data = _write(path, 1)
    begin = data.index(b"\n") + 1
    for position in range(begin, data.index(b"\n", begin) + 1):
        for bit in range(8):
            path.write_bytes(data[:position] + bytes([data[position] ^ (1 << bit)]) + data[position + 1 :])
            assert read_journal(path).good_bytes == begin


def _line(payload: object, head: object = None) -> bytes:
    body = json.dumps(payload).encode()
    seed = zlib.crc32(json.dumps(head).encode()) if head is not None else 0
    return b"%08x %s\n" % (zlib.crc32(body, seed), body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
_HEAD = {"kind": "head", "format": 1, "identity": {f.name: getattr(IDENTITY, f.name) for f in fields(IDENTITY)}}
_HOSTILE = st.one_of(
    _JSON,
    st.fixed_dictionaries({"kind": st.sampled_from(["head", "engine", "start", "rows", "done", "other"])}).flatmap(
        lambda base: st.dictionaries(
            st.sampled_from(["rows", "keys", "provider", "identity", "format"]), _JSON, max_size=3
        ).map(lambda rest: {**base, **rest})
    ),
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.binary(max_size=60) | _HOSTILE.map(_line) | _HOSTILE.map(lambda payload: _line(payload, _HEAD)), max_size=5
    ),
    st.booleans(),
)
def test_fuzz_only_whole_lines_of_ours_are_taken(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], head: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz-journal"
    path.write_bytes((_line(_HEAD) if head else b"") + b"".join(parts))
    contents = read_journal(path)
    assert contents.good_bytes + contents.bad_bytes == path.stat().st_size
    for name, entry in _all(contents):
        assert contents.answers.fingerprint(name) is not None
        assert entry.probability is None or 0.0 <= entry.probability <= 1.0
        assert entry.disagreement is None or 0.0 <= entry.disagreement <= 1.0


@pytest.mark.parametrize("name", [field.name for field in fields(Identity) if field.name not in Identity.ADOPTED])
def test_resuming_with_another_value_of_any_field_is_refused_and_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "out" / ".glomedge" / "journal"
    path.parent.mkdir(parents=True)
    _write(path)
    other: dict[str, object] = {
        "folder": "/else", "model_sha256": "b" * 64, "recipe": "[]", "threshold": 0.6, "tta": 8, "bf16": True,
        "classes": "Glomerulus", "mpp": 0.5, "shard": "2/3 by path",
    }  # fmt: skip
    changed = replace(IDENTITY, **{name: other[name]})  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=rf"{name}: .* in the unfinished run, .* now.*--overwrite"):
        plan(path, changed, resume=True, overwrite=False)


def test_the_batch_size_of_the_first_run_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "out" / ".glomedge" / "journal"
    path.parent.mkdir(parents=True)
    _write(path)
    assert plan(path, replace(IDENTITY, batch_size=32), resume=True, overwrite=False).identity.batch_size == 4


def test_an_unfinished_run_is_not_dropped_by_accident(tmp_path: Path) -> None:
    path = tmp_path / "out" / ".glomedge" / "journal"
    path.parent.mkdir(parents=True)
    _write(path)
    with pytest.raises(OutputError, match=r"20 results.*--resume.*--overwrite"):
        plan(path, IDENTITY, resume=False, overwrite=False)
    assert plan(path, IDENTITY, resume=False, overwrite=True).contents.good_bytes == 0
    resumed = plan(path, IDENTITY, resume=True, overwrite=False)
    assert len(resumed.contents.answers) == 20
    assert plan(path.parent / "none", IDENTITY, resume=True, overwrite=False).notes == [
        "There was no run to resume; a new run was started."
    ]


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("lines", [0, 1])
def test_answers_that_cannot_be_told_are_not_dropped_unasked(tmp_path: Path, lines: int, resume: bool) -> None:
    path = tmp_path / "out" / ".glomedge" / "journal"
    path.parent.mkdir(parents=True)
    data = _write(path)
    begin = sum(len(line) for line in data.splitlines(keepends=True)[:lines])
    for position in range(begin, data.index(b"\n", begin) + 1, 7):
        flipped = data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :]
        path.write_bytes(flipped)
        if lines == 0 or not resume:
            with pytest.raises(OutputError, match="--overwrite"):
                plan(path, IDENTITY, resume=resume, overwrite=False)
        else:
            # The head is whole, all answers after it are lost: asked to resume, it says so and predicts anew.
            notes = plan(path, IDENTITY, resume=True, overwrite=False).notes
            assert f"its last {len(data) - begin} bytes were discarded" in notes[-1]
        assert path.read_bytes() == flipped
        assert plan(path, IDENTITY, resume=False, overwrite=True).contents.good_bytes == 0


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_was_killed_at_its_first_write_is_none(tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "journal"
    head = _write(path, 0).splitlines(keepends=True)[0]
    for begun in (b"", head[:1], head[:100], head[:-1], b"\0" * 4096):
        path.write_bytes(begun)
        assert plan(path, IDENTITY, resume=resume, overwrite=False).contents.good_bytes == 0


def test_only_what_holds_an_answer_for_every_input_is_published(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    data = _write(path)
    assert len(publishable(path, INPUTS, read_journal(path, INPUTS)).answers) == 20
    more = [*INPUTS, Found(b"new.png")]
    with pytest.raises(OutputError, match=r"written to it: 1 of 21 inputs has no result\. No .*--resume"):
        publishable(path, more, read_journal(path, more))
    contents = read_journal(path, INPUTS)
    path.write_bytes(data + b"torn")
    with pytest.raises(OutputError, match=r"written to it: its last 4 bytes cannot be read\. No .*--resume"):
        publishable(path, INPUTS, contents)
    path.write_bytes(data + b"t")
    with pytest.raises(OutputError, match=r"1 of 21 inputs has no result, and its last byte cannot be read\."):
        publishable(path, more, read_journal(path, more))
    path.unlink()
    with pytest.raises(OutputError, match=r"20 of 20 inputs have no result.*--resume"):
        publishable(path, INPUTS, contents)


def test_torn_tail_is_said(tmp_path: Path) -> None:
    path = tmp_path / "out" / ".glomedge" / "journal"
    path.parent.mkdir(parents=True)
    data = _write(path)
    path.write_bytes(data + b"1234")
    notes = plan(path, IDENTITY, resume=True, overwrite=False).notes
    assert notes == [
        "Resumed: 20 results were already there.",
        "The last 4 bytes were an incomplete line of the journal, and discarded.",
    ]


def test_a_full_disk_is_an_error_that_says_how_to_go_on() -> None:
    journal = Journal(Path("/dev/full"))
    with pytest.raises(OutputError, match=r"No space left.*--resume"):
        journal.head(IDENTITY)
    journal.close()


def test_the_outlines_of_slides_stand_in_the_journal_and_of_no_other_run(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.head(IDENTITY)
    journal.close()
    assert b"outlines" not in path.read_bytes()
    assert b"mpp" not in path.read_bytes()
    for added in ({"a.svs": "1" * 64}, {"b.svs": "2" * 64}):
        journal = Journal(path, path.stat().st_size)
        journal.outlines(added)
        journal.close()
    identity = read_journal(path).identity
    assert identity == replace(IDENTITY, outlines={"a.svs": "1" * 64, "b.svs": "2" * 64})
    assert identity is not None
    fresh = Journal(tmp_path / "second")
    fresh.head(replace(identity, classes="x", mpp=0.25))
    fresh.close()
    assert read_journal(tmp_path / "second").identity == replace(identity, classes="x", mpp=0.25)
    assert identity.other_outlines(replace(identity, outlines={"b.svs": "3" * 64, "c.svs": "4" * 64})) == [
        "a.svs",
        "b.svs",
    ]


@pytest.mark.parametrize("files", [None, ["a.svs"], {"a.svs": 1}])
def test_a_line_of_outlines_that_is_none_of_ours_is_damage(tmp_path: Path, files: object) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    journal.head(IDENTITY)
    good_bytes = path.stat().st_size
    journal.outlines({"a.svs": "1"})
    journal.close()
    line = path.read_bytes()[good_bytes:]
    body = line[9:-1].replace(b'{"a.svs":"1"}', json.dumps(files).encode())
    seed = zlib.crc32(path.read_bytes().splitlines()[0][9:])
    path.write_bytes(path.read_bytes()[:good_bytes] + b"%08x %s\n" % (zlib.crc32(body, seed), body))
    contents = read_journal(path)
    assert (contents.identity, contents.good_bytes, contents.damaged) == (IDENTITY, good_bytes, True)
