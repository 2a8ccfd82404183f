"""Names that are read as their neighbour get the reading that they would have got alone."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import example, given, settings
from hypothesis import strategies as st

from glomedge.cases.names import CaseFinder
from glomedge.cases.neighbours import Neighbours
from glomedge.cases.numbers import Decision, Evidence, ending_of
from glomedge.cases.readings import by_shape, stem_of
from glomedge.cases.text import tidy

_BEGINS = (
    "B1_PAS_1of3_", "B1_x_PAS_1of3_", "Mary_HE_1of2_", "S_x5_y6_HE_1of1_", "S [x=1,y=2_PAS_1of2_", "a.png_HE_1of1_",
    "_PAS_1of3_", " _PAS_1of3_", " B1_PAS_1of3_", "S21-12-", "S21_12-", "K_7-12_", "12-", "12_", "_", "-", "glom_",
    "left-5_HE_1of2_", "A_left-5_top-", "é_HE_1of2_", "e\u0301_HE_1of2_", "x1_y", "a\u200b-",
)  # fmt: skip
_RESTS = st.one_of(
    st.integers(0, 12_000).map(str),
    st.tuples(st.integers(0, 12_000), st.sampled_from("-_"), st.integers(0, 120)).map(lambda t: f"{t[0]}{t[1]}{t[2]}"),
    st.text("01x_-y.[]=,w( \u0301", max_size=6),
    st.sampled_from(["left-5_top-6", "x5_y6", "[x=1,y=2,w=3,h=4]", "(1,2)", "a", "png", ".png", " .png", "²", "٣"]),
)
_NAMES = st.tuples(
    st.sampled_from(["", "", "B7/", "B8/", "20x/", "night 2026-11-25/", "B7/20x/"]),
    st.sampled_from(_BEGINS),
    _RESTS,
    st.sampled_from([".png", ".png", ".ome.tif", "", ".txt", ".2", " .png", ".PNG "]),
).map("".join)


@settings(max_examples=600, deadline=None)
@given(st.lists(_NAMES, min_size=1, max_size=25), st.booleans())
@example(["B1_PAS_1of3_a.png", "B1_PAS_1of3_x5_y6.png"], False)
@example(["B1_PAS_1of3_a.png", "B1_PAS_1of3_left-5_top-6.png"], False)
@example([" _PAS_1of3_x.png", "_PAS_1of3_y.png"], False)
def test_neighbours_are_read_as_they_are_alone(names: list[str], sort: bool) -> None:
    names = sorted(names) if sort else names
    finder = CaseFinder(names)
    alone = [finder.case_of(name) for name in names]
    assert finder.cases_of(names) == alone
    counted: dict[str, int] = {}
    doubtful = 0
    for name in names:  # a finder's own loop, one name at a time
        read = finder._read(name, Neighbours())
        counted[read.reading.rule] = counted.get(read.reading.rule, 0) + 1
        doubtful += not read.sure
    assert finder.found_by() == dict(sorted(counted.items()))
    assert sum(finder._doubtful.values()) == doubtful
    assert sum(finder._cases.values()) == len(names)


def test_most_names_of_a_folder_are_read_as_their_neighbour() -> None:
    folders = {
        "parts": [f"B{k // 40}_PAS_{k // 20 % 2 + 1}of2_{k:x}.png" for k in range(400)],
        "running": [f"VUHSK_{1900 + k // 40}-{k % 40}.png" for k in range(400)],
        "places": [f"S21-{1000 + k // 40}-{7919 * k % 90_000}-{104_729 * k % 90_000}.png" for k in range(400)],
        "folder": [f"B{k // 40}/glom_{k % 40}.png" for k in range(400)],
    }
    for kind, names in folders.items():
        finder, neighbours = CaseFinder(names), Neighbours()
        fresh = 0
        for name in sorted(names):
            if neighbours.again(name) is None:
                fresh += 1
                finder._read(name, neighbours)
        assert 10 <= fresh <= 20, kind


@settings(max_examples=400, deadline=None)
@given(st.lists(_NAMES, max_size=25), st.booleans())
def test_the_evidence_of_neighbours_is_that_of_each_name(names: list[str], sort: bool) -> None:
    names = sorted(names) if sort else names
    alike: dict[tuple[tuple[tuple[str, ...], int], str], Evidence] = defaultdict(Evidence)
    for name in names:
        stem = stem_of(tidy(name.rpartition("/")[2]))
        if (ending := ending_of(stem)) and len(ending.numbers) > 1 and not by_shape(stem):
            alike[ending.kind, ending.start].add(ending)
    expected: dict[tuple[tuple[tuple[str, ...], int], str | None], Decision] = {}
    of_kind: dict[tuple[tuple[str, ...], int], Evidence] = defaultdict(Evidence)
    for (kind, start), seen in alike.items():
        of_kind[kind].join(seen)
        if seen.names >= 5:
            expected[kind, start] = seen.decide(kind)
    assert CaseFinder(names)._decisions == expected | {(kind, None): e.decide(kind) for kind, e in of_kind.items()}
