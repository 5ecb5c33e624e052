"""What the device knows about how each slot samples, kept there from admission to the end.

Records of parameters, bits of allowed tokens and of stop tokens, and, once a row needs them: a bias
a token, and how often each token was seen. Counts are made at admission from the tokens that the
host knows (so after preemption and resume, too), and moved on within the step by `settle_kernel`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Rows

import numpy as np
import numpy.typing as npt
import torch

from batchgen.engine.device import sent
from batchgen.engine.sampling.rules import fixed_mask, mask_of, mask_width
from batchgen.engine.sampling.triton.record import FILTER, record_of
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["DeviceTables"]


class DeviceTables:
    """Rows 0..num_slots-1 of every table are slots; the last is where padding points: greedy."""

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._device = device
        self._size = num_slots + 1
        width = mask_width(vocab_size)
        self.records = torch.zeros((self._size, 16), dtype=torch.int32, device=device)
        self.masks = torch.zeros((self._size, width), dtype=torch.int32, device=device)
        self.stops = torch.zeros((self._size, width), dtype=torch.int32, device=device)
        self.counts: torch.Tensor | None = None  # int32: times sampled << 1 | was seen
        self.bias: torch.Tensor | None = None  # float32
        self.may_be_wide = False
        """Whether a row had top-p or min-p without a top-k: any number of tokens may be left."""

    def make(self, counts: bool, bias: bool) -> None:
        """Have these, as rows that need them would make them."""
        self.counts = self._table(torch.int32) if counts else None
        self.bias = self._table(torch.float32) if bias else None

    def admit(self, sequences: Rows[Sequence]) -> None:
        """Write all that sampling these takes. Nothing waits for the device."""
        fixed = [fixed_mask(s.request, self._vocab_size) for s in sequences]
        records = [
            record_of(s, self._vocab_size, masked=mask is not None or s.needs_known_tokens)
            for s, mask in zip(sequences, fixed, strict=True)
        ]
        table = np.concatenate(records)
        filtered = (table["flags"] & FILTER) != 0
        self.may_be_wide |= bool((filtered & (table["top_k"] == 0)).any())
        words = table.view(np.int32).reshape(-1, 16)
        self.records.index_copy_(0, self._slots(sequences), self._send(words))
        self.write_masks(
            [s for s, w in zip(sequences, fixed, strict=True) if w is not None],
            [w for w in fixed if w is not None],
        )
        self._write_stops([s for s in sequences if s.request.params.min_tokens > 0])
        self._write_bias([s for s in sequences if s.request.params.logit_bias])
        self.recount([s for s in sequences if s.counts_tokens])

    def write_masks(self, sequences: Rows[Sequence], masks: Rows[npt.NDArray[np.int32]]) -> None:
        """Bits of the tokens that these may take next."""
        if sequences:
            self.masks.index_copy_(0, self._slots(sequences), self._send(np.stack(masks)))

    def recount(self, sequences: Rows[Sequence]) -> None:
        """Make the counts of these from their known tokens; none may be pending."""
        values = [_counts(s, self._vocab_size) for s in sequences]
        self.counts = self._scatter(self.counts, torch.int32, sequences, values)

    def _write_stops(self, sequences: Rows[Sequence]) -> None:
        if not sequences:
            return
        masks = [mask_of(s.stop_ids, self._vocab_size) for s in sequences]
        self.stops.index_copy_(0, self._slots(sequences), self._send(np.stack(masks)))

    def _write_bias(self, sequences: Rows[Sequence]) -> None:
        values = [self._bias_of(s) for s in sequences]
        self.bias = self._scatter(self.bias, torch.float32, sequences, values)

    def _bias_of(self, sequence: Sequence) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        pairs = [p for p in sequence.request.params.logit_bias if 0 <= p[0] < self._vocab_size]
        ids = np.array([token for token, _ in pairs], dtype=np.int64)
        return ids, np.array([value for _, value in pairs], dtype=np.float32)

    def _scatter(
        self,
        table: torch.Tensor | None,
        dtype: torch.dtype,
        sequences: Rows[Sequence],
        entries: Rows[tuple[npt.NDArray[np.int64], npt.NDArray[np.generic]]],
    ) -> torch.Tensor | None:
        """Rows of zeros, with these (ids, values) in them, in the table, which the first make."""
        if not sequences:
            return table
        if table is None:
            table = self._table(dtype)
        table.index_fill_(0, self._slots(sequences), 0)
        places = [
            s.slot * self._vocab_size + ids for s, (ids, _) in zip(sequences, entries, strict=True)
        ]
        values = np.concatenate([values for _, values in entries])
        index = self._send(np.concatenate(places))
        table.view(-1).index_copy_(0, index, self._send(values))
        return table

    def _table(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros((self._size, self._vocab_size), dtype=dtype, device=self._device)

    def _slots(self, sequences: Rows[Sequence]) -> torch.Tensor:
        return self._send(np.array([s.slot for s in sequences], dtype=np.int64))

    def _send(self, values: npt.NDArray[np.generic]) -> torch.Tensor:
        return sent(values, self._device)


def _counts(
    sequence: Sequence, vocab_size: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    ids = np.unique(np.frombuffer(sequence.token_ids[:], dtype=np.int32)).astype(np.int64)
    values = np.ones(len(ids), dtype=np.int32)
    counter = Counter(sequence.output_token_ids)
    if counter:
        times = np.array(list(counter.values()), dtype=np.int32)
        values[np.searchsorted(ids, list(counter))] += 2 * times
    inside = ids < vocab_size  # a prompt may have ids that the head cannot choose
    return ids[inside], values[inside]
