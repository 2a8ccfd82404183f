"""What all four pages share: one environment, one base, one style; the run report is looked at in test_run_page."""

from __future__ import annotations

import fnmatch
import subprocess
import sys
import tomllib
from collections.abc import Iterator

import jinja2
import jinja2.meta
import pytest

from glomedge.bench.page import html as bench_page
from glomedge.bench.record import Failure
from glomedge.reports import html
from glomedge.reports.model_card import fragment
from helpers import bench_builders as build
from helpers.export_specs import example_spec
from helpers.page_checks import HOSTILE, check_markup, check_page, text_of
from helpers.paths import ROOT

TEMPLATES = ROOT / "glomedge" / "reports" / "templates"


def test_bench_page_is_sound_and_hostile_text_stays_text() -> None:
    configuration = build.configuration(flips=3).model_copy(update={"model": HOSTILE})
    failure = Failure(model=HOSTILE, provider_asked="tensorrt", error="X", message=HOSTILE)
    record = build.record([configuration, build.configuration(seed=1)], failures=(failure,))
    record = record.model_copy(update={"command": HOSTILE, "notes": (HOSTILE,)})
    page = bench_page(record)
    check_page(page)
    # Command, note, failed model and message; the configuration's label stands in every table and in the plots.
    assert text_of(page).count(HOSTILE) > 8


def test_model_card_is_sound_and_hostile_text_stays_text() -> None:
    spec = example_spec()
    assert spec.training is not None
    training = spec.training.model_copy(update={"data_name": HOSTILE, "optimizer": HOSTILE})
    card = fragment(spec.model_copy(update={"training": training, "producer": HOSTILE}), HOSTILE, "e" * 64)
    check_markup(card)
    assert text_of(card).count(HOSTILE) == 4


def test_marks_of_a_model_card_cannot_smuggle_markup() -> None:
    spec = example_spec()
    assert spec.training is not None
    training = spec.training.model_copy(update={"data_name": "`<b>`*<i>*", "optimizer": "*`<u>*`"})
    card = fragment(spec.model_copy(update={"training": training}), "m.onnx", "e" * 64)
    assert not {"<b>", "<i>", "<u>"} & set(card.replace("><", ">\n<").split())
    assert "&lt;i&gt;" in card


@pytest.mark.parametrize("name", ["bench.html", "model_card.html", "run_report.html", "training_report.html"])
def test_a_missing_name_is_an_error_not_a_gap(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError, match="is undefined"):
        html.render(name)


def test_a_template_that_is_not_there_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateNotFound):
        html.render("no_such_page.html")


def test_parts_are_made_while_they_are_taken() -> None:
    drawn = 0

    def settings() -> Iterator[tuple[str, str]]:
        nonlocal drawn
        for number in range(100_000):
            drawn += 1
            yield str(number), "x"

    parts = html.stream(
        "training_report.html", title="t", warnings=(), settings=settings(),
    )  # fmt: skip
    first = next(parts)
    assert b"<h1>t</h1>" in first
    assert drawn < 200


def test_names_that_are_not_utf8_are_shown_and_never_stop_a_page() -> None:
    card = fragment(example_spec(), "b\udce9.onnx", "e" * 64)
    assert "b\\udce9.onnx" in card
    card.encode("utf-8")


def test_the_wheel_holds_every_template() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["glomedge"]
    files = [path.relative_to(ROOT / "glomedge").as_posix() for path in TEMPLATES.rglob("*") if path.is_file()]
    assert {"reports/templates/base.html", "reports/templates/style.css"} <= set(files)
    for file in files:
        assert any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns), file


def test_jinja_is_loaded_by_the_first_page_and_not_before() -> None:
    code = (
        "import sys, glomedge.runs.publish, glomedge.bench.page\n"
        "from glomedge.reports import html, model_card, run_page\n"
        "assert 'jinja2' not in sys.modules\n"
        "html.render('macros.html')\n"
        "assert 'jinja2' in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_templates_prepared_beside_other_work_are_those_that_the_report_uses() -> None:
    code = (
        "import threading\n"
        "from glomedge.reports import html, run_page\n"
        "run_page.prepare()\n"
        "[thread.join() for thread in threading.enumerate() if thread.name == 'templates']\n"
        "print(*sorted(name for _, name in html._environment().cache.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    used, waiting = set(), ["run_report.html", "model_card.html"]
    while waiting:
        name = waiting.pop()
        used.add(name)
        environment = html._environment()
        assert environment.loader is not None
        source = environment.loader.get_source(environment, name)[0]
        waiting += [other for other in jinja2.meta.find_referenced_templates(environment.parse(source)) if other]
    assert set(done.stdout.split()) == used
