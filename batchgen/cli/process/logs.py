"""Where the library's log goes: stderr, in batchgen's name, as loud as the flags say."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from batchgen.job.redaction import RedactingFormatter

__all__ = ["hush_libraries", "hush_warnings", "set_up_logs"]

_LEVELS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TORCH_LOGS": "-all",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
"""Of libraries that log on handlers of their own, here and in child processes; a user's setting
stays."""


def set_up_logs(*, quiet: bool, verbose: bool, as_json: bool = False) -> None:
    """`-v` shows every decision and its reason, and lets libraries talk; `-q` keeps to errors."""
    text: logging.Formatter = RedactingFormatter("batchgen: %(message)s")
    if as_json:
        from batchgen.cli.process.json_log import JsonFormatter, begin_json_log

        begin_json_log()
        text = JsonFormatter("%(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(text)
    log = logging.getLogger("batchgen")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    for name in ("torchao", "torch.utils._pytree"):  # they talk while transformers imports them
        logging.getLogger(name).setLevel(logging.ERROR)
    if verbose:
        _hear_warnings()
    else:
        hush_libraries()


def hush_libraries() -> None:
    """Keep to their errors what libraries log; before they are imported."""
    for name, level in _LEVELS.items():
        os.environ.setdefault(name, level)
    logging.getLogger().addHandler(logging.NullHandler())  # else Python prints what nobody handles


def hush_warnings() -> None:
    """Keep Python's warnings off the terminal: all are of dependencies, and help a user little.

    What the user asked of Python itself (`-W`, PYTHONWARNINGS) stays.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _hear_warnings() -> None:
    """Undo `hush_warnings`."""
    if not sys.warnoptions:
        warnings.simplefilter("default")
