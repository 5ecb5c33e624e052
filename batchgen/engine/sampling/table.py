"""Sampling parameters by slot, gathered into a step's `SamplingBatch` by array operations."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.device import to_device
from batchgen.engine.sampling.batch import (
    Filter,
    HostDraws,
    Penalties,
    Processing,
    SamplingBatch,
)
from batchgen.engine.sampling.rules import (
    AllowedTokens,
    BegunMasks,
    TokenMask,
    TokenRules,
    fixed_mask,
    is_bare,
)
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["SamplingTable"]

_PARAMETERS = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float32),
        ("key", np.uint64),
        ("min_tokens", np.int64),
        ("penalised", np.bool_),
        ("logprobs", np.bool_),
        ("top_logprobs", np.int64),
    ],
    align=True,
)


class SamplingTable:
    """Parameters of the sequence in each slot; `admit` must see every step, in order."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._rows = np.zeros(num_slots, dtype=_PARAMETERS)
        self._plain = np.ones(num_slots, dtype=np.bool_)
        self._unfiltered = np.ones(num_slots, dtype=np.bool_)
        self._rules: list[TokenRules | TokenMask | None] = [None] * num_slots
        self._begun: BegunMasks | None = None
        self._vocab_size = vocab_size
        self._to_device = partial(to_device, device=device)

    def admit(self, step: ScheduledStep) -> None:
        """Take over the parameters of sequences that a step admits."""
        for sequence in step.admitted:
            self._assign(sequence)

    def begin_rules(self, step: ScheduledStep) -> None:
        """Begin to make the masks of a step's rows, those of grammars in other threads, while the
        model runs; `gather` of the same step waits for them. No token may be delivered in
        between."""
        if self._begun is not None:  # of a step that failed: its rows are asked again
            self._begun.result()
        self._begun = self._begin([step.sequences[row] for row in step.sampled])

    def _begin(self, sequences: list[Sequence]) -> BegunMasks:
        return BegunMasks([(self._rules[s.slot], s) for s in sequences])

    def is_plain(self, step: ScheduledStep) -> bool:
        """Whether every sampled row takes its most likely token as it is."""
        return bool(self._plain[self._slots(step)].all())

    def host_draws(self, step: ScheduledStep) -> HostDraws | None:
        """Draws of the sampled rows, where none needs more than a temperature; else None."""
        slots = self._slots(step)
        if not self._unfiltered[slots].all():
            return None
        table = self._rows[slots]
        positions = np.array(step.output_positions, dtype=np.int64)
        return HostDraws(table["temperature"], table["key"].astype(np.int64), positions)

    def gather(self, step: ScheduledStep) -> SamplingBatch:
        """The sampling of a step's sampled rows."""
        slots = self._slots(step)
        if self._plain[slots].all():
            return SamplingBatch()
        table = self._rows[slots]
        positions = np.array(step.output_positions, dtype=np.int64)
        sequences = [step.sequences[row] for row in step.sampled]
        short = np.flatnonzero(table["min_tokens"] > positions)
        counts = table["top_logprobs"]
        return SamplingBatch(
            processing=self._processing(table, positions, sequences, short),
            logprobs=bool(table["logprobs"].any()),
            top_logprobs=int(counts.max(initial=0)),
            top_counts=tuple(counts.tolist()) if counts.any() else (),
        )

    @staticmethod
    def _slots(step: ScheduledStep) -> npt.NDArray[np.int64]:
        return np.array(step.slots, dtype=np.int64)[step.sampled]

    def _assign(self, sequence: Sequence) -> None:
        if sequence.slot < 0:
            return  # gone again before its step was run a second time
        params = sequence.request.params
        self._rows[sequence.slot] = (  # in `_PARAMETERS`' order: one by one takes six times as long
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            sequence.request.draw_key,
            params.min_tokens,
            sequence.counts_tokens,
            params.logprobs is not None,
            params.top_logprobs,
        )
        self._rules[sequence.slot] = self._rules_of(sequence)
        bare = is_bare(sequence)
        self._plain[sequence.slot] = bare and params.greedy
        filtered = 0 < params.top_k < self._vocab_size or params.top_p < 1.0 or params.min_p > 0.0
        self._unfiltered[sequence.slot] = bare and (params.greedy or not filtered)

    def _rules_of(self, sequence: Sequence) -> TokenRules | TokenMask | None:
        if sequence.needs_known_tokens:
            return TokenRules(sequence.request, self._vocab_size)
        return fixed_mask(sequence.request, self._vocab_size)

    def _processing(
        self,
        table: npt.NDArray[np.void],
        positions: npt.NDArray[np.int64],
        sequences: list[Sequence],
        short: npt.NDArray[np.int64],
    ) -> Processing | None:
        drawing = np.flatnonzero(table["temperature"] > 0)
        penalised = np.flatnonzero(table["penalised"])
        bias, allowed = self._bias(sequences), self._allowed(sequences)
        if not (len(drawing) or len(penalised) or len(short) or bias or allowed):
            return None
        drawn = table[drawing]
        in_vocab = (drawn["top_k"] > 0) & (drawn["top_k"] < self._vocab_size)
        return Processing(
            bias=bias,
            allowed=allowed,
            penalties=self._penalties(penalised, sequences) if len(penalised) else None,
            masked=self._masked(short, sequences) if len(short) else None,
            drawing=self._to_device(drawing),
            temperature=self._to_device(drawn["temperature"]),
            keys=self._to_device(drawn["key"].astype(np.int64)),
            positions=self._to_device(positions[drawing]),
            top_k=self._filter(in_vocab, drawn["top_k"]),
            top_p=self._filter(drawn["top_p"] < 1.0, drawn["top_p"]),
            min_p=self._filter(drawn["min_p"] > 0.0, drawn["min_p"]),
        )

    def _filter(
        self, mask: npt.NDArray[np.bool_], values: npt.NDArray[np.generic]
    ) -> Filter | None:
        rows = np.flatnonzero(mask)
        if not len(rows):
            return None
        picked = values[rows]
        return Filter(self._to_device(rows), self._to_device(picked), float(picked.max()))

    def _bias(
        self, sequences: list[Sequence]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        entries = [
            (row, token, value)
            for row, sequence in enumerate(sequences)
            for token, value in sequence.request.params.logit_bias
            if 0 <= token < self._vocab_size
        ]
        if not entries:
            return None
        rows, ids, values = zip(*entries, strict=True)
        return (
            self._to_device(np.array(rows, np.int64)),
            self._to_device(np.array(ids, np.int64)),
            self._to_device(np.array(values, np.float32)),
        )

    def _allowed(self, sequences: list[Sequence]) -> AllowedTokens | None:
        begun = self._begin(sequences) if self._begun is None else self._begun
        self._begun = None
        ruled = [(row, mask) for row, mask in begun.result() if mask is not None]
        if not ruled:
            return None
        return AllowedTokens([row for row, _ in ruled], np.stack([mask for _, mask in ruled]))

    def _masked(
        self, short: npt.NDArray[np.int64], sequences: list[Sequence]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows: list[int] = []
        ids: list[int] = []
        for row in short.tolist():
            stops = {t for t in sequences[row].stop_ids if 0 <= t < self._vocab_size}
            rows += [row] * len(stops)
            ids += sorted(stops)
        return self._to_device(np.array(rows, np.int64)), self._to_device(np.array(ids, np.int64))

    def _penalties(self, penalised: npt.NDArray[np.int64], sequences: list[Sequence]) -> Penalties:
        parts = [_row_penalties(i, sequences[i], self._vocab_size) for i in penalised.tolist()]
        rows, ids, repetition, subtract = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return Penalties(
            self._to_device(rows),
            self._to_device(ids),
            self._to_device(repetition),
            self._to_device(subtract),
        )


_Columns = tuple[
    npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32], npt.NDArray[np.float32]
]


def _row_penalties(row: int, sequence: Sequence, vocab_size: int) -> _Columns:
    """Repetition counts prompt and output (transformers), the others the output alone (OpenAI)."""
    params = sequence.request.params
    ids = np.unique(np.frombuffer(sequence.token_ids[:], dtype=np.int32)).astype(np.int64)
    ids = ids[ids < vocab_size]  # a pruned head
    counts = np.zeros(len(ids), dtype=np.float64)
    if counter := Counter(sequence.output_token_ids):
        counts[np.searchsorted(ids, list(counter))] = list(counter.values())
    subtract = params.presence_penalty * (counts > 0) + params.frequency_penalty * counts
    repetition = np.full(len(ids), params.repetition_penalty, dtype=np.float32)
    return np.full(len(ids), row), ids, repetition, subtract.astype(np.float32)
