"""Python keywords as the command line's flags: one parser, so that both mean the same.

`max_tokens=5` is `--max-tokens 5`; a flag that repeats takes a list; a JSON flag takes an object.
Environment names (`BATCHGEN_...`) count as they do for the command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from typing import Any

import click

from batchgen.cli.flags.flag import Flag
from batchgen.cli.flags.job import job_spec
from batchgen.cli.flags.other_names import answer_for
from batchgen.cli.run import run as run_command
from batchgen.errors import UsageError
from batchgen.job.spec import JobSpec

__all__ = ["spec_of_job", "spec_of_llm"]

_LLM_SECTIONS = ("Model", "Sampling", "Engine")
_OF_ROWS = {
    "adapters",
    "as_chat",
    "chat_template_kwargs",
    "id_column",
    "ignore_model",
    "keep_columns",
    "messages_column",
    "overlong",
    "prompt_column",
    "row_timeout",
    "save_prompt",
    "served_model_names",
    "system",
    "template",
}
"""Of the other sections, what says how a row is read or answered."""


def spec_of_job(keywords: Mapping[str, Any]) -> JobSpec:
    """The job that `batchgen run` makes of these flags. UsageError names what is wrong."""
    return job_spec(_parsed(keywords, _flags()))


def spec_of_llm(keywords: Mapping[str, Any]) -> JobSpec:
    """The same for an engine that is given rows, not files. UsageError for a flag of files."""
    flags = _flags()
    fit = {name: f for name, f in flags.items() if _is_of_llm(f)}
    for name in keywords.keys() - fit.keys():
        if name in flags:
            hint = "batchgen.run(inputs=..., out=...) is the job over files"
            raise UsageError(f"{name} is an option of jobs over files, not of LLM", hint)
    parsed = _parsed(keywords, fit, {"inputs": "-", "out": "-"})
    return replace(job_spec(parsed | {"shard": "none"}), save_token_ids=True)


def _is_of_llm(flag: Flag) -> bool:
    return flag.name in _OF_ROWS or flag.section.startswith(_LLM_SECTIONS)


def _flags() -> dict[str, Flag]:
    """Every spelling of every flag of `run`, as a Python name."""
    found: dict[str, Flag] = {}
    for flag in run_command.params:
        if isinstance(flag, Flag):
            spellings = [*flag.opts, *flag.secondary_opts, str(flag.name)]
            names = {s.lstrip("-").replace("-", "_") for s in spellings if len(s) > 2}
            found |= dict.fromkeys(names, flag)
    return found


def _parsed(
    keywords: Mapping[str, Any], flags: Mapping[str, Flag], fixed: Mapping[str, str] | None = None
) -> dict[str, Any]:
    words = [f"{_flags()[name].opts[0]}={value}" for name, value in (fixed or {}).items()]
    for name, value in keywords.items():
        if name not in flags:
            raise UsageError(f"unknown option {name!r}{_guess(name, flags)}", _SEE)
        words += _words(name, flags[name], value)
    try:
        context = run_command.make_context("run", words)
    except click.ClickException as error:
        raise UsageError(error.format_message(), _SEE) from None
    return dict(context.params)


_SEE = "options have the names of the flags: see `batchgen run --help-all`"


def _guess(name: str, flags: Iterable[str]) -> str:
    answer = answer_for(f"--{name}")
    if answer is not None:
        return answer
    near = get_close_matches(name, list(flags), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _words(name: str, flag: Flag, value: Any) -> list[str]:
    """What would be typed for this keyword; nothing where it says nothing."""
    if value is None:
        return []
    on, off = f"--{name.replace('_', '-')}", flag.secondary_opts
    if on not in flag.opts:
        on = next(spelling for spelling in flag.opts if spelling.startswith("--"))
    if flag.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{name} must be True or False, not {value!r}", _SEE)
        return [on] if value else off[:1]
    if flag.multiple:
        several = value if isinstance(value, list | tuple) else [value]
        if flag.name == "inputs":
            _check_names(name, several)
        return [f"{on}={_text(one)}" for one in several]
    return [f"{on}={_text(value)}"]


def _check_names(name: str, given: Iterable[Any]) -> None:
    """Rows in place of files would be looked for as a file of that name."""
    for one in given:
        if not isinstance(one, str | PathLike):
            text = f"{name} takes names of files, and this is a {type(one).__name__}"
            hint = "rows themselves go to LLM(...).generate(rows), or into a file first"
            raise UsageError(text, hint)


def _text(value: Any) -> str:
    """A value as it would be typed."""
    if isinstance(value, str | Path):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return json.dumps(value) if isinstance(value, Mapping) else str(value)
