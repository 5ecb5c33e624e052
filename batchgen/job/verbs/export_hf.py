"""An output as a folder that `datasets.load_from_disk` reads."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError, OutputUnwritableError, UsageError
from batchgen.job.form import Form
from batchgen.job.output.written import output_files
from batchgen.job.stores.failures import ChangedError
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place, opened, place_of
from batchgen.job.verbs.row_files import not_written

__all__ = ["to_hf"]

_COPY_BYTES = 8 << 20


def to_hf(out: Place, folder: Path) -> None:
    """Write every row of a finished output as `folder`, which appears whole and must not be there.

    Raises InputUnreadableError, OutputUnwritableError, and UsageError for a folder in a store.
    """
    if not isinstance(place_of(str(folder)), Path):
        text = f"--to {folder}: the folder is written on a disk, not into an object store"
        raise UsageError(text, "name a local folder, and copy it from there")
    if folder.exists():
        raise OutputUnwritableError(f"{folder} is there already", "name a new folder, or remove it")
    import datasets

    datasets.disable_progress_bars()
    work = temporary_path(folder)
    is_jsonl = Form.of(out).kind == "jsonl"
    read = datasets.Dataset.from_json if is_jsonl else datasets.Dataset.from_parquet
    try:
        names = [str(path) for path in _local_files(out, work / "fetched")]
        rows = read(names, cache_dir=str(work / "cache"))
        rows.save_to_disk(str(work / "whole"))
        os.rename(work / "whole", folder)
    except datasets.exceptions.DatasetsError as error:
        cause = error.__cause__ or error
        text = f"datasets cannot take {out}: {first_line(cause)}"
        raise InputUnreadableError(text, "give the output of a finished run") from error
    except FileNotFoundError as error:
        raise not_written(out, out) from error
    except ChangedError as error:
        text = f"{error} was written anew while it was read"
        raise InputUnreadableError(text, "export it again") from error
    except OSError as error:
        text = f"cannot write {folder}: {error.strerror or error}"
        raise OutputUnwritableError(text, "name another folder") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _local_files(out: Place, fetched: Path) -> Iterator[Path]:
    """Its Parquet files or lines; of objects copies in the folder, since datasets reads files."""
    for place in output_files(out):
        if isinstance(place, Path):
            yield place
            continue
        fetched.mkdir(parents=True, exist_ok=True)
        with opened(place) as source, (fetched / place.name).open("wb") as copy:
            shutil.copyfileobj(source, copy, _COPY_BYTES)
        yield fetched / place.name
