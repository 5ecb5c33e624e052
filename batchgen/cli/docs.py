"""`batchgen docs`: the pages that ship in the package, where there is no network or clone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

import batchgen
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.screen.table import aligned
from batchgen.errors import UsageError

__all__ = ["docs"]

_FOLDER = Path(batchgen.__file__).parent / "docs"


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """Read the pages of this version; without PAGE, say which there are.

    A word that is no page is looked for in all of them.

    \b
    batchgen docs recipes
    batchgen docs prompt_too_long
    """
    pages = {path.stem: path.read_text(encoding="utf-8") for path in sorted(_FOLDER.glob("*.md"))}
    if page is None:
        titles = [(name, text.split("\n", 1)[0].removeprefix("# ")) for name, text in pages.items()]
        click.echo("\n".join([*aligned(titles), "batchgen docs PAGE shows one"]))
    elif page in pages:
        _show(pages[page])
    elif found := list(_mentions(page, pages)):
        click.echo("\n".join(found))
    else:
        raise UsageError(f"no page is named {page!r}, and none mentions it", "batchgen docs")


def _show(text: str) -> None:
    if sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        click.echo(text, nl=False)


def _mentions(word: str, pages: dict[str, str]) -> Iterator[str]:
    """`page:line: text` of every line that has the word, whatever its case."""
    for name, text in pages.items():
        for number, line in enumerate(text.splitlines(), 1):
            if word.lower() in line.lower():
                yield f"{name}:{number}: {line}"
