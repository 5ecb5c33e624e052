"""What the pages say of commands, flags and error codes, made of the program itself.

`python tests/reference_pages.py` writes both into batchgen/docs/.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from inspect import cleandoc
from pathlib import Path

import click

from batchgen.cli.main import cli
from batchgen.cli.run import run
from batchgen.errors import ErrorCode
from batchgen.job.run.row_advice import advice_for

DOCS = Path(__file__).parents[1] / "batchgen" / "docs"
_CODES = "| code | what to do |\n| --- | --- |\n"
_HEAD = """\
# Commands and flags

Each flag can also be set as `BATCHGEN_<FLAG>`: `--max-tokens 64` as `BATCHGEN_MAX_TOKENS=64`;
of a flag that repeats a variable holds one value a line.
`batchgen COMMAND --help` shows what matters, `--help-all` everything. What another command takes as
`run` takes it is only named there.
"""


def commands_page() -> str:
    """Every command with its help and its flags; those that are told of `run` by their names."""
    return "\n".join([_HEAD, *_sections(cli, click.Context(cli, info_name="batchgen"))])


def _sections(group: click.Group, context: click.Context) -> Iterator[str]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context)
        if isinstance(command, click.Group):
            yield from _sections(command, inner)
        else:
            yield _section(command, inner)


def _section(command: click.Command, context: click.Context) -> str:
    about = re.sub(
        r"\s*\x08\n(.*?)(?=\n\n|\Z)", _fenced, cleandoc(command.help or ""), flags=re.DOTALL
    )
    usage = " ".join(command.collect_usage_pieces(context)[1:])
    lines = [f"## {context.command_path} {usage}".rstrip(), "", about.strip(), ""]
    of_run = {} if command is run else _told(run, context)
    for heading, told in _told(command, context).items():
        same = of_run.get(heading, {})
        own = [line for names, line in told.items() if same.get(names) != line]
        named = [names for names, line in told.items() if same.get(names) == line]
        lines += [f"**{heading}**", ""] if heading else []
        lines += [*own, ""] if own else []
        lines += [f"As of `run`: {', '.join(named)}", ""] if named else []
    return "\n".join(lines)


def _told(command: click.Command, context: click.Context) -> dict[str, dict[str, str]]:
    """Heading -> the names of each flag -> what is said of it."""
    told: dict[str, dict[str, str]] = {}
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden and param.expose_value:
            long = [name for name in [*param.opts, *param.secondary_opts] if name[:2] == "--"]
            names = ", ".join(f"`{name}`" for name in long)
            told.setdefault(getattr(param, "section", ""), {})[names] = _line(param, context)
    return told


def _fenced(found: re.Match[str]) -> str:
    return f"\n\n```bash\n{found[1].strip()}\n```"


def _line(param: click.Option, context: click.Context) -> str:
    param.show_envvar = False  # `--help-all` in the same process turned it on
    record = param.get_help_record(context)
    assert record is not None
    return f"- `{record[0]}`: {record[1].replace('*', chr(92) + '*')}"


def error_codes() -> str:
    """A row for each error code, with what its message says to do."""
    return _CODES + "".join(f"| `{code}` | {_cell(advice_for(code))} |\n" for code in ErrorCode)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def with_codes(page: str) -> str:
    """The page with its table made anew."""
    begin = page.index(_CODES)
    return page[:begin] + error_codes() + page[page.index("\n\n", begin) + 1 :]


if __name__ == "__main__":
    (DOCS / "commands.md").write_text(commands_page(), encoding="utf-8")
    errors = DOCS / "errors.md"
    errors.write_text(with_codes(errors.read_text(encoding="utf-8")), encoding="utf-8")
