"""An output as a folder that `datasets.load_from_disk` reads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError, OutputUnwritableError, UsageError
from batchgen.job.form import Form
from batchgen.job.storage.output_folder import output_files
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place

__all__ = ["to_hf"]


def to_hf(out: Place, folder: Path) -> None:
    """Write every row of a finished output as `folder`, which appears whole and must not be there.

    Raises InputUnreadableError, OutputUnwritableError, and UsageError for an object in a store.
    """
    if not isinstance(out, Path):
        raise UsageError(f"{out} is in an object store: datasets reads files", "copy it here first")
    if folder.exists():
        raise OutputUnwritableError(f"{folder} is there already", "name a new folder, or remove it")
    import datasets

    datasets.disable_progress_bars()
    work = temporary_path(folder)
    names = [str(path) for path in output_files(out)]
    is_jsonl = Form.of(out).kind == "jsonl"
    read = datasets.Dataset.from_json if is_jsonl else datasets.Dataset.from_parquet
    try:
        rows = read(names, cache_dir=str(work / "cache"))
        rows.save_to_disk(str(work / "whole"))
        os.rename(work / "whole", folder)
    except datasets.exceptions.DatasetsError as error:
        cause = error.__cause__ or error
        text = f"datasets cannot take {out}: {first_line(cause)}"
        raise InputUnreadableError(text, "give the output of a finished run") from error
    except FileNotFoundError as error:
        raise InputUnreadableError(f"{out} is not there", "check the name") from error
    except OSError as error:
        text = f"cannot write {folder}: {error.strerror or error}"
        raise OutputUnwritableError(text, "name another folder") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
