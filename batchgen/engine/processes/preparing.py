"""What a process of our own begins as soon as it is known that a model will run in it: imports, the
device's context, reading of weights, compiling. The command's process does, and each engine's."""

from __future__ import annotations

import gc
import linecache
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

from batchgen.engine.config import EngineConfig, ModelFacts
from batchgen.engine.cuda.kernel_shapes import kernel_shapes
from batchgen.startup import timeline
from batchgen.startup.ahead import Gpu, find_gpu, read_ahead
from batchgen.startup.importing import absent, importing
from batchgen.startup.kernels import compile_kernels
from batchgen.startup.lazy_modules import ready_generators, run_later, wake
from batchgen.startup.quick_transformers import QuickImports
from batchgen.startup.torch_compiler import put_off_compiler

__all__ = ["prepare_engine", "prepare_tokenizer"]

_OTHER_SENSES = ("vision_config", "audio_config", "speech_config", "video_config")


def prepare_tokenizer(model: Mapping[str, Any]) -> None:
    """For a process that loads nothing else: quick imports are all there is to begin. `model`: its
    config.json."""
    QuickImports(whole=_is_more_than_text(model)).install()


def prepare_engine(config: EngineConfig, facts: ModelFacts) -> None:
    """Begin; whoever imports torch then does so under `importing`. Never raises: whoever needs the
    result does the work again and says what is wrong."""
    quick = QuickImports(whole=config.trust_remote_code or _is_more_than_text(facts.config))
    quick.install()
    os.environ.setdefault("CUDA_MODULE_LOADING", "LAZY")  # as torch does; in time for the driver
    taken = threading.Event()
    _begin("imports", lambda: _import(config, facts, quick, taken))
    taken.wait()
    _begin("ahead", lambda: _work_ahead(config, facts))


def _begin(name: str, work: Callable[[], object]) -> None:
    threading.Thread(target=work, name=f"batchgen-{name}", daemon=True).start()


def _is_more_than_text(model: Mapping[str, Any]) -> bool:
    return any(key in model for key in _OTHER_SENSES)


def _import(
    config: EngineConfig, facts: ModelFacts, quick: QuickImports, taken: threading.Event
) -> None:
    with suppress(Exception):
        with importing, timeline.span("imports"), _nothing_to_collect():
            taken.set()
            try:
                _import_engine(config, facts, quick)
            finally:
                quick.done()
        _import_compilers(config)


@contextmanager
def _nothing_to_collect() -> Iterator[None]:
    """Imports make 400,000 objects that stay. A collection that looks through them takes 0.2 s, and
    the compiler asks for one."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _import_engine(config: EngineConfig, facts: ModelFacts, quick: QuickImports) -> None:
    """The engine, and transformers' classes of this model's type."""
    is_alone = config.tensor_parallel == 1 and not config.trust_remote_code
    if is_alone and (config.device == "cpu" or find_gpu(config.device) is None):
        run_later()
    with timeline.span("torch"):
        import torch
    on_cpu = config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available())
    if on_cpu:
        _begin("kernels", _load_kernels)
        if is_alone:
            put_off_compiler(torch)
            ready_generators(torch)
            quick.alone(is_file=config.model.is_file())
    else:
        wake()
        _begin("device", lambda: _warm_device(config))
    with absent("triton") if on_cpu else nullcontext():  # torch's compiler takes it along, 70 MB
        import transformers

        import batchgen.engine.run.factory  # noqa: F401
        from batchgen.engine.memory import give_back_loaded

    with suppress(KeyError):  # a type that is no name of a class: code of its own, a GGUF's
        own = transformers.CONFIG_MAPPING[str(facts.config.get("model_type"))]
        transformers.MODEL_FOR_CAUSAL_LM_MAPPING[own]
    if not config.model.is_file():  # whose vocabulary is read without it
        assert transformers.AutoTokenizer is not None
    if on_cpu:
        linecache.clearcache()  # sources of what transformers documents while it is imported
        give_back_loaded(torch.device("cpu"))


def _import_compilers(config: EngineConfig) -> None:
    """On CUDA, beside the loading of weights: what compiles layers and kernels, and the digests of
    torch and Triton by which they find what they compiled before. Both remember theirs."""
    import torch

    if config.device == "cpu" or config.enforce_eager or not torch.cuda.is_available():
        return
    with timeline.span("import compilers"):
        import torch._inductor.compile_fx
        import triton  # noqa: F401
        from torch._inductor.codecache import CacheBase, torch_key

    with timeline.span("compilers' digests"):
        CacheBase.get_system()
        torch_key()


def _load_kernels() -> None:
    """On a CPU: compiled on the first run, in processes of the compiler's own."""
    from batchgen.engine.kernels.build import load_kernels

    with timeline.span("CPU kernels"):
        load_kernels()


def _warm_device(config: EngineConfig) -> None:
    """On CUDA, beside the imports that follow torch's."""
    import torch

    from batchgen.engine.cuda.warm_up import warm_device

    with suppress(Exception), timeline.span("warm device"):
        warm_device(torch.device("cuda" if config.device == "auto" else config.device))


def _work_ahead(config: EngineConfig, facts: ModelFacts) -> None:
    with suppress(Exception):
        gpu = find_gpu(config.device)
        if gpu is not None:
            if gpu.is_shared and config.attention_backend != "reference":
                _compile_kernels(config, facts, gpu)
            gpu.make_context()
        read_ahead(facts.weights)


def _compile_kernels(config: EngineConfig, facts: ModelFacts, gpu: Gpu) -> None:
    shapes = kernel_shapes(
        facts.config,
        dtype=config.dtype,
        kv_cache_dtype=config.kv_cache_dtype,
        block_size=config.block_size,
    )
    if shapes is not None:
        compile_kernels(shapes, config.device, gpu.capability)
