"""Which names an output may have: files that appear by a rename, and objects."""

from __future__ import annotations

import re

from batchgen.errors import OutputUnwritableError, UsageError
from batchgen.job.form import Form
from batchgen.job.storage.layout import FOLDER_MANIFEST
from batchgen.job.stores.clients import SCHEMES
from batchgen.job.stores.places import Place
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["check_name", "check_served"]

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
    if out.exists() and not out.is_file() and not out.is_dir():
        raise OutputUnwritableError(
            f"the output {out} is a device or a pipe: it must appear whole, by a rename",
            "name a file",
        )
    if out.is_dir() and not (out / FOLDER_MANIFEST).exists():
        raise OutputUnwritableError(
            f"the output {out} is a folder", f"name a file, such as {out / 'out.parquet'}"
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
