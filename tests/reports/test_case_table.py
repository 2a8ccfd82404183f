"""The table of cases on the screen: a line for each case, no figure left out at any width."""

from __future__ import annotations

import re

import pytest

from glomedge.cases.summary import CaseSummary, CropCall, summarise
from glomedge.model.spec import OperatingPoint
from glomedge.reports.case_table import case_tables


def printed(summaries: list[CaseSummary], width: int) -> str:
    """The tables as a terminal of that width shows them."""
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        for table in case_tables(summaries, width):
            console.print(table)
    text = captured.get()
    assert max(map(len, text.splitlines())) <= width
    return text


@pytest.mark.parametrize("width", [70, 80, 120])
def test_the_table_on_the_screen_has_a_line_for_each_case(width: int) -> None:
    calls = [CropCall(f"[red]{i % 3}-{i}.png", 0.9, 1, "ok") for i in range(9)]
    text = printed(summarise(calls, None), width)
    assert text.count("100.0%") == text.count("(43.9-100.0)") == text.count("3 of 3") == 3
    assert all(f"[red]{number} " in text for number in range(3))
    assert text.count("undetermined") + text.count(">20%") == text.count("(n<25)") == 3
    assert "corrected" not in text


@pytest.mark.parametrize(("width", "tables"), [(80, 2), (100, 2), (120, 2), (160, 1)])
def test_no_figure_is_left_out_at_any_width(width: int, tables: int) -> None:
    names = [f"S-{1000 + i}-00000{i}" for i in range(4)]
    calls = [CropCall(f"{name}_PAS_{1 + k % 2}of2_{k:024x}.png", 0.9, k % 2, "ok") for name in names for k in range(24)]
    calls += [CropCall(f"{names[0]}_PAS_1of2_{99:024x}.png", None, None, "error:format")]
    calls += [CropCall(f"{name}_PAS_1of2_{98:024x}.png", 0.1, 0, "flagged:blank") for name in names]
    point = OperatingPoint(true_positive=160, false_negative=40, true_negative=220, false_positive=6)
    text = printed(summarise(calls, point), width)
    assert all(text.count(name) == tables for name in names)
    assert text.count("12 of 25") == text.count("48.0%") == 4
    assert text.count(">20%") == 4
    for heading in ("slides", "crops", "flagged", "errors", "expected", "corrected", "Remuzzi", "band"):
        assert heading in text
    counts = [re.split(r"[\s│┃]+", line.strip("│┃ ")) for line in text.splitlines() if line.startswith(f"│ {names[0]}")]
    # slides, crops, flagged, errors; 24 x 0.9 + 0.1; 12 of 25 is 2 after Remuzzi
    assert any(row[1:5] == ["2", "26", "1", "1"] and "21.7" in row and row[-1] == "2" for row in counts)
