"""Modules that a run on a CPU seldom uses run when they are first asked for something.

torch imports its optimizers, quantisation, loaders of data and some more with itself; most
processes take no more than their names. That is 200 of the modules that `import torch` runs, 25 MB
and nearly a second. A module of this kind lies in its place as ever, with its file and its path;
whoever asks it for an attribute, or imports a part of it, has it run first.
`importlib.util.LazyLoader` does the same, but before Python 3.12 two threads may run one module
twice.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any, TypeVar

__all__ = ["META", "LoadedModule", "or_whole", "ready_generators", "run_later", "wake"]

T = TypeVar("T")

META = "torch._meta_registrations"
"""What tensors without values answer, for operators that have nothing of it in C++: nobody asks
this module for an attribute, so whoever makes such tensors is to `wake` it."""
_NAMES = frozenset({
    META, "torch.ao", "torch.distributions", "torch.masked", "torch.mps", "torch.mtia",
    "torch.nn.intrinsic", "torch.nn.qat", "torch.nn.quantizable", "torch.nn.quantized",
    "torch.optim", "torch.profiler", "torch.quantization", "torch.quasirandom", "torch.sparse",
    "torch.testing", "torch.utils.data",
})  # fmt: skip
_APART = frozenset({"torch.distributions.constraints"})
"""Parts that need nothing of their package, and are imported without it."""
_waking = threading.RLock()


def run_later(names: frozenset[str] = _NAMES) -> None:
    """From now on, for modules that are not there yet. A version without one of them stays."""
    sys.meta_path.insert(0, _Finder(names))


def ready_generators(torch: ModuleType) -> None:
    """What `META` brings along is late by design to say of which class torch's generators of random
    numbers are, and there is none before. A version that knows it at once stays."""
    say = getattr(torch._C, "_set_generator_metaclass", None)
    if say is not None:
        say(import_module("torch._opaque_base").OpaqueBaseMeta)


def wake(*names: str) -> bool:
    """Run what of `names`, without any of all modules, is still to run; whether there was any."""
    asked = list(sys.modules.values()) if not names else map(sys.modules.get, names)
    found = [module for module in asked if isinstance(module, _Later)]
    for module in found:
        module.wake()
    return bool(found)


def or_whole(work: Callable[[], T]) -> T:
    """What `work` gives; should a version of torch need more of itself than is there, once more
    with all of it."""
    try:
        return work()
    except (RuntimeError, AttributeError, ImportError):
        if not wake():
            raise
    return work()


class _Later(ModuleType):
    """A module that has not run."""

    __later__: _RunsLater

    def wake(self) -> None:
        """Run it, once; whoever comes meanwhile waits, unless the module itself asks."""
        with _waking:
            if type(self) is not _Later or self.__later__.is_running:
                return
            self.__later__.is_running = True
            spec = self.__spec__
            assert spec is not None
            spec.loader = self.__loader__ = self.__later__.inner
            try:
                self.__later__.inner.exec_module(self)
            finally:
                self.__class__ = ModuleType  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if f"{self.__name__}.{name}" in _APART:
            return import_module(f"{self.__name__}.{name}")
        self.wake()
        if type(self) is _Later:  # it runs, and asks itself
            return super().__getattribute__(name)
        return getattr(sys.modules.get(self.__name__, self), name)

    def __dir__(self) -> Sequence[str]:
        self.wake()
        return [*vars(self)]


class _RunsLater(Loader):
    """Makes a module as `inner` does, and leaves it at that."""

    def __init__(self, inner: SourceFileLoader) -> None:
        self.inner = inner
        self.is_running = False

    def exec_module(self, module: ModuleType) -> None:
        """Not now."""
        module.__class__ = _Later
        vars(module)["__later__"] = self


class _Finder:
    """Finds the modules as ever. Who imports a part of one has the whole of it run first."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question."""
        package = sys.modules.get(name.rpartition(".")[0])
        if isinstance(package, _Later) and name not in _APART:
            package.wake()
            if name in sys.modules:
                return spec_from_loader(name, LoadedModule(sys.modules[name]))
        if name not in self._names:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _RunsLater(spec.loader)
        return spec


class LoadedModule(Loader):
    """Hands out a module that has run."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """It is there."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """It ran: what it says of itself stays as it was."""
        module.__spec__ = self._spec
