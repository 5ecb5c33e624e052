"""The command group: each command is imported when it is called, so that `--help` stays quick."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module

import click

from batchgen import __version__
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.startup.interrupts import raise_interrupts

__all__ = ["cli"]

COMMANDS = {
    "run": "Generate a completion for every row.",
    "validate": "Check every row of an input without a model run.",
    "plan": "Say what a run would cost.",
    "preview": "Show prompts as the model will see them.",
    "status": "Say how far a run is.",
    "inspect": "Show rows of an output; say what can be served.",
    "diff": "Compare two outputs.",
    "ray": "Run a job on a Ray cluster.",
    "merge": "Join the shards of an output.",
    "export": "Write an output in another format.",
    "report": "Write a report of an output.",
    "bench": "Measure the engine.",
    "selftest": "Prove on this machine that no row is lost.",
    "doctor": "Look at this machine.",
    "docs": "Read the pages of this version.",
}
"""Name -> one line; each lives in `batchgen.cli.NAME` as a click command NAME."""


class LazyGroup(click.Group):
    """Lists commands from a table and imports the one that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; None for a name that is not there."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"batchgen.cli.{cmd_name}"), cmd_name)
        raise_interrupts()
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or fail with the nearest names."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            near = get_close_matches(args[0], self.list_commands(ctx))
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _print_versions(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Versions of what decides a completion, from metadata: nothing heavy is imported."""
    if not value or ctx.resilient_parsing:
        return
    from importlib.metadata import version

    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "pyarrow")
    )
    click.echo(f"batchgen {__version__} ({libraries})")
    ctx.exit()


@click.group(cls=LazyGroup, context_settings=CONTEXT_SETTINGS)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_versions,
    help="Show versions and exit.",
)
def cli() -> None:
    """Turn a file of prompts into a file of completions, unattended.

    \b
    batchgen run --in prompts.jsonl --out out.parquet
    """
