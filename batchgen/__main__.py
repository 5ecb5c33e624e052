"""The `batchgen` command. Where Python's compiled modules are kept is settled before the first one
is imported."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from batchgen.startup.bytecode import begin_command
from batchgen.startup.interrupts import die_of_interrupts

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command of these words, or of this process; the exit code. Never raises."""
    if argv is None:
        die_of_interrupts()
        begin_command(sys.argv[1:])
    from batchgen.cli.command import main as run_command

    return run_command(argv)


if __name__ == "__main__":
    sys.exit(main())
