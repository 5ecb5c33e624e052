"""How many rows a second of the CPU the reader takes in: lines or tables to checked, digested rows.

`python jobs/bench_reader.py FILE... [--repeats 3]`: the median of so many passes over each file, as
`run` would read it without flags. It runs beside no engine, so nothing else is in the figure.
"""

from __future__ import annotations

import argparse
import statistics
import time

from batchgen.job.input.reader import Reader
from batchgen.job.spec import InputSpec


def rows_a_second(file: str) -> float:
    """Of one pass, by the CPU's clock."""
    reader = Reader(InputSpec((file,)))
    began = time.process_time()
    rows = sum(1 for _ in reader)
    return rows / (time.process_time() - began)


def main() -> None:
    """One line a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    for file in asked.files:
        median = statistics.median(rows_a_second(file) for _ in range(asked.repeats))
        print(f"{file}: {median:,.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
