"""Which runner runs an engine's steps: eager or by graphs, on one device or on a rank of many."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from batchgen.engine.config import EngineConfig
from batchgen.engine.execution.ranks import EagerFollower, EagerLeader
from batchgen.engine.execution.step_runner import EagerRunner, ServedModel
from batchgen.engine.run.resolved_config import ResolvedConfig

__all__ = ["make_runner"]


def make_runner(
    model: ServedModel, config: EngineConfig, resolved: ResolvedConfig, num_slots: int
) -> Any:
    """A `StepRunner`; of a rank that does not lead, what follows the leader's."""
    max_model_len, block_size = resolved.max_model_len, resolved.block_size
    # Without graphs too, tokens are drawn on a GPU by kernels whose sums no other row changes.
    eager = config.enforce_eager and not config.deterministic
    if model.device.type != "cuda" or eager:
        sizes, group = (num_slots, max_model_len, block_size), model.group
        if group is None:
            return EagerRunner(model, *sizes)
        return EagerLeader(model, group, *sizes) if group.leads else EagerFollower(model, group)
    return _graph_runner(model)(
        num_slots=num_slots,
        max_num_seqs=resolved.max_num_seqs,
        max_num_tokens=resolved.max_num_batched_tokens,
        max_model_len=max_model_len,
        block_size=block_size,
        capture=not config.enforce_eager,
        share_reads=config.share_reads,
        large_model=resolved.min_token_budget is not None,
        steady=config.deterministic,
    )


def _graph_runner(model: ServedModel) -> Callable[..., Any]:
    """Imported where there is a GPU: triton comes with it."""
    group = model.group
    if group is None:
        from batchgen.engine.cuda.captures import CaptureCosts
        from batchgen.engine.cuda.graph_runner import GraphRunner

        if model.weights is None:
            return partial(GraphRunner, model)
        costs = CaptureCosts.of(model.weights.active_parameters, len(model.specs))
        return partial(GraphRunner, model, costs=costs)
    # Ranks capture at the same steps, whatever each of them weighs.
    from batchgen.engine.cuda.ranks import GraphFollower, GraphLeader

    return partial(GraphLeader if group.leads else GraphFollower, model, group)
