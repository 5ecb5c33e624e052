"""A process that compiles no layer does without torch's compiler until somebody asks for it.

While transformers is imported it marks a few functions for the compiler, and so takes along 900
modules (SymPy among them) and 70 MB. A module that does the marking alone stands in its place; the
first one who asks it for anything else gets the real one, which is then told of what was marked.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from batchgen.startup.lazy_modules import META, LoadedModule, wake

__all__ = ["put_off_compiler"]

_NAME = "torch._dynamo"
_ALONE = frozenset({f"{_NAME}._trace_wrapped_higher_order_op"})
"""Parts of the package that need nothing of it."""

Function = Callable[..., Any]


def put_off_compiler(torch: ModuleType) -> None:
    """To be called once torch is imported, and before transformers is. Does nothing where the
    compiler is there already."""
    if _NAME in sys.modules or not torch.__file__:
        return
    waiting = _Waiting(torch.__file__.replace("__init__.py", "_dynamo"))
    sys.modules[_NAME] = vars(torch)["_dynamo"] = waiting
    sys.meta_path.insert(0, _Finder(waiting))


class _Waiting(ModuleType):
    """Stands for the compiler. Its decorators leave functions as they are."""

    def __init__(self, folder: str) -> None:
        super().__init__(_NAME)
        self.__path__ = [folder]
        self._told: list[Callable[[Any], object]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {_NAME!r} has no attribute {name!r}")
        return getattr(self._real(), name)

    def _real(self) -> ModuleType:
        """The compiler; from the first call on it has this module's place."""
        if sys.modules.get(_NAME) is not self:
            return importlib.import_module(_NAME)
        wake(META)
        del sys.modules[_NAME]
        real = importlib.import_module(_NAME)
        for name in filter(sys.modules.__contains__, _ALONE):
            setattr(real, name.rpartition(".")[2], sys.modules[name])
        for tell in self._told:
            tell(real)
        return real

    def assume_constant_result(self, function: Function) -> Function:
        """As the compiler's own."""
        vars(function)["_dynamo_marked_constant"] = True
        return function

    def allow_in_graph(self, function: Function) -> Function:
        """The compiler is told once it is there."""
        self._told.append(lambda real: real.allow_in_graph(function))
        return function

    def disable(self, function: Function | None = None, *args: Any, **options: Any) -> Any:
        """A function that is the compiler's own, disabled, once that is there."""
        if function is None:
            return lambda one: self.disable(one, *args, **options)
        runs = [function]

        @functools.wraps(function)
        def call(*given: Any, **named: Any) -> Any:
            return runs[0](*given, **named)

        def tell(real: Any) -> None:
            runs[0] = real.disable(function, *args, **options)
            real.eval_frame.skip_code(call.__code__)  # type: ignore[attr-defined]

        vars(call)["_torchdynamo_disable"] = True
        self._told.append(tell)
        return call


class _Finder:
    """Whoever imports another part of the compiler gets it from the real one."""

    def __init__(self, waiting: _Waiting) -> None:
        self._waiting = waiting

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question."""
        mine = name.startswith(f"{_NAME}.") and name not in _ALONE
        if not mine or sys.modules.get(_NAME) is not self._waiting:
            return None
        self._waiting._real()
        found = sys.modules.get(name)
        return None if found is None else spec_from_loader(name, LoadedModule(found))
