"""What a run amounted to: the one JSON object on stdout, and the sentences beside it on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from batchgen.errors import OutputUnwritableError, UsageError
from batchgen.job.input.source import Source, SourceKind, same_file
from batchgen.job.redaction import redacted
from batchgen.job.rows import FirstFailure
from batchgen.job.stores.places import Place

__all__ = ["TOO_MANY_FAILURES", "FailureLimit", "Summary", "check_beside", "write_summary"]

TOO_MANY_FAILURES = 3
"""Exit code of a complete output with more failed rows than were allowed."""


@dataclass(frozen=True, slots=True)
class Summary:
    """INTERFACE's keys, in its order. Rows and tokens are of the whole output, earlier runs
    included; times in seconds, rates, `computed` and `preemptions` are of this run.

    `rows` counts input rows that have their output: ok + errors + skipped = computed + reused.
    """

    out: str
    exit_code: int = 0
    rows: int = 0
    ok: int = 0
    errors: int = 0
    skipped: int = 0
    length: int = 0
    computed: int = 0
    reused: int = 0
    recomputed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    wall_s: float = 0.0
    load_s: float = 0.0
    engine_s: float = 0.0
    output_tokens_per_s: float = 0.0
    total_tokens_per_s: float = 0.0
    preemptions: int = 0
    oom_events: int = 0
    peak_memory_bytes: int = 0
    device: str = ""
    model: str = ""
    run_id: str = ""
    first_token_s: float = 0.0
    """From the command's start to the first token; `import_s` to `capture_s` say where it went.
    They may lie beside each other."""
    import_s: float = 0.0
    tokenizer_s: float = 0.0
    weights_s: float = 0.0
    proof_s: float = 0.0
    compile_s: float = 0.0
    capture_s: float = 0.0
    prefix_hit_rate: float = 0.0
    """Of the prompt tokens of this run's rows, those found in the cache."""
    truncated: int = 0
    """Prompts that this run cut to fit."""
    folded_rows: int = 0
    """Rows, or samples, that took the answer of an equal one."""
    shared_read_tokens: int = 0
    """Keys that decoding rows did not read themselves: one pass read them for several."""
    bound_by: str = ""
    """What this run's time went to: prefill, decode, host or input."""
    shard: str | None = None
    """`1/4` where rows and tokens are that shard's alone."""
    error_codes: dict[str, int] = field(default_factory=dict)
    """Of the failed rows, by code. For people, as is `failures`: not in the JSON."""
    failures: tuple[FirstFailure, ...] = ()
    """The first row of each kind that failed in this run, the commonest kind first."""

    def to_json(self) -> str:
        """One line."""
        values = asdict(self)
        for name in ("error_codes", "failures", *(["shard"] if self.shard is None else [])):
            del values[name]
        return redacted(json.dumps(values, ensure_ascii=False))

    def updated(self, numbers: dict[str, Any]) -> Summary:
        """The same with these fields."""
        return replace(self, **numbers)


@dataclass(frozen=True, slots=True)
class FailureLimit:
    """`--max-failures N` or `P%`: how many failed rows a successful run may have."""

    amount: float
    percent: bool

    @classmethod
    def parse(cls, text: str) -> FailureLimit:
        """`3`, `2.5%`. Raises UsageError for anything else."""
        number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
        try:
            amount = float(number) if percent else int(number)
        except ValueError:
            amount = -1
        if not 0 <= amount < float("inf") or (percent and amount > 100):
            raise UsageError(
                f"--max-failures {text!r} is neither a count nor a percentage",
                "write a whole number such as 10, or a share such as 0.5%",
            )
        return cls(amount, percent)

    def exit_code(self, failed: int, rows: int) -> int:
        """Of a complete output, `failed` of whose `rows` have no completion."""
        most = rows * self.amount / 100 if self.percent else self.amount
        return TOO_MANY_FAILURES if failed > most else 0


def check_beside(path: Path, flag: str, out: Place, sources: Iterable[Source]) -> None:
    """Before any work: raise OutputUnwritableError where a file that the flag names would replace
    the output or an input, or has no folder."""
    what = {"--summary": "the summary", "--metrics-file": "the metrics"}[flag]
    if not path.parent.is_dir():
        raise OutputUnwritableError(
            f"{what} {path} cannot be written: its folder is not there", "create the folder"
        )
    inputs = [source.path for source in sources if source.kind is not SourceKind.HUB]
    for other in [out, *inputs]:
        if same_file(path, other):
            raise OutputUnwritableError(
                f"{what} {path} is the {'output' if other is out else 'input'} {other}",
                f"write it to another file with {flag}",
            )


def write_summary(summary: Summary, path: Path) -> None:
    """Write `--summary FILE`. Raises OutputUnwritableError."""
    try:
        path.write_text(summary.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputUnwritableError(
            f"cannot write the summary {path}: {error.strerror or error}",
            "the output itself is complete; choose another --summary",
        ) from error
