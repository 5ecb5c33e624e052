"""The pages stay true: commands and flags are all there and exist, links lead somewhere; and
`batchgen docs` shows them."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

import click
import pytest
import reference_pages
from click.testing import CliRunner

from batchgen.cli.command import main
from batchgen.cli.main import COMMANDS, cli
from batchgen.errors import ErrorCode

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "batchgen" / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
OTHERS_FLAGS = re.compile(
    r"python -m pytest[^\n`]*|(?:sbatch|srun|jq|pip|npm|scontrol|scancel) [^\n`]*"
)
pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def commands() -> dict[str, click.Command]:
    """`run`, `ray run`, ... -> the command."""
    found: dict[str, click.Command] = {}
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found |= {f"{name} {inner}": one for inner, one in command.commands.items()}
        else:
            found[name] = command
    return found


@cache
def flags() -> frozenset[str]:
    spelled = {
        spelling
        for command in commands().values()
        for param in command.params
        for spelling in [*param.opts, *param.secondary_opts]
    }
    return frozenset({one for one in spelled if one.startswith("--")} | {"--help", "--version"})


@pytest.mark.parametrize("name", commands())
def test_every_command_and_flag_of_help_all_stands_on_a_page(name: str) -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    section = re.search(
        rf"^## batchgen {name}[ \n](.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE
    )
    assert section is not None, "python tests/reference_pages.py writes the page anew"
    words = name.split()
    shown = CliRunner().invoke(cli, [*words, "--help-all"])
    if shown.exit_code:
        shown = CliRunner().invoke(cli, [*words, "--help"])
    told = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", shown.output)) - {"--help", "--help-all"}
    assert told - set(re.findall(r"--[a-z][a-z0-9-]*", section[1])) == set()


def test_the_page_of_commands_is_what_the_program_says() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    made = reference_pages.commands_page()
    assert text.split() == made.split(), "python tests/reference_pages.py writes it anew"


def test_every_error_code_stands_on_a_page_with_what_to_do() -> None:
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    assert text == reference_pages.with_codes(text), "python tests/reference_pages.py writes it"
    assert all(f"| `{code}` |" in text for code in ErrorCode)


@pages
def test_every_flag_and_command_that_is_named_exists(page: Path) -> None:
    text = re.sub(r"```(?!bash).*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    known = set(flags())
    for script in set(re.findall(r"python (jobs/\S+\.py)", text)):
        known |= set(re.findall(r'"(--[a-z][a-z0-9-]*)"', (ROOT / script).read_text()))
    text = OTHERS_FLAGS.sub("", text)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)) - known == set()
    for name in re.findall(r"^batchgen ([a-z]+) ", text, flags=re.MULTILINE):
        assert name in COMMANDS


@pages
def test_every_linked_file_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!http)[^)#\s]+)\)", text):
        assert (page.parent / target).exists(), target
    for target in re.findall(r"`((?:jobs|tests|sample_data|batchgen)/[\w./-]+)`", text):
        assert (ROOT / target).exists(), target


def test_the_readme_links_every_page() -> None:
    text = PAGES[0].read_text(encoding="utf-8")
    assert [page.name for page in PAGES[1:] if f"](batchgen/docs/{page.name})" not in text] == []


def test_the_pages_ship_in_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "docs/*.md" in project["tool"]["setuptools"]["package-data"]["batchgen"]


def test_docs_lists_shows_and_searches_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["docs"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {page.stem} " in listed for page in PAGES[1:])
    assert main(["docs", "errors"]) == 0
    assert capsys.readouterr().out == (DOCS / "errors.md").read_text(encoding="utf-8")
    assert main(["docs", "PROMPT_too_long"]) == 0
    assert "errors:" in capsys.readouterr().out


def test_docs_says_what_to_do_about_a_word_that_is_nowhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["docs", "xyzzy"]) == 2
    told = capsys.readouterr().err
    assert "xyzzy" in told
    assert "next: batchgen docs" in told
