"""The pages under ``docs/`` and the README: links lead somewhere, and the paths of the architecture page exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from glomedge.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "benchmarks" / "README.md", *(ROOT / "docs").glob("*.md")])
# Working papers that are not in this repository, and so must not be pointed to.
OUTSIDE = re.compile(r"\b(?:FACTS|FAULTS|DESIGN|HOUSE)\b|\busers.? (?:document|size|layout|range|data)\b|\(rows? \d")
_LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")


def _anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {"#" + re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text("utf-8")):
        if "://" in target:
            continue
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            assert anchor in _anchors(linked), f"{page.name} links to {target}{anchor}"


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name}" in index, f"docs/README.md does not list {page.name}"


def test_the_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) < 250
    assert any("Research use only" in line for line in lines[:10])


def _options() -> dict[str, set[str]]:
    """Every command's options, as its ``--help`` shows them."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]  # the app is a click group
    return {
        name: {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for name, command in commands.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_use_options_that_the_command_has(page: Path) -> None:
    options = _options()
    lines = [*re.findall(r"^ {4}(.*glomedge .*)$", text := page.read_text("utf-8"), re.MULTILINE)]
    lines += re.findall(r"`(glomedge [^`]+)`", text)
    for line in lines:
        for part in re.split(r"[;|]|&&", line.split("#")[0]):
            match = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?glomedge ([a-z-]+)\b(.*)", part)
            if match is None or match[1] not in options:
                continue
            used = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", match[2]))
            assert used <= options[match[1]] | {"--help"}, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_in_the_text_exist(page: Path) -> None:
    """An option at the beginning of a code span is glomedge's, unless the span names another program."""
    known = {"--help", "--version"}.union(*_options().values())
    scripts = "".join(path.read_text("utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    for option in re.findall(r"`(--[a-z][\w-]*)", page.read_text("utf-8")):
        assert option in known or f'"{option}"' in scripts, f"{page.name}: {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_page_points_to_a_document_outside_the_repository(page: Path) -> None:
    assert OUTSIDE.findall(page.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "folder",
    ["glomedge", "export", "benchmarks", "tests"],
)
def test_no_module_points_to_a_document_outside_the_repository(folder: str) -> None:
    for module in (ROOT / folder).rglob("*.py"):
        if module != Path(__file__).resolve():
            assert OUTSIDE.findall(module.read_text("utf-8")) == [], module


def test_the_walks_of_the_architecture_page_name_files_and_functions_that_exist() -> None:
    """A token with ``/`` or ``.py`` is a file; the names after it must be defined in that file."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    walks = {
        "The path of one crop": ROOT / "glomedge",
        "The path of one model": ROOT / "export" / "glomedge_export",
    }
    seen = 0
    for title, base in walks.items():
        section = text.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
        steps = section[section.index("\n1. ") :]
        current = base
        for token in re.findall(r"`([^`]+)`", steps):
            if "/" in token or token.endswith(".py"):
                current = (ROOT if token.startswith("glomedge/") else base) / token
                assert current.exists(), f"{token} in '{title}' does not exist"
            elif re.fullmatch(r"[A-Za-z_]\w*|[A-Z]\w*\.[a-z_]\w*", token) and current.suffix == ".py":
                source = current.read_text("utf-8")
                for name in token.split("."):
                    assert re.search(rf"^\s*(?:def|class) {name}\b", source, re.MULTILINE), f"{token} in {current}"
            seen += 1
    assert seen > 60


def test_the_table_of_where_to_add_names_files_that_exist() -> None:
    section = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("## Where to add", 1)[1]
    tokens = re.findall(r"`((?:glomedge|export|tests|benchmarks)/[\w/.]+)`", section)
    assert len(tokens) > 10
    for token in tokens:
        assert (ROOT / token).exists(), token
