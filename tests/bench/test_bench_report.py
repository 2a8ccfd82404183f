"""bench.html and the tables: self-contained, escaped, wrong answers in red."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.bench import tables
from glomedge.bench.page import html
from glomedge.bench.record import BenchRecord, Failure
from glomedge.reports import charts
from helpers import bench_builders as build


def _both() -> BenchRecord:
    failure = Failure(model="model.onnx", provider_asked="tensorrt", error="X", message="libnvinfer.so.10 <missing>")
    return build.record(
        [build.configuration(), build.configuration(precision="int8", scale=0.4, flips=7)], failures=(failure,)
    )


def test_page_fetches_nothing_and_carries_the_notice() -> None:
    page = html(_both())
    assert RESEARCH_USE_NOTICE in page
    assert "<script" not in page
    assert not re.search(r"""(src|href)\s*=""", page)
    # The only address is the SVG namespace.
    assert set(re.findall(r"https?://[^\"' <]+", page)) == {"http://www.w3.org/2000/svg"}


def test_text_from_outside_is_escaped() -> None:
    page = html(_both())
    assert "Invented &lt;CPU&gt;" in page
    assert "drawn &amp; invented" in page
    assert "libnvinfer.so.10 &lt;missing&gt;" in page


def test_a_fast_wrong_answer_is_red_in_table_and_plot() -> None:
    record = _both()
    assert tables.parity_cell(record.configurations[0]).style == "right"
    assert tables.parity_cell(record.configurations[1]).style == "wrong"
    page = html(record)
    assert re.search(r'class="[a-z ]*\bwrong">WRONG: 7 of 64 flipped', page)
    assert page.count(charts.WRONG) >= 3  # line, bar and its label
    assert charts.WRONG not in html(build.record([build.configuration()]))


def test_plots_are_well_formed_and_to_scale() -> None:
    record = _both()
    plots = re.findall(r"<svg.*?</svg>", html(record), re.DOTALL)
    assert len(plots) == 3
    trees = [ET.fromstring(plot) for plot in plots]
    space = "{http://www.w3.org/2000/svg}"
    bars = [float(r.attrib["width"]) for r in trees[1].iter(f"{space}rect")]
    values = [bar.value for c in record.configurations if (bar := tables.throughput_of(c)) is not None]
    assert bars[0] / bars[1] == pytest.approx(values[0] / values[1], rel=0.01)
    assert len(list(trees[0].iter(f"{space}polyline"))) == 2
    assert len(list(trees[0].iter(f"{space}circle"))) == 4


def test_every_row_is_as_wide_as_its_header() -> None:
    for table in tables.tables(_both()):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.header)}


def test_labels_are_short_where_unique_and_whole_where_not() -> None:
    assert set(tables.labels(_both()).values()) == {"fp32 cpu", "int8 cpu"}
    targets = [build.configuration(precision="int8").model_copy(update={"model": t, "target": t}) for t in ("a", "b")]
    assert set(tables.labels(build.record(targets)).values()) == {"int8 for a on cpu", "int8 for b on cpu"}
    twice = build.record([build.configuration(), build.configuration(seed=1)])
    assert set(tables.labels(twice).values()) == {"model.onnx fp32 cpu"}


def test_one_batch_size_still_plots() -> None:
    line = charts.Line("a", [(1.0, 20.0, 25.0)])
    ET.fromstring(charts.line_plot([line], x_label="batch", y_label="ms"))


def test_a_provider_that_was_not_asked_for_is_named_as_such() -> None:
    fell = build.configuration().model_copy(update={"fell_back": True, "provider_asked": "tensorrt"})
    assert "fp32 cpu (requested tensorrt)" in tables.tables(build.record([fell]))[0].header
