"""The commands of the README and of the pages under ``docs/``, run as they stand there (``helpers.doc_blocks``)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from helpers.doc_blocks import Block, PageError, blocks_of, masked, missing_line
from helpers.doc_sandbox import sandbox
from helpers.paths import ROOT

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md"))
WITH_COMMANDS = [page for page in PAGES if any(block.kind != "text" for block in blocks_of(page))]
"""Pages with something to run."""
QUICK = {"README.md", "serve.md", "slides.md"}
"""Those that the default suite runs: in all under a minute of processor time."""


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _run(page: Path, folder: Path, *, quick: bool) -> None:
    with sandbox(folder, quick=quick) as place:
        for block in blocks_of(page):
            problem = place.run(block)
            assert problem is None, problem


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", [page for page in WITH_COMMANDS if page.name in QUICK], ids=_name)
def test_quick_commands_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    _run(page, tmp_path, quick=True)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=_name)
def test_all_commands_do_what_the_page_says(page: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs the extra export")
    _run(page, tmp_path, quick=False)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_that_is_not_run_says_why(page: Path) -> None:
    """A block without a known program is text: none of its lines may look like a command all the same."""
    for block in blocks_of(page):
        if block.kind == "text":
            assert not re.search(r"(?m)^\s*\$ |^\s*(?:sudo|apt|cd|export [A-Z]+=)\b", block.text), block.place
            assert not block.said, f"{block.place}: the comment above belongs to no command"
        assert len(block.said.get("not run", "a reason")) >= 8, block.place


def _page(folder: Path, text: str) -> list[Block]:
    (folder / "page.md").write_text(text, "utf-8")
    return blocks_of(folder / "page.md")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("    $ glomedge synth data\n    Drew 3 crops\n", "session"),
        ("    glomedge synth data\n", "commands"),
        ("1. so:\n\n       .venv/bin/glomedge doctor\n", "commands"),
        ("    import glomedge\n", "python"),
        ("```bash\nanything\n```\n", "commands"),
        ("```ini\nglomedge synth data\n```\n", "text"),
        ("    crops/\n      public.csv\n", "text"),
    ],
)
def test_the_kind_of_a_block(tmp_path: Path, text: str, kind: str) -> None:
    (block,) = _page(tmp_path, text)
    assert block.kind == kind


def test_what_the_comment_above_a_block_says(tmp_path: Path) -> None:
    text = (
        "So:\n<!-- run first: given model m.onnx --> <!-- exits with: 2 -->\n    glomedge infer a\n\n    glomedge b\n"
    )
    (block,) = _page(tmp_path, text)
    assert block.said == {"run first": "given model m.onnx", "exits with": "2"}
    assert block.place == "page.md:3"
    with pytest.raises(PageError, match="none of"):
        _page(tmp_path, "<!-- not tun: no -->\n    glomedge infer a\n")


@pytest.mark.parametrize(
    ("shown", "printed", "missing"),
    [
        (["3 crops, 0.52 s"], "start\n  14 crops,   1,200.5 s\nend\n", None),
        (["a 1", "b 2"], "b 1\na 1\n", "b 2"),
        (["loss -0.5 (1-2)"], "loss 0.7 (3-4)\n", None),
        (["one ... four 4"], "one two three four 5\n", None),
        (["wrote x.onnx ..."], "wrote x.onnx\n", None),
        (["wrote x.onnx"], "wrote y.onnx\n", "wrote x.onnx"),
        (["│ S-1-2 │ 3 │"], "│ S-17-23 │   44 │\n", None),
        (["gate 1e-05 pass"], "gate 1.2e-06 fail\n", "gate 1e-05 pass"),
    ],
)
def test_shown_lines_are_found_whatever_their_figures(shown: list[str], printed: str, missing: str | None) -> None:
    assert missing_line(shown, printed) == missing


def test_figures_and_rules_of_tables_are_masked() -> None:
    assert masked("┏━━━━┳━━┓  12.5% (3-4)") == "┏━┳━┓ #% (#-#)"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("    $ echo 3 crops\n    4 crops\n", None),
        ("    $ echo 3 crops\n    3 slides\n", "no longer prints"),
        ("    $ true\n    $ false\n", "ended with 1"),
        ("<!-- exits with: 1 -->\n    $ false\n", None),
        ("<!-- run first: touch given.txt -->\n    $ cat given.txt\n", None),
        ("<!-- run first: false -->\n    $ true\n", "ended with 1"),
        ("<!-- quick: true -->\n    $ false\n", None),
        ("<!-- not run: it would fail -->\n    $ false\n", None),
        ("    import glomedge_that_is_not_there\n", "ModuleNotFoundError"),
        ("    make no-such-target\n", "No rule to make target"),
        ("    make test demo   # words\n", None),
        ("    pip install '.[cpu,serve]'\n", None),
        ("    pip install '.[cpu,server]'\n", "no extra server"),
    ],
)
def test_a_page_that_says_something_false_fails(tmp_path: Path, text: str, problem: str | None) -> None:
    with sandbox(tmp_path, quick=True) as place:
        (found,) = [place.run(block) for block in _page(tmp_path, text)]
    assert (found is None) if problem is None else (found is not None and problem in found), found
