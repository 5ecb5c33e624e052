"""From a plan to a module: an empty one of its config, every weight copied into it, checked."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.initialization import no_init_weights

from batchgen.counts import counted
from batchgen.engine.gguf.packing import pack_layer, say_packed
from batchgen.engine.gguf.values import weight_of
from batchgen.errors import ModelRefusedError
from batchgen.gguf.architectures.plan import Plan
from batchgen.gguf.floats import read_floats
from batchgen.gguf.reading import Reading, refused
from batchgen.gguf.ropes import Rope

__all__ = ["make_module"]

_AGAIN = "Fetch the file again; if it is whole, it is of another architecture than it says."


def make_module(plan: Plan, dtype: torch.dtype, *, packed: bool = False) -> Any:
    """The causal LM on the CPU. Raises ModelRefusedError for tensors that are missing, surplus
    or of another shape than the module's. `packed`: linear layers and the embedding keep the
    file's blocks, where they can."""
    settings = dict(plan.layout.config)
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    with no_init_weights():
        module: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="eager"
        )
    module.tie_weights()
    _fill(module, plan, packed)
    _put_ropes(module, plan)
    return module


@torch.no_grad()
def _fill(module: Any, plan: Plan, packed: bool) -> None:
    parameters = dict(module.named_parameters())  # a tied head is there once, as the embedding
    _check_names(module, parameters, plan)
    kept, dense = [], []
    # What is small comes first: a layer that keeps its blocks takes its bias along.
    for name, parameter in sorted(parameters.items(), key=lambda item: item[1].ndim > 1):
        if name not in plan.weights:
            parameter.fill_(_constant(name, plan))
        elif packed and pack_layer(module, name, plan):
            kept.append(name)
        else:
            _copy(parameter, name, plan)
            dense.append(name)
    if packed:
        say_packed(plan, kept, dense)


def _copy(parameter: nn.Parameter, name: str, plan: Plan) -> None:
    sources = plan.weights[name]
    names = ", ".join(source.name for source in sources)
    try:
        values = weight_of(plan.file, sources)
    except (RuntimeError, ValueError, IndexError) as error:
        raise refused(plan.file.path, f"{names} cannot become {name}: {error}", _AGAIN) from error
    if values.shape != parameter.shape:
        raise refused(
            plan.file.path,
            f"{names} has another shape than the metadata say: as {name} it is "
            f"{[*values.shape]}, not {[*parameter.shape]}",
            _AGAIN,
        )
    parameter.copy_(values)


def _check_names(module: nn.Module, parameters: dict[str, Any], plan: Plan) -> None:
    state = dict(module.state_dict(keep_vars=True))
    known = {id(one) for one in parameters.values()}
    wanted = [*parameters, *(name for name, one in state.items() if id(one) not in known)]
    missing = [n for n in wanted if n not in plan.weights and _constant(n, plan) is None]
    surplus = sorted(plan.weights.keys() - wanted)
    if missing:
        weights = counted(len(missing), "weight")
        raise refused(plan.file.path, f"lacks {weights}, the first is {missing[0]!r}", _AGAIN)
    if surplus:
        name = plan.weights[surplus[0]][0].name
        raise refused(
            plan.file.path, f"its tensor {name} has no place in {plan.layout.config['model_type']}"
        )


def _constant(name: str, plan: Plan) -> Any:
    found = (one for end, one in plan.layout.constants.items() if name.endswith(f".{end}"))
    return next(found, None)


def _put_ropes(module: nn.Module, plan: Plan) -> None:
    """Put the file's frequencies in the place of those that the config gave."""
    read = Reading(plan.file)
    for kind, rope in plan.layout.ropes.items():
        front = f"{kind}_" if kind else ""
        holders = [part for part in module.modules() if hasattr(part, f"{front}inv_freq")]
        factors = read_floats(read, rope.factors) if rope.factors else None
        for holder in holders:
            _put_rope(holder, front, rope, factors, plan)
        if not holders:
            raise _unknown_rope(plan, "no rotary frequencies")


def _put_rope(holder: Any, front: str, rope: Rope, factors: list[float] | None, plan: Plan) -> None:
    own = getattr(holder, f"{front}inv_freq")
    count = own.numel()
    frequencies = rope.frequencies(factors)
    if count != len(frequencies) or not all(map(math.isfinite, frequencies)):
        raise _unknown_rope(plan, f"{count} rotary frequencies, the file {len(frequencies)}")
    values = torch.tensor(frequencies, dtype=torch.float64)
    own.copy_(values)
    getattr(holder, f"{front}original_inv_freq").copy_(values)
    setattr(holder, f"{front}attention_scaling", rope.scale())


def _unknown_rope(plan: Plan, what: str) -> ModelRefusedError:
    model_type = plan.layout.config["model_type"]
    return refused(plan.file.path, f"transformers' {model_type} has {what}")
