"""Which causal language models of the installed transformers are served: each is tried, tiny.

What a run's loader does is done here: discovery, limits and proof, on random weights.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.configuration_utils import ALLOWED_LAYER_TYPES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from batchgen.causes import first_line
from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.checkpoint.quiet import quietly
from batchgen.engine.run.loader import load_model_from
from batchgen.errors import ModelRefusedError, UsageError
from batchgen.report.tiny_configs import mixed_configs, tiny_configs

__all__ = ["TypesReport", "Verdict", "report_types"]

PROVEN, REFUSED, UNTRIED = "proven", "refused", "untried"
_PLAIN_LAYERS = ("full_attention", "sliding_attention")
_MOST_PARAMETERS = 100_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """`outcome`: proven, refused, or untried where no tiny model could be built; `reason`: why not
    proven, or what limits it."""

    model_type: str
    class_name: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class TypesReport:
    """All verdicts, with the versions that they hold for."""

    transformers: str
    torch: str
    counts: dict[str, int]
    types: list[Verdict]


def report_types(
    names: Sequence[str] = (), say: Callable[[Verdict], None] | None = None
) -> TypesReport:
    """Try each type named, or all; `say` hears each verdict as it falls. Raises UsageError."""
    known = sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known)
            raise UsageError(
                f"transformers {transformers.__version__} has no causal language model type "
                f"{name!r}",
                f"did you mean {' or '.join(near)}?" if near else "leave it out to list all",
            )
    verdicts = []
    for name in names or known:
        with quietly(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdicts.append(try_type(name))
        if say is not None:
            say(verdicts[-1])
    counts = dict(Counter(verdict.outcome for verdict in verdicts).most_common())
    return TypesReport(transformers.__version__, torch.__version__, counts, verdicts)


def try_type(model_type: str) -> Verdict:
    """Build tiny models of the type until one is proven; else what came of the first that runs by
    itself, or the first error where none does."""
    class_name = _class_name(model_type)
    refused, failed = "", ""
    try:
        kind = CONFIG_MAPPING[model_type]
        for config in tiny_configs(kind):
            attempt = _attempt(config)
            if attempt.outcome == PROVEN:
                other = _refused_mixture(kind)
                outcome = REFUSED if other else PROVEN
                return Verdict(model_type, class_name, outcome, other or attempt.reason)
            if attempt.outcome == REFUSED:
                refused = refused or attempt.reason
                if attempt.is_final:
                    break
            failed = failed or attempt.reason
    except Exception as error:
        failed = failed or f"its config: {type(error).__name__}: {first_line(error)}"
    outcome = REFUSED if refused else UNTRIED
    return Verdict(model_type, class_name, outcome, refused or failed)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What came of one config. `is_final`: another config of the type would end the same way."""

    outcome: str
    reason: str
    is_final: bool = False


def _attempt(config: Any) -> _Attempt:
    try:
        module = _build(config)
        notes = load_model_from(module, ReferenceBackend()).cautions
    except ModelRefusedError as error:
        if error.__cause__ is None:
            return _Attempt(REFUSED, _reason(error), is_final=True)
        return _Attempt(REFUSED if _runs(config) else UNTRIED, _reason(error))
    except Exception as error:
        return _Attempt(UNTRIED, f"{type(error).__name__}: {first_line(error)}")
    return _Attempt(PROVEN, "; ".join(notes))


def _refused_mixture(kind: Any) -> str:
    """Why the type is refused once it has layers that keep state or an index, where it knows such:
    a class's own default may have none of those that its checkpoints have."""
    for layer in ALLOWED_LAYER_TYPES:
        if layer in _PLAIN_LAYERS:
            continue
        for config in islice(mixed_configs(kind, layer), 1):
            attempt = _attempt(config)
            if attempt.is_final:
                return f"with layers of kind {layer}, {attempt.reason}"
    return ""


def _runs(config: Any) -> bool:
    """Whether the model answers when it is asked as plainly as can be."""
    try:
        with torch.no_grad():
            _build(config)(input_ids=torch.arange(5)[None])
    except Exception:
        return False
    return True


def _class_name(model_type: str) -> str:
    """The class that transformers maps the type to; the first, where there are several."""
    names: Any = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]
    return names if isinstance(names, str) else str(names[0])


def _build(config: Any) -> Any:
    """Random weights, drawn wide, so that a wrong mask, window or position shows."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise LookupError(f"{type(config).__name__} has no causal language model")
    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        size = sum(p.numel() for p in make(config, attn_implementation="eager").parameters())
    if size > _MOST_PARAMETERS:
        raise MemoryError(f"its tiny model has {size:,} parameters")
    torch.manual_seed(0)
    module = make(config, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1 or name.endswith(("bias", "sinks")):
                parameter.normal_(std=0.2)
    return module


def _reason(error: ModelRefusedError) -> str:
    """The refusal without the type's name, which stands beside it."""
    return error.message.partition(": ")[2] or error.message
