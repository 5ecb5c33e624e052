"""The manifest of a job: what its completions depend on, how far it came, and how it ended.

One JSON file in the checkpoint folder, replaced whole. Standard library only: a rerun of a
finished job is decided from it in milliseconds. It holds no secret.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from batchgen.errors import FingerprintMismatchError
from batchgen.job.input_digest import InputCheckpoint
from batchgen.job.promise import with_changes
from batchgen.job.redaction import redacted
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.stores.files import Guard, read_current, unwritable, write_atomic
from batchgen.job.stores.places import Place

__all__ = ["Manifest", "fingerprint_diff", "flatten", "is_complete"]

MANIFEST_VERSION = 1
_RUNS_KEPT = 100
_ABSENT = "(absent)"


@dataclass(slots=True)
class Manifest:
    """One job. `fingerprint` is compared on resume; `facts` (device, versions) are only recorded.

    `job_id` also stands in the output's footer, which ties the file to this folder. `state` is
    `running` or `complete`; `output` is then the identity of the file that was written.
    """

    fingerprint: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    job_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    began: str = field(default_factory=lambda: datetime.now().isoformat("T", "microseconds"))
    """When, by the local clock of whoever began it: ISO 8601, the same in all shards and runs."""
    version: int = MANIFEST_VERSION
    state: str = "running"
    overwriting: bool = False
    """The job was begun with --overwrite: the same command again continues it."""
    generation: str = ""
    """Drawn when a job begins, and when finished work is taken up again: parts of another
    generation do not count, be they of the same settings."""
    reopened: str = ""
    """Why it was taken up again: `failed`, `truncated`, `incremental`; the same goes on with it."""
    replaces: str = ""
    """The job id of the output that stands until this generation's is whole."""
    input: InputCheckpoint | None = None
    total_rows: int | None = None
    totals: FinalReport | None = None
    output: dict[str, Any] | None = None
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The first failed row of each kind (`job.flow.first_failures`)."""
    runs: list[dict[str, Any]] = field(default_factory=list)
    form: dict[str, Any] = field(default_factory=dict)
    """What the output is on disk (`job.form.Form`); {}: as its name says."""

    @classmethod
    def read(cls, path: Place) -> Manifest | None:
        """The manifest at `path`; None where there is none. FingerprintMismatchError for one
        that is damaged, or of a newer batchgen, whose folder may mean something else."""
        try:
            with unwritable("the manifest", path.parent):
                text = read_current(path)
            if text is None:
                return None
            manifest = cls.from_json(text.decode())
            is_newer = manifest.version > MANIFEST_VERSION
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FingerprintMismatchError(
                f"the manifest {path} cannot be read: {error}",
                "remove the checkpoint folder, or start afresh with --overwrite",
            ) from error
        if is_newer:
            raise FingerprintMismatchError(
                f"{path.parent} is of a newer batchgen: its manifest has version "
                f"{manifest.version}, and this one reads {MANIFEST_VERSION}",
                "go on with the batchgen that began it, or write to another --out",
            )
        return manifest

    @classmethod
    def begun(cls, fingerprint: Mapping[str, Any], **values: Any) -> Manifest:
        """A job that begins now. What one before it left, of another input perhaps, is not its."""
        return cls(flatten(fingerprint), generation=uuid.uuid4().hex, **values)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """The inverse of `to_json`; unknown fields of later versions are ignored."""
        data = json.loads(text)
        known = {name.name for name in fields(cls)}
        manifest = cls(**{key: value for key, value in data.items() if key in known})
        if data.get("input"):
            sources = tuple(data["input"]["sources"])
            manifest.input = InputCheckpoint(
                data["input"]["rows_read"],
                data["input"]["digest"],
                sources,
                tuple((rows, mark) for rows, mark in data["input"].get("marks", ())),
                data["input"].get("row_sum", ""),
            )
        if data.get("totals"):
            manifest.totals = FinalReport(**data["totals"])
        return manifest

    def to_json(self) -> str:
        """The manifest as text."""
        failures = [_safe(failure) for failure in self.failures]
        data = asdict(self) | {"facts": _safe(self.facts), "input": self._safe_input()}
        data["failures"] = failures
        return json.dumps(data, indent=1, sort_keys=True, default=str)

    def write(self, path: Place, guard: Guard | None = None) -> None:
        """Replace the file at `path`, whole and durable."""
        write_atomic(path, self.to_json().encode(), "manifest", guard)

    def note_run(self, attempt: int, run_id: str, facts: dict[str, Any]) -> None:
        """Remember that a run with these facts begins; old ones are forgotten."""
        self.facts = with_changes(facts, [self.facts])
        self.runs.append({"attempt": attempt, "run_id": run_id, "started_at": time.time()})
        del self.runs[:-_RUNS_KEPT]

    def footer_json(self) -> str:
        """What the output's footer says of the job: no run, process or host."""
        names = ("version", "job_id", "began", "fingerprint", "facts", "total_rows")
        data = {name: getattr(self, name) for name in names}
        data |= {"facts": _safe(self.facts), "input": self._safe_input()}
        return json.dumps(data, sort_keys=True, default=str)

    def _safe_input(self) -> Any:
        return None if self.input is None else _safe(asdict(self.input))

    @property
    def is_complete(self) -> bool:
        """Whether its work is done: the output is there, or all rows of a shard are."""
        return self.state == "complete"

    @property
    def template_time(self) -> datetime:
        """What `strftime_now` tells templates: `--template-time`, else when the job began."""
        return datetime.fromisoformat(self.fingerprint.get("template_time", self.began))

    @property
    def job(self) -> str:
        """Fingerprint and generation in 16 letters: parts carry it."""
        text = json.dumps(flatten(self.fingerprint), sort_keys=True) + self.generation
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def birth(self) -> str:
        """The moment it began in 16 letters, the same in all its generations and shards: saved
        tokens carry it."""
        return hashlib.sha256(self.began.encode()).hexdigest()[:16]

    def check_fingerprint(self, fingerprint: Mapping[str, Any], where: Place) -> None:
        """Raise FingerprintMismatchError naming every field that differs."""
        lines = fingerprint_diff(self.fingerprint, fingerprint)
        rest = [line for line in lines if not line.startswith("model.")]
        if len(rest) < len(lines):  # two digests tell nobody anything
            name = self.facts.get("model", "another")
            lines = [f"model: was {name}; its files are not those of this one", *rest]
        if lines:
            raise FingerprintMismatchError(
                f"{where} was begun with other settings:\n  " + "\n  ".join(lines),
                "give the same settings again, or another --out, or --overwrite to start afresh",
            )


def is_complete(path: Place) -> bool:
    """Whether a manifest is there that says that its work is done."""
    manifest = Manifest.read(path)
    return manifest is not None and manifest.is_complete


def _safe(data: Mapping[str, Any]) -> Any:
    """The same without secrets. The fingerprint has none, and must stay as it is."""
    return json.loads(redacted(json.dumps(data, default=str)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level of dotted names; every value as JSON would give it back."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value, default=str))
    return flat


def fingerprint_diff(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Lines `sampling.temperature: 0.7 -> 0.9`, one a field that differs, sorted by name."""
    old, new = flatten(before), flatten(now)
    return [
        f"{name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]


def _shown(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return _ABSENT
    text = json.dumps(values[name], ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
