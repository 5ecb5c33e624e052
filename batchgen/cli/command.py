"""A command from its first word to its exit: every way out ends in one clear message and a
documented code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from batchgen.cli.main import cli
from batchgen.cli.process.allocator import settle_heaps, settle_pool
from batchgen.cli.process.leave import leave_at_once
from batchgen.cli.process.logs import hush_warnings
from batchgen.cli.process.streams import lasting_streams, silence
from batchgen.cli.process.threads import settle_waiting
from batchgen.errors import BatchgenError
from batchgen.job.redaction import redacted

__all__ = ["main"]

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the exit code (INTERFACE: Exit codes). Never raises."""
    settle_waiting()
    settle_pool()
    settle_heaps()
    if argv is None:
        hush_warnings()
    with lasting_streams():
        try:
            code = _call(argv)
            sys.stdout.flush()
            leave_at_once(code, own_process=argv is None)
            return code
        except BrokenPipeError:
            silence(sys.stdout)  # nobody reads any more, and the interpreter must not say so either
            return 0


def _call(argv: Sequence[str] | None) -> int:
    try:
        own_process = argv is None
        result = cli.main(argv, prog_name="batchgen", standalone_mode=False, obj=own_process)
        return result if isinstance(result, int) else 0
    except BatchgenError as error:
        _explain(error)
        return error.exit_code
    except click.ClickException as error:
        error.show(sys.stderr)
        _show_way_out(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("batchgen: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        print(redacted(traceback.format_exc()), end="", file=sys.stderr)
        text = redacted(f"batchgen: unexpected {type(error).__name__}: {error}")
        print(text, file=sys.stderr)
        print("  next: finished rows are kept; run the same command again", file=sys.stderr)
        return 1


def _show_way_out(error: click.ClickException) -> None:
    """What to do next about wrong words, beside click's own message."""
    command = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
    takes_files = command.endswith((" run", " validate", " preview", " plan"))
    if isinstance(error, click.MissingParameter) and takes_files:
        more = " --out out.parquet" if command.endswith(" run") else ""
        print(f"  next: {command} --in prompts.jsonl{more}", file=sys.stderr)
    elif isinstance(error, click.MissingParameter):
        print(f"  next: {command} --help shows an example", file=sys.stderr)
    elif command == "batchgen":
        print("  next: batchgen --help lists the commands; the first is run", file=sys.stderr)
    elif takes_files and "unexpected extra argument" in error.message:
        text = "give each file with --in; quote a pattern ('*.parquet') or a name with a space"
        print(f"  next: {text}", file=sys.stderr)
    elif isinstance(error, click.NoSuchOption) and takes_files:
        text = "lists every flag; `batchgen docs vllm` says what those of vLLM are called here"
        print(f"  next: {command} --help-all {text}", file=sys.stderr)
    elif isinstance(error, click.BadParameter) and command.endswith((" run", "validate")):
        print(f"  next: {command} --help-all says what each flag takes", file=sys.stderr)
    elif not command:  # click names the command's help wherever it can
        print("  next: batchgen COMMAND --help says what each flag takes", file=sys.stderr)


def _explain(error: BatchgenError) -> None:
    """What and where on one line, what to do next on another."""
    print(redacted(f"batchgen: {error.message}"), file=sys.stderr)
    if error.hint:
        print(redacted(f"  next: {error.hint}"), file=sys.stderr)
