"""`batchgen export`: an output in another format."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TextIO

import click

from batchgen.cli.flags.flag import flag
from batchgen.cli.flags.grouped_command import CONTEXT_SETTINGS
from batchgen.cli.flags.place import PLACE
from batchgen.errors import OutputUnwritableError, UsageError
from batchgen.job.form import compression_of
from batchgen.job.stores.files import fsync
from batchgen.job.stores.places import Place

__all__ = ["export"]

_PATH = click.Path(path_type=Path)


@click.command(context_settings=CONTEXT_SETTINGS)
@click.argument("out", type=PLACE)
@flag("--format", "kind", type=click.Choice(["openai", "jsonl", "csv", "hf"]), default="openai",
      help="openai: the lines of OpenAI's batch API; hf: a folder for load_from_disk.")  # fmt: skip
@flag("--to", required=True, metavar="FILE|-", help="File (hf: folder) to write; - is stdout.")
@flag("--errors", type=_PATH, metavar="FILE", help="Failed rows go here. [default: with the rest]")
@flag("--follow", is_flag=True, help="Of a job that runs: write rows as they are done, in order.")
@flag("--checkpoint-dir", type=PLACE, help="As given to the run. [default: OUT.ckpt]")
def export(
    out: Place, kind: str, to: str, errors: Path | None, follow: bool, checkpoint_dir: Place | None
) -> None:
    """Write OUT in another format, in its own order.

    \b
    batchgen export out.parquet --format openai --to answers.jsonl --errors errors.jsonl
    """
    from batchgen.job.storage.layout import folder_of
    from batchgen.job.verbs.export import follow_openai, to_csv, to_jsonl, to_openai

    if follow and kind != "openai":
        raise UsageError(f"--follow writes OpenAI's lines, not {kind}", "leave it out")
    if kind in ("csv", "hf") and errors is not None:
        raise UsageError("--errors goes with lines of JSON", "take --format jsonl, or leave it out")
    _check_targets(out, to, errors)
    if kind == "hf":
        from batchgen.job.verbs.export_hf import to_hf

        return to_hf(out, Path(to))
    with ExitStack() as files:
        good = files.enter_context(_opened(to, whole=not follow))
        bad = good if errors is None else files.enter_context(_opened(str(errors), not follow))

        def write(line: str, failed: bool) -> None:
            file = bad if failed else good
            file.write(line + "\n")
            if follow:
                file.flush()

        if kind == "csv":
            to_csv(out, good)
        elif kind == "jsonl":
            to_jsonl(out, write)
        elif follow:
            follow_openai(out, folder_of(out, checkpoint_dir), write)
        else:
            to_openai(out, folder_of(out, checkpoint_dir), write)


def _check_targets(out: Place, to: str, errors: Path | None) -> None:
    from batchgen.job.output.provenance import is_input_of

    taken = [os.path.realpath(out) if isinstance(out, Path) else str(out)]
    for name in [to] * (to != "-") + [str(errors)] * (errors is not None):
        if os.path.realpath(name) in taken:
            text = f"{name} is named twice, or is the output itself"
            raise OutputUnwritableError(text, "name another file")
        if is_input_of(out, Path(name)):
            text = f"{name} is an input that {out} was made of"
            raise OutputUnwritableError(text, "name another file")
        taken.append(os.path.realpath(name))


def _written(path: Path, compression: str | None) -> TextIO:
    if compression is None:
        return path.open("w", encoding="utf-8", newline="")
    import pyarrow as pa

    stream = pa.output_stream(str(path), compression=compression)
    return io.TextIOWrapper(stream, encoding="utf-8", newline="")


@contextmanager
def _opened(name: str, whole: bool) -> Iterator[TextIO]:
    """stdout, or a file, compressed where its name says so; `whole`: it appears with its last
    line."""
    if name == "-":
        yield sys.stdout
        return
    path = Path(f"{name}.tmp-{os.getpid()}") if whole else Path(name)
    try:
        with _written(path, compression_of(name)) as file:
            yield file
        fsync(path)
        if whole:
            path.replace(name)
    except OSError as error:
        raise OutputUnwritableError(f"{name}: {error.strerror or error}", "name another") from error
    finally:
        if whole:
            path.unlink(missing_ok=True)
