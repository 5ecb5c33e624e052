"""`batchgen report`: what happened in a job, as a page, as JSON, or in the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.flags.place import PLACE
from batchgen.job.stores.places import Place

if TYPE_CHECKING:
    from batchgen.report.page.table import Table

__all__ = ["report"]


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=PLACE)
@flag(
    "--to",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The page to write. [default: OUT.html]",
)
@flag("--json", "as_json", is_flag=True, help="Print the figures as JSON; writes no page.")
@flag("--text", "as_text", is_flag=True, help="Draw it in the terminal; writes no page.")
@flag("--check", is_flag=True, help="Hold each figure of the page (or new ones) against OUT.")
@click.pass_context
def report(
    ctx: click.Context, out: Place, to: Path | None, as_json: bool, as_text: bool, check: bool
) -> None:
    """Show what happened in a finished job: one HTML page that needs no network. No torch.

    Throughput, slots (and what static batches would have been), latencies, lengths, failed rows,
    resumes, provenance. --check ends with 1 where a figure differs from the file.

    \b
    batchgen report out.parquet
    batchgen report out.parquet --text
    """
    from batchgen.cli.process.no_pandas import keep_pandas_out
    from batchgen.report.page.figures import figures_of
    from batchgen.report.page.html import embedded_figures, page_of
    from batchgen.report.page.table import read_table

    if ctx.obj is True:
        keep_pandas_out()
    table = read_table(out)
    page = to or Path(f"{out}.html" if isinstance(out, Path) else f"{out.name}.html")
    if check:
        there = page.exists()
        text = page.read_text(encoding="utf-8") if there else page_of(figures_of(table))
        ctx.exit(_checked(embedded_figures(text), table, str(page) if there else "the report"))
    figures = figures_of(table)
    if as_json:
        click.echo(json.dumps(embedded_figures(page_of(figures))))
    elif as_text:
        from batchgen.report.page.text import text_of

        click.echo("\n".join(text_of(figures)))
    else:
        _write(page, out, page_of(figures))
        click.echo(str(page))


def _write(page: Path, out: Place, text: str) -> None:
    from batchgen.errors import OutputUnwritableError
    from batchgen.job.input.source import same_file
    from batchgen.job.output.provenance import is_input_of

    if same_file(page, out):
        raise OutputUnwritableError(f"{page} is the output itself", "name another file with --to")
    if is_input_of(out, page):
        text = f"{page} is an input that {out} was made of"
        raise OutputUnwritableError(text, "name another file with --to")
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputUnwritableError(
            f"cannot write the report {page}: {error.strerror}", "name another file with --to"
        ) from error


def _checked(figures: dict[str, Any], table: Table, what: str) -> int:
    from batchgen.report.page.reconcile import reconciled

    found = list(reconciled(figures, table))
    wrong = [one for one in found if not one.agrees]
    for one in wrong:
        click.echo(f"{one.name}: {what} says {one.reported:,}, the file {one.found:,}")
    click.echo(f"{len(found)} figures, {len(wrong)} differ from {table.path}")
    return 1 if wrong else 0
