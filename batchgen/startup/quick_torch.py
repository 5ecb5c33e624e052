"""Importing torch's compiler without what most compilations never use of it.

It compiles 19 templates of matrix products and attention while it is imported: they wait until one
is used. Triton's digest of itself, which its caches and inductor's ask for, is kept between runs:
it reads 400 MB.
"""

from __future__ import annotations

import functools
import marshal
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from batchgen.startup.cached_answers import installation, kept
from batchgen.startup.lazy_hub import Later

__all__ = ["CHANGES", "delay_templates", "keep_triton_key"]


def keep_triton_key(module: ModuleType) -> None:
    """The module's `triton_key` remembers its answer for an installation that did not change."""
    ask = getattr(module, "triton_key", None)
    if ask is None:
        return
    package = Path(str(module.__file__)).parents[1]

    @functools.cache
    def triton_key() -> Any:
        libraries = sorted((package / "_C").glob("libtriton*"))
        return marshal.loads(kept("triton", installation(package, *libraries), ask))

    vars(module)["triton_key"] = triton_key


def delay_templates(module: ModuleType) -> None:
    """The module's templates are made when they are first used. A version without them stays."""
    owner = getattr(module, "KernelTemplate", None)
    make = getattr(owner, "_template_from_string", None)
    if owner is not None and make is not None and "jinja2" in sys.modules:
        owner._template_from_string = staticmethod(lambda source: Later(lambda: make(source)))


CHANGES: dict[str, Callable[[ModuleType], None]] = {
    "triton.runtime.cache": keep_triton_key,
    "torch._inductor.codegen.common": delay_templates,
}
"""Module -> what is done to it right after it ran."""
