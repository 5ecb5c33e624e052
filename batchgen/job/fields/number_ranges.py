"""Parameters that are numbers, and which ones each may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["INT32_MAX", "NUMBERS", "TOKEN_ID", "NumberRange"]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Of an int or a float; closed, but `above` makes the lower end open. What is below `least`
    counts as 0."""

    kind: type
    low: float
    high: float
    above: bool = False
    least: float = 0.0

    def read(self, value: Any) -> int | float:
        """The value in its own type; ValueError says what is allowed instead."""
        if type(value) not in (int, float) or value != value:
            raise ValueError(self.allowed)
        if value < self.low or value > self.high or (self.above and value == self.low):
            raise ValueError(self.allowed)
        if self.kind is int and value != int(value):
            raise ValueError(self.allowed)
        if self.kind is int:
            return int(value)
        return float(value) if abs(value) >= self.least else 0.0

    @property
    def allowed(self) -> str:
        """The range in words."""
        noun = "an integer" if self.kind is int else "a number"
        if self.above:
            return f"{noun} above {self.low:g} and at most {self.high:g}"
        low, high = (f"{v:g}" if abs(v) < 1e6 else str(int(v)) for v in (self.low, self.high))
        return f"{noun} from {low} to {high}"


NUMBERS: dict[str, NumberRange] = {
    "max_tokens": NumberRange(int, 1, INT32_MAX),
    "min_tokens": NumberRange(int, 0, INT32_MAX),
    "temperature": NumberRange(float, 0, 100, least=1e-20),  # logits over less overflow
    "top_p": NumberRange(float, 0, 1, above=True),
    "top_k": NumberRange(int, -1, INT32_MAX),
    "min_p": NumberRange(float, 0, 1),
    "repetition_penalty": NumberRange(float, 0, 100, above=True),
    "presence_penalty": NumberRange(float, -2, 2),
    "frequency_penalty": NumberRange(float, -2, 2),
    "n": NumberRange(int, 1, 1024),
    "seed": NumberRange(int, -INT64_MAX - 1, INT64_MAX),
    "logprobs": NumberRange(int, 0, 20),
    "prompt_logprobs": NumberRange(int, 0, 20),
    "no_repeat_ngram_size": NumberRange(int, 0, INT32_MAX),
    "thinking_token_budget": NumberRange(int, -1, INT32_MAX),
}
TOKEN_ID = NumberRange(int, 0, INT32_MAX)
