"""Importing transformers without what a run never uses of it. Models and tokenizers are as ever.

Its `__init__` reads the 2,200 source files of its models, twice, to learn what they export: that is
kept between runs. Where scikit-learn, SciPy, torchvision and Pillow are installed it imports them
for losses, image processing and assisted decoding, 500 modules: they count as absent while it is
being imported, and as what they are from then on. Versions before 5.23 copy a tokenizer that was
just read, by way of JSON, for as long as reading it took, while no other thread can run.
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import marshal
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from threading import Event
from types import ModuleType, SimpleNamespace
from typing import Any

from batchgen.startup import quick_torch
from batchgen.startup.cached_answers import installation, kept, state_of
from batchgen.startup.lazy_hub import name_hub, put_off_hub

__all__ = ["QuickImports"]

_HELPERS = "transformers.utils.import_utils"
_TOKENIZERS = "transformers.tokenization_utils_tokenizers"
_NOT_USED = (
    "is_sklearn_available",
    "is_scipy_available",
    "is_torchvision_available",
    "is_vision_available",
    "is_torchaudio_available",
    "is_librosa_available",
    "is_psutil_available",
)
_LISTS = "replace_list_option_in_docstrings"
_REVERSE = "_reverse_config_mapping"
_NOT_USED_ALONE = "is_torch_distributed_available"
_NOT_USED_BY_FILES = "is_accelerate_available"


class QuickImports:
    """Changes a few modules right after they ran, if they are not there yet.

    `whole`: leave the optional packages as they are, for models that are more than text and for
    code that came with a model. For a process of our own: `done` ends the absence.
    """

    def __init__(self, *, whole: bool = False) -> None:
        self._whole = whole
        self._done, self._alone, self._is_file = Event(), Event(), Event()
        self._changes = {_HELPERS: self.change} | _CHANGES | quick_torch.CHANGES

    def install(self) -> None:
        """From now on. Does nothing where transformers is imported."""
        if "transformers" not in sys.modules:
            sys.meta_path.insert(0, self)

    def alone(self, *, is_file: bool = False) -> None:
        """To be called before transformers is imported: this process works with no other, and
        transformers never hears of torch's distributed tensors, which bring SymPy along.

        `is_file`: the model is a file that we load ourselves, without accelerate (and boto3, which
        that looks for).
        """
        if not self._whole:
            self._alone.set()
            if is_file:
                self._is_file.set()
                put_off_hub()

    def done(self) -> None:
        """transformers is imported: answer truly again."""
        self._done.set()
        if self._is_file.is_set():
            name_hub()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The import system's question: few modules are ours, found as ever, then changed."""
        change = self._changes.get(name)
        if change is None:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Loader(spec.loader.name, spec.loader.path, change)
        return spec

    def change(self, module: ModuleType) -> None:
        """Put the kept export lists and the absences in place; a version without them stays."""
        read = getattr(module, "create_import_structure_from_path", None)
        if read is not None:
            models = Path(str(module.__file__)).parents[1] / "models"
            vars(module)["create_import_structure_from_path"] = _kept_exports(read, models)
        for name in () if self._whole else _NOT_USED:
            if hasattr(module, name):
                setattr(module, name, self._absent_until_done(getattr(module, name)))
        for name, event in ((_NOT_USED_ALONE, self._alone), (_NOT_USED_BY_FILES, self._is_file)):
            if hasattr(module, name):
                setattr(module, name, _absent_once(event, getattr(module, name)))

    def _absent_until_done(self, ask: Callable[..., bool]) -> Callable[..., bool]:
        @functools.wraps(ask)
        def answer(*args: Any, **kwargs: Any) -> bool:
            return self._done.is_set() and ask(*args, **kwargs)

        return answer


def _absent_once(event: Event, ask: Callable[..., bool]) -> Callable[..., bool]:
    @functools.wraps(ask)
    def answer(*args: Any, **kwargs: Any) -> bool:
        return not event.is_set() and ask(*args, **kwargs)

    return answer


def share_tokenizers(module: ModuleType) -> None:
    """The module's `copy.deepcopy` hands back a Rust tokenizer itself: it was made for the copy's
    new owner alone. A version without it stays."""
    rust = getattr(module, "TokenizerFast", None)
    if not isinstance(rust, type) or getattr(module, "copy", None) is not copy:
        return

    def deepcopy(value: Any, *memo: Any) -> Any:
        return value if isinstance(value, rust) else copy.deepcopy(value, *memo)

    vars(module)["copy"] = SimpleNamespace(**vars(copy) | {"deepcopy": deepcopy})


def leave_lists_out(module: ModuleType) -> None:
    """Docstrings of the automatic classes keep the place where every model would be listed: 80 of
    them hold 0.8 MB."""
    if hasattr(module, _LISTS):
        vars(module)[_LISTS] = lambda *args, **kwargs: lambda function: function


def share_reverses(module: ModuleType) -> None:
    """The mappings from configs to classes, one a task, each turn one and the same table round: 40
    copies of it hold 1.4 MB. Nobody changes one. A version without them stays."""
    mapping: Any = getattr(module, "_LazyAutoMapping", None)
    if mapping is None:
        return
    make = mapping.__init__
    known: list[Any] = []

    @functools.wraps(make)
    def shared(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        own = vars(self).get(_REVERSE)
        if own not in known:
            known.append(own)
        vars(self)[_REVERSE] = known[known.index(own)]

    mapping.__init__ = shared


_CHANGES: dict[str, Callable[[ModuleType], None]] = {
    _TOKENIZERS: share_tokenizers,
    "transformers.models.auto.configuration_auto": leave_lists_out,
    "transformers.models.auto.auto_factory": share_reverses,
}


class _Loader(SourceFileLoader):
    """Runs a module as ever, then hands it to `change`."""

    def __init__(self, name: str, path: str, change: Callable[[ModuleType], None]) -> None:
        super().__init__(name, path)
        self._change = change

    def exec_module(self, module: ModuleType) -> None:
        """Run it."""
        with _kept_distributions():
            super().exec_module(module)
        self._change(module)


def _kept_exports(read: Callable[[Any], Any], models: Path) -> Callable[[Any], Any]:
    """`read` that knows what the models' folder exports."""
    known: list[bytes] = []

    def answer(path: Any) -> Any:
        place = Path(path)
        if (place.parent if place.suffix == ".py" else place) != models:
            return read(path)
        if not known:
            known.append(kept("exports", installation(models.parent, models), lambda: read(path)))
        return marshal.loads(known[0])

    return answer


@contextmanager
def _kept_distributions() -> Iterator[None]:
    """`packages_distributions` looks for every file of every installed package."""
    original = importlib.metadata.packages_distributions
    known: Callable[[], Any] = lambda: marshal.loads(  # noqa: E731
        kept("distributions", _places(), lambda: dict(original()))
    )
    importlib.metadata.packages_distributions = known
    try:
        yield
    finally:
        importlib.metadata.packages_distributions = original


def _places() -> list[object]:
    """The folders that packages are installed in: they change when one comes or goes. The folder
    where a command runs changes all the time."""
    folders = [entry for entry in sys.path if os.path.isdir(entry)]
    return [state_of(Path(entry)) for entry in folders if any(map(_tells, os.listdir(entry)))]


def _tells(name: str) -> bool:
    """Whether it describes an installed package."""
    return name.endswith((".dist-info", ".egg-info"))
