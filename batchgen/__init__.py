"""batchgen turns a file of prompts into a file of completions, unattended.

The public names load what they need when they are first used: importing batchgen imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.api.calls import generate, run
    from batchgen.api.llm import LLM
    from batchgen.api.result import Result
    from batchgen.engine.config import EngineConfig
    from batchgen.engine.request import Completion, Engine, Request, SamplingParams
    from batchgen.engine.run.factory import load_engine
    from batchgen.errors import BatchgenError
    from batchgen.job.run.summary import Summary
    from batchgen.job.spec import InputSpec, JobSpec

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "BatchgenError",
    "Completion",
    "Engine",
    "EngineConfig",
    "InputSpec",
    "JobSpec",
    "Request",
    "Result",
    "SamplingParams",
    "Summary",
    "__version__",
    "generate",
    "load_engine",
    "run",
]

_HOMES = {
    "LLM": "api.llm",
    "BatchgenError": "errors",
    "Completion": "engine.request",
    "Engine": "engine.request",
    "EngineConfig": "engine.config",
    "InputSpec": "job.spec",
    "JobSpec": "job.spec",
    "Request": "engine.request",
    "Result": "api.result",
    "SamplingParams": "engine.request",
    "Summary": "job.run.summary",
    "generate": "api.calls",
    "load_engine": "engine.run.factory",
    "run": "api.calls",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
    return getattr(import_module(f"batchgen.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
