"""An interrupt while the command's own modules are imported ends it, as any other signal does.

Python raises KeyboardInterrupt wherever it is, and inside a callback of its import system the
error is ignored: the process would go on as if nobody had pressed Ctrl-C.
"""

from __future__ import annotations

import signal

__all__ = ["die_of_interrupts", "raise_interrupts"]

_dying = False


def die_of_interrupts() -> None:
    """For a process of our own, at its very start; one that ignores SIGINT goes on doing so."""
    global _dying
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _dying = True


def raise_interrupts() -> None:
    """Python's own way again, now that there may be something to clean up."""
    global _dying
    if _dying:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _dying = False
