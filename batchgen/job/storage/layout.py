"""Names in and beside the checkpoint folder.

OUT.parquet.ckpt/
  manifest.json  lock  owners/  begun-*.log  inflight-*.json     the job, and its unsharded runs
  parts/                                                         finished rows, of all runs
  shards/1of4/   (the same names)                                what shard 1/4 alone has
  lock-door  owners-door/                                        held while somebody comes in
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from batchgen.job.form import DEFAULT_FORM, Form
from batchgen.job.shard import Shard
from batchgen.job.stores.places import Place, matching, names_in
from batchgen.job.stores.remote_path import RemotePath

__all__ = [
    "FOLDER_MANIFEST",
    "JOURNALS",
    "PART_NAME",
    "SAVED_TOKENS",
    "Layout",
    "folder_of",
    "list_parts",
    "shard_of_part",
]

JOURNALS = "begun-*.log"
SAVED_TOKENS = "inflight-*.json"
PART_NAME = re.compile(
    r"^part-(?:(?P<label>\w+)-)?(?P<attempt>\d+)-(?P<seq>\d+)\.[0-9a-f]{8}\.parquet$"
)
FOLDER_MANIFEST = "_manifest.json"
"""In an output that is a folder: the job, and the files with their rows."""


def folder_of(out: Place, given: Place | None = None) -> Place:
    """The checkpoint folder of an output: beside it, or as `--checkpoint-dir` gave it."""
    return given or out.parent / f"{out.name}.ckpt"  # `.` has no name


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one run of a job works: `shard` None is a run of all rows, or the merge."""

    folder: Place
    out: Place
    shard: Shard | None = None
    form: Form = DEFAULT_FORM

    @property
    def target(self) -> Place:
        """What is really written: `out`, links followed."""
        return Path(os.path.realpath(self.out)) if isinstance(self.out, Path) else self.out

    @property
    def sign(self) -> Place:
        """What is there once the output is: the output; of a folder in a store its manifest."""
        is_folder = self.form.is_folder and isinstance(self.out, RemotePath)
        return self.target / FOLDER_MANIFEST if is_folder else self.target

    @property
    def record(self) -> Place:
        """Parquet that has the output's rows: the output, or what its lines of JSON are made of."""
        return self.folder / "output.parquet" if self.form.kind == "jsonl" else self.target

    @property
    def parts(self) -> Place:
        """Finished rows."""
        return self.folder / "parts"

    @property
    def damaged(self) -> Place:
        """Parts that were not what had been written, set aside."""
        return self.folder / "damaged"

    @property
    def manifest(self) -> Place:
        """The manifest of the job."""
        return self.folder / "manifest.json"

    @property
    def shards(self) -> Place:
        """What each shard has for itself."""
        return self.folder / "shards"

    @property
    def door_owners(self) -> Place:
        """Claims of whoever came in: there since the first run."""
        return self.folder / "owners-door"

    @property
    def used(self) -> tuple[Place, ...]:
        """What runs replace, move or remove."""
        return (self.manifest, self.parts, self.shards, self.damaged)

    @property
    def work(self) -> Place:
        """Lock, owners, journal, saved tokens and manifest of this run's own."""
        return self.folder if self.shard is None else self.shards / self.shard.label

    @property
    def own_manifest(self) -> Place:
        """The manifest that this run writes."""
        return self.work / "manifest.json"

    @property
    def label(self) -> str:
        """What this run's parts are called, beside attempt and number."""
        return "" if self.shard is None else self.shard.label

    @property
    def written_folders(self) -> tuple[tuple[Place, str], ...]:
        """(folder, what names begin with) where this run alone writes temporary files, beside the
        output."""
        if self.shard is not None:
            return (self.work, ""), (self.parts, f"part-{self.label}-")
        return (self.folder, ""), (self.parts, "")

    @property
    def whole(self) -> Layout:
        """The same job's, of all rows."""
        return replace(self, shard=None)

    def shards_begun(self) -> list[Layout]:
        """Every shard that ever came in, by count, then index."""
        found = [
            shard for name in names_in(self.shards) if (shard := Shard.of_label(name)) is not None
        ]
        found.sort(key=lambda shard: (shard.count, shard.index))
        return [replace(self, shard=shard) for shard in found]

    def others_with_my_rows(self) -> list[Layout]:
        """Runs of other shardings that may have begun, or finished, rows of this one."""
        mine = self.shard or Shard(0, 1)
        everyone = [self.whole, *self.shards_begun()]
        return [
            other
            for other in everyone
            if other.shard != self.shard and (other.shard or Shard(0, 1)).overlaps(mine)
        ]

    def journals_and_tokens(self) -> Iterator[Place]:
        """What runs of every sharding noted of rows that were in flight."""
        for layout in (self.whole, *self.shards_begun()):
            yield from layout.own_journals_and_tokens()

    def own_journals_and_tokens(self) -> Iterator[Place]:
        """The same of this run's own sharding."""
        yield from matching(self.work, JOURNALS)
        yield from matching(self.work, SAVED_TOKENS)


def list_parts(folder: Place, shard: Shard | None = None) -> list[Place]:
    """Committed parts that may have rows of the shard (None: all), by attempt and number."""
    found = [(m, name) for name in names_in(folder) if (m := PART_NAME.match(name))]
    if shard is not None:
        found = [(m, name) for m, name in found if shard.overlaps(_shard(m))]
    found.sort(key=lambda item: (int(item[0]["attempt"]), int(item[0]["seq"]), item[1]))
    return [folder / name for _, name in found]


def shard_of_part(path: Place) -> Shard:
    """The shard whose run wrote a part; 0/1: a run of all rows."""
    match = PART_NAME.match(path.name)
    assert match is not None, path
    return _shard(match)


def _shard(match: re.Match[str]) -> Shard:
    return Shard.of_label(match["label"] or "") or Shard(0, 1)
