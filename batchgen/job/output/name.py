"""Which names an output may have: files that appear by a rename, and objects."""

from __future__ import annotations

import os
import re
from pathlib import Path

from batchgen.errors import OutputUnwritableError, UsageError
from batchgen.job.form import Form
from batchgen.job.storage.layout import FOLDER_MANIFEST, folder_of
from batchgen.job.stores.clients import SCHEMES
from batchgen.job.stores.files import temporary_path
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["check_apart", "check_name", "check_served"]

_MOST_NAME_BYTES = 255
"""Of a file on Linux's file systems."""
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # pathlib makes one slash of two
_OTHER_FORMATS = re.compile(
    r"\.(csv|tsv|jsonl?|ndjson|txt|xlsx?|arrow|feather|ipc|avro|orc|db|sqlite|pkl|pickle|npy|npz"
    r"|h5|hdf5|html|md|xml|ya?ml|gz|bz2|xz|zst|lz4|zip|tar)"
)


def check_name(out: Place) -> None:
    """Raise OutputUnwritableError where what has that name is no output, or can be none."""
    if isinstance(out, RemotePath):
        return
    if str(out) == "-":
        raise OutputUnwritableError(
            "--out -: the output appears whole, by a rename, so it cannot go to stdout",
            "name a file, such as out.parquet; `batchgen export out.parquet --format jsonl --to -` "
            "prints it afterwards",
        )
    _check_reachable(out)
    if out.exists() and not out.is_file() and not out.is_dir():
        raise OutputUnwritableError(
            f"the output {out} is a device or a pipe: it must appear whole, by a rename",
            "name a file",
        )
    if out.is_dir() and not (out / FOLDER_MANIFEST).exists():
        raise OutputUnwritableError(
            f"the output {out} is a folder", f"name a file, such as {out / 'out.parquet'}"
        )


def check_apart(out: Place, folder: Place) -> None:
    """Raise OutputUnwritableError where the checkpoint folder would take the output's own name."""
    if folder == out:
        text = f"--checkpoint-dir {folder} is the output itself"
        raise OutputUnwritableError(text, "name another folder, or leave it out")


def _check_reachable(out: Path) -> None:
    """What else would be met as a bare OSError, or once all is computed: links that lead nowhere, a
    folder that may not be looked into, a name that what is written beside it cannot have."""
    try:
        out.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        text = f"cannot write the output {out}: {error.strerror}"
        raise OutputUnwritableError(text, "name another place, or mend that one") from error
    target = Path(os.path.realpath(out))
    names = (temporary_path(target).name, folder_of(out).name)
    over = max(len(os.fsencode(name)) for name in names) - _MOST_NAME_BYTES
    if over > 0:
        most = len(os.fsencode(target.name)) - over
        text = f"the output's name is too long: {target.name}"
        raise OutputUnwritableError(
            text, f"give it {most} bytes at most: what it is made of has more"
        )


def check_served(out: Place) -> None:
    """Raise UsageError where the name asks for a place or a format that is not served.

    A name such as `s3://bucket/out.parquet` would make a local folder `s3:`.
    """
    scheme = None if isinstance(out, RemotePath) else _SCHEME.match(str(out))
    if scheme is not None:
        raise UsageError(
            f"--out {out}: {scheme[1]}:// is not a place that batchgen writes to",
            f"name a file on a mounted file system and copy it once the run is done, or an object "
            f"in one of {', '.join(f'{name}://' for name in SCHEMES)}",
        )
    ending = out.suffix.lower()
    if Form.of(out).kind != "jsonl" and _OTHER_FORMATS.fullmatch(ending):
        raise UsageError(
            f"--out {out}: the output is Parquet or JSONL, and {ending} is another format",
            f"name it {out.with_suffix('.parquet')}; `batchgen export` writes other formats",
        )
