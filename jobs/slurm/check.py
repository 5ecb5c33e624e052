"""Break batchgen's Slurm scripts on a real cluster and print a table: fault, outcome.

    python jobs/slurm/check.py                     # all that any cluster allows: about 8 minutes
    python jobs/slurm/check.py normal requeue      # some
    python jobs/slurm/check.py --rough             # test clusters of one machine: nodes are killed,
                                                   # jobs of others give way
    python jobs/slurm/check.py preempt_requeue     # some of these

Needs a folder that all nodes see (--folder), a queue that is free, and a time limit of 1 minute
that is kept. BATCHGEN names the command. What a cluster is not configured for is skipped, with the
reason. Exit code 1 when an outcome is not the promised one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from cases import CASES
from cluster import Cluster, Skipped, slurm
from rough_cases import ROUGH_CASES

ALL = CASES | ROUGH_CASES


def outcome_of(name: str, cluster: Cluster) -> tuple[str, bool]:
    """What became of a case, and whether it was as promised."""
    try:
        return ALL[name](cluster), True
    except Skipped as reason:
        cluster.cancel()
        return f"skipped: {reason}", True
    except (AssertionError, OSError, LookupError) as error:
        cluster.cancel()
        return f"WRONG: {type(error).__name__}: {error}", False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("case", nargs="*", choices=[*ALL, []], help="default: all but the rough")
    parser.add_argument("--rough", action="store_true", help="all, also on other people's jobs")
    parser.add_argument("--folder", type=Path, help="seen by all nodes; a new one is made in it")
    asked = parser.parse_args()
    slurm("sinfo")
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="batchgen-slurm-", dir=asked.folder)))
    failed = 0
    print("| fault | outcome | seconds |\n| --- | --- | --- |", flush=True)
    for name in asked.case or (ALL if asked.rough else CASES):
        started = time.monotonic()
        outcome, kept = outcome_of(name, cluster)
        failed += not kept
        print(f"| {ALL[name].__doc__} | {outcome} | {time.monotonic() - started:.0f} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
