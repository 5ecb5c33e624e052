"""A row whose tokens are just enough for the shortest text of its grammar ends whole."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine_runs import completions_of
from fake_model import FakeModel, engine_over
from test_structured import _byte_engine, _request, _text, _wanted
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import Constraint, FinishReason

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

Sized = tuple[dict[str, Any], int]
"""A schema, and the bytes of its shortest value without blanks."""
NAMES = ["a", "bb", "ccc", "dddd"]


@pytest.fixture(scope="module")
def grammars() -> GrammarCompiler:
    return GrammarCompiler(lambda: "byte", 262, (261,))


def _letters(draw: random.Random) -> str:
    return "".join(draw.choices("abcxyz", k=draw.randint(1, 7)))


def _words(draw: random.Random, depth: int) -> Sized:
    words = [_letters(draw) for _ in range(draw.randint(1, 4))]
    return {"enum": words}, min(map(len, words)) + 2


def _flag(draw: random.Random, depth: int) -> Sized:
    return {"type": "boolean"}, len("true")


def _whole(draw: random.Random, depth: int) -> Sized:
    numbers = range(draw.randint(-120, 120), 200)
    size = min(len(str(number)) for number in numbers)
    return {"type": "integer", "minimum": numbers[0], "maximum": numbers[-1]}, size


def _array(draw: random.Random, depth: int) -> Sized:
    (items, size), low = _any(draw, depth - 1), draw.randint(0, 2)
    schema = {"type": "array", "items": items, "minItems": low, "maxItems": low + 2}
    return schema, 2 + low * size + max(0, low - 1)


def _union(draw: random.Random, depth: int) -> Sized:
    parts = [_any(draw, depth - 1) for _ in range(2)]
    return {"anyOf": [schema for schema, _ in parts]}, min(size for _, size in parts)


def _object(draw: random.Random, depth: int) -> Sized:
    parts = {name: _any(draw, depth - 1) for name in draw.sample(NAMES, draw.randint(1, 3))}
    required = draw.sample(list(parts), draw.randint(1, len(parts)))
    schema = {
        "type": "object",
        "properties": {name: part for name, (part, _) in parts.items()},
        "required": required,
        "additionalProperties": False,
    }
    return schema, 1 + sum(len(name) + 4 + parts[name][1] for name in required)


def _any(draw: random.Random, depth: int) -> Sized:
    kinds: list[Callable[[random.Random, int], Sized]] = [_words, _words, _flag, _whole]
    kinds += [_array, _union, _object] * (depth > 0)
    return draw.choice(kinds)(draw, depth)


@pytest.mark.parametrize("blanks", [False, True])
def test_a_document_ends_whole_where_its_shortest_just_fits(
    grammars: GrammarCompiler, blanks: bool
) -> None:
    for seed in range(12 if blanks else 24):
        schema, size = _object(random.Random(seed), 2)
        given = {"json": schema, "disable_any_whitespace": not blanks}
        wanted = _wanted(structured_outputs=given)
        rows = [_request(grammars, i, wanted, max_tokens=size) for i in range(2)]
        rows.append(_request(grammars, 2, wanted, max_tokens=size - 1))
        done = completions_of(_byte_engine(), rows)
        for i in range(2):
            jsonschema.validate(json.loads(_text(done[i])), schema)
        assert (done[2].finish_reason, done[2].is_steered) == (FinishReason.LENGTH, False)


def _tokens(draw: random.Random) -> Tokenizer:
    """All bytes, and joins of a and b that are made as a tokenizer's are."""
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "<end>"]
    merges: list[tuple[str, str]] = []
    made = ["a", "b"]
    for _ in range(5):
        pair = draw.choice(made), draw.choice(made)
        if "".join(pair) not in made:
            merges.append(pair)
            made.append("".join(pair))
    vocab = {token: number for number, token in enumerate([*texts, *made[2:]])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<end>"])
    return tokenizer


def _fewest(begin: Callable[[], Constraint], vocabulary: Tokenizer) -> int:
    """Tokens of the shortest text, with the end token where one has to follow: found by looking at
    every sequence of tokens that may come."""
    size, end = vocabulary.get_vocab_size(), vocabulary.token_to_id("<end>")
    paths: list[list[int]] = [[]]
    for num_tokens in range(8):
        longer, may_end = list[list[int]](), False
        for path in paths:
            constraint, is_over, mask = begin(), False, np.zeros(-(-size // 32), np.int32)
            for token in path:
                is_over = constraint.advance(token, 999)
            if is_over:
                return num_tokens
            constraint.fill(mask)
            bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
            allowed = np.flatnonzero(bits).tolist()
            may_end |= end in allowed
            longer += [[*path, token] for token in allowed]
        if may_end:
            return num_tokens + 1
        paths = longer
    raise AssertionError("no text is that short")


def test_of_words_that_a_tokenizer_cuts_up_the_one_of_fewest_tokens_fits() -> None:
    for seed in range(24):
        draw = random.Random(seed)
        tokenizer = _tokens(draw)
        size, end = tokenizer.get_vocab_size(), tokenizer.token_to_id("<end>")
        grammars = GrammarCompiler(tokenizer.to_str, size, (end,))
        words = sorted({"".join(draw.choices("ab", k=draw.randint(2, 9))) for _ in range(4)})
        wanted = _wanted(guided_choice=words)
        fewest = _fewest(grammars.constraint(wanted), tokenizer)
        rows = [_request(grammars, i, wanted, max_tokens=fewest) for i in range(4)]
        engine = engine_over(FakeModel(vocab_size=size), eos_token_ids=(end,))
        for done in completions_of(engine, rows).values():
            said = tokenizer.decode(done.token_ids, skip_special_tokens=True)
            assert said in words
            assert len(done.token_ids) <= fewest


@pytest.mark.parametrize(
    ("words", "room"), [(["z", "bcdefghij"], 1), (["abcdefgh", "zyxw", "zyxwvu"], 5)]
)
def test_the_shortest_of_a_few_words_is_said_however_much_longer_the_others_are(
    grammars: GrammarCompiler, words: list[str], room: int
) -> None:
    wanted = _wanted(guided_choice=words)
    rows = [_request(grammars, i, wanted, max_tokens=room) for i in range(8)]
    for done in completions_of(_byte_engine(), rows).values():
        assert _text(done) == min(words, key=len)
        assert done.is_steered
