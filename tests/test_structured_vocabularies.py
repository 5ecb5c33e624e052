"""Structured output with all kinds of tokenizers: what one does to prompts, such as to compose
letters or to put a space in front, keeps a completion from no text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_generation_config import saved
from tokenizer_folders import TEXTS, with_added_past_the_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordLevelTrainer

from batchgen import LLM
from batchgen.engine.grammar.compiler import GrammarCompiler
from batchgen.engine.request import GrammarKind, StructuredOutput
from batchgen.errors import ErrorCode

pytest.importorskip("llguidance")
END = "</s>"
SPECIAL = "<b>two</s> x</b>"
WANTED = (
    SPECIAL,
    "cafe\u0301 Yes",
    "caf\u00e9",
    "\u212bngstr\u00f6m",
    "PARIS",
    "\u0958 \ufb01",
    "two  words",
)


def _byte_level(normalizer: object = None, prefix: bool = False) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = [END, "<unk>"]
    trainer = UnigramTrainer(
        vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator([*TEXTS, *WANTED] * 3, trainer)
    return tokenizer


TOKENIZERS = {
    "plain": _byte_level(),
    "composes": _byte_level(normalizers.NFC()),
    "decomposes": _byte_level(normalizers.Sequence([normalizers.NFKD(), normalizers.Strip()])),
    "makes small": _byte_level(normalizers.Lowercase()),
    "spaces in front": _byte_level(prefix=True),
    "Metaspace": _unigram(),
}


def first_of(tokenizer: Tokenizer, wanted: StructuredOutput) -> str:
    """The text of the first tokens that are allowed, up to the grammar's end."""
    size = tokenizer.get_vocab_size()
    compiler = GrammarCompiler(tokenizer.to_str, size, (tokenizer.token_to_id(END),))
    constraint, written = compiler.constraint(wanted)(), list[int]()
    for room in range(100, 0, -1):
        mask = np.zeros(-(-size // 32), dtype=np.int32)
        assert constraint.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        assert len(allowed), f"no token after {tokenizer.decode(written)!r}"
        written.append(int(allowed[0]))
        if constraint.advance(written[-1], room):
            break
    return str(tokenizer.decode(written))


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("text", WANTED)
def test_a_text_is_written_whatever_the_tokenizer_makes_of_it_in_prompts(
    kind: str, text: str
) -> None:
    wanted = StructuredOutput(GrammarKind.GRAMMAR, f"start: {json.dumps(text)}")
    assert first_of(TOKENIZERS[kind], wanted) == text


def test_tokens_that_were_added_past_the_model_s_vocabulary_keep_no_row_from_its_grammar(
    tmp_path: Path,
) -> None:
    folder = with_added_past_the_model(tmp_path / "m")
    rows = [{"prompt": "Hello", "guided_choice": [text], "max_tokens": 30} for text in WANTED[:2]]
    with LLM(str(folder), device="cpu", dtype="float32") as model:
        assert [done.completion for done in model.generate(rows)] == [*WANTED[:2]]


def test_a_tokenizer_that_no_grammar_can_be_made_for_fails_those_rows_alone(
    tmp_path: Path,
) -> None:
    folder = saved(tmp_path / "m")
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(TEXTS, WordLevelTrainer(special_tokens=["<unk>", "<s>", END]))
    words.save(str(folder / "tokenizer.json"))
    rows = [{"prompt": "Hello"}, {"prompt": "Hello", "guided_choice": ["a"]}, {"prompt": "world"}]
    with LLM(str(folder), device="cpu", dtype="float32") as model:
        plain, held, other = model.generate(rows, {"max_tokens": 3})
    assert plain.ok
    assert other.ok
    assert held.error_code == ErrorCode.UNSUPPORTED_SETTING
    assert "tokenizer" in str(held.error_message)


@pytest.mark.parametrize("kind", ["Qwen2Tokenizer", "CodeGenTokenizer"])
def test_a_class_of_tokenizers_with_ways_of_its_own_lets_any_text_be_written(
    tmp_path: Path, kind: str
) -> None:
    """Qwen's composes letters, whatever its tokenizer.json says; the other decodes by itself."""
    folder = saved(tmp_path / "m")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": kind}))
    with LLM(str(folder), device="cpu", dtype="float32") as model:
        (result,) = model.generate(
            [{"prompt": "Hello", "guided_choice": [WANTED[0]], "max_tokens": 30}]
        )
    assert result.completion == WANTED[0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (GrammarKind.REGEX, r"</s>[ab]"),
        (GrammarKind.REGEX, r"<[/]s[>][ab]"),
        (GrammarKind.JSON_SCHEMA, '{"const": "x</s>y"}'),
        (GrammarKind.JSON_SCHEMA, r'{"type": "string", "pattern": "^<\\/s>a$"}'),
    ],
)
def test_an_end_that_stands_in_a_grammar_as_text_is_no_end(kind: GrammarKind, text: str) -> None:
    tokenizer = TOKENIZERS["plain"]
    written = first_of(tokenizer, StructuredOutput(kind, text, ""))
    assert "</s>" in written
