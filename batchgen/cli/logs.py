"""Where the library's log goes: stderr, in batchgen's name, as loud as the flags say."""

from __future__ import annotations

import logging
import os
import warnings

from batchgen.job.redaction import RedactingFormatter

__all__ = ["set_up_logs"]


def set_up_logs(*, quiet: bool, verbose: bool) -> None:
    """`-v` shows every decision and its reason; `-q` keeps libraries from talking on success."""
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("batchgen: %(message)s"))
    log = logging.getLogger("batchgen")
    log.addHandler(handler)
    log.propagate = False
    log.setLevel(logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING)
    for name in ("torchao", "torch.utils._pytree"):  # they talk while transformers imports them
        logging.getLogger(name).setLevel(logging.ERROR)
    if quiet:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        warnings.simplefilter("ignore")
