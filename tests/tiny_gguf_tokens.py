"""Tiny vocabularies in GGUF files, and odd texts: what shows whether a tokenizer is llama.cpp's.

Merges are learned over whole texts, across words, digits and signs, so that ids tell where a
pre-tokenizer cut.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from tiny_gguf import CASES, HIDDEN, write

from batchgen.gguf.tokenizer.pre_tokenizers import PRE_TOKENIZERS

TEXTS = [
    "Hello world, it's GOOD! don't I'LL we'Ve o'Reilly 'quoted'  'S'",
    "  two spaces,   three\n\n\tnew lines \n \r\n end  ",
    "12345 3.14 1,000,000 x2y33 007 12\u00b2\u00bd \u0663\u0664\u0665\u0666 \uff11\uff12"
    "\uff13\uff14",
    "h\u00e9llo W\u00d6RLD \u00c9COLEs na\u00efve \u0130stanbul stra\u00dfe \ufb01ne \u01c5ungla",
    "\u65e5\u672c\u8a9e\u3067\u3059\u3002\u4e2d\u6587\u5b57\u7b26\uff0c \ud55c\uad6d\uc5b4 "
    "\u0e44\u0e17\u0e22 \u0939\u093f\u0928\u094d\u0926\u0940\u0964 \u0639\u0631\u0628\u064a"
    "\u060c",
    "\U0001f389\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f e\u0301 o\u0308u"
    "\u0323 \u200b\u00a0\u3000\u2028\u0085x",
    "def f(a_b, *c):\n    return a_b[0]+=1 ** {'k': \"v\"} # $x^2 ~`|\\ <tag/> https://a.b/c?d=e&f",
    "-----=====_____.....,,,,,!!!!???\u2026\u2026\u3001\u3002 \u2014\u2013\u201cq\u201d"
    "\u2018s\u2019 \u20ac\u00a3\u00a5 \u00b1\u00d7\u00f7",
    "aAbBcC CamelCaseWord UPPERlower lowerUPPER XMLHttp iPhone \u03a3\u03af\u03c3\u03c5"
    "\u03c6\u03bf\u03c2 \u0416\u0438\u0432\u0430\u0433\u043e",
    "a",
    " ",
    "\n",
    "  ",
    "",
    "'",
    " '",
    "\t",
    "\u0001\u0000x",
    "\ufffd",
    "\U000e0001",
    "<s>a</s> <unk>b<|im_start|>user\n hi<|im_end|> \n<|x|> <tool> c<0x41>",
    "                                        x\n\n\n\n\n\n\n\n\n\n\n\n\t\t\t\t\t-----------"
    "------------",
]
SPECIAL = {"<unk>": 2, "<s>": 3, "</s>": 3, "<|im_start|>": 3, "<|im_end|>": 4, "<tool>": 4}
SPECIAL |= {"<|endoftext|>": 3, "  ": 4, "\n\n\n": 4}
LONGEST = 7
"""Letters of a token: longer ones would be whole texts."""
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = "\u2581"


@dataclass(frozen=True)
class Tokens:
    """A vocabulary and the keys beside it."""

    model: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    more: dict[str, Any] = field(default_factory=dict)

    def metadata(self) -> dict[str, Any]:
        own = {"model": self.model, "tokens": list(self.tokens), "token_type": list(self.kinds)}
        own |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **self.more}
        name = own.pop("name", "tiny")
        return {f"tokenizer.ggml.{k}": v for k, v in own.items() if v is not None} | {
            "general.name": name
        }

    def write(self, path: Path) -> Path:
        """As a model of one small layer."""
        size = len(self.tokens)
        llama = CASES["llama_tied"]
        top = llama.top | {"token_embd.weight": (size, HIDDEN)}
        case = replace(llama, layers=1, top=top, keys=llama.keys | {"vocab_size": size})
        others = ("pre", "merges", "bos_token_id", "eos_token_id")
        left_out = {f"tokenizer.ggml.{name}": None for name in others}
        return write(path, case, **left_out | self.metadata())


@cache
def learned(text: str, count: int) -> tuple[tuple[str, str], ...]:
    """Pairs to join, the most frequent first; of equals the first in the alphabet."""
    symbols = list(text)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < count:
        every = pairwise(symbols)
        counts = Counter(one for one in every if len(one[0] + one[1]) <= LONGEST)
        best = min(counts, key=lambda one: (-counts[one], one))
        pairs.append(best)
        symbols = list(_joined(symbols, best))
    return tuple(pairs)


def _joined(symbols: list[str], pair: tuple[str, str]) -> Iterator[str]:
    index = 0
    while index < len(symbols):
        found = tuple(symbols[index : index + 2]) == pair
        yield "".join(pair) if found else symbols[index]
        index += 2 if found else 1


def corpus() -> str:
    return "".join(one * 2 for one in TEXTS[:9]) + TEXTS[-1]


@cache
def alphabet() -> dict[int, str]:
    """GPT-2's letters for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {one: chr(one) for one in shown} | {b: chr(256 + i) for i, b in enumerate(others)}


def byte_level(pre: str | None, **more: Any) -> Tokens:
    text = "".join(alphabet()[byte] for byte in corpus().encode())
    merges = learned(text, 400)
    joined = dict.fromkeys(left + right for left, right in merges)
    tokens = (*SPECIAL, *alphabet().values(), *joined)
    kinds = (*SPECIAL.values(), *[1] * (len(tokens) - len(SPECIAL)))
    own = {"pre": pre, "merges": [" ".join(one) for one in merges]}
    return Tokens("gpt2", tokens, kinds, own | more)


def sentence_piece(
    *, with_bytes: bool = True, levels: int = 0, without: str = "", **more: Any
) -> Tokens:
    """`levels`: so many scores alone, shared by many tokens; 0 = a score for each. `without`:
    letters that are no tokens, though others have them."""
    text = _SPACE + corpus().replace(" ", _SPACE)
    joined = dict.fromkeys(left + right for left, right in learned(text, 300))
    letters = sorted(set("".join(joined)) - set(without))
    pieces = (*joined, *(one for one in letters if one not in joined))
    front = (*SPECIAL, *(BYTES if with_bytes else ()))
    scores = [0.0] * len(front)
    scores += [-float(index % levels if levels else index) for index in range(len(pieces))]
    kinds = (*SPECIAL.values(), *[6] * (len(front) - len(SPECIAL)), *[1] * len(pieces))
    return Tokens("llama", front + pieces, kinds, {"scores": scores} | more)


def _vocabularies() -> dict[str, Tokens]:
    found = {f"bpe/{pre}": byte_level(pre) for pre in PRE_TOKENIZERS}
    return found | {
        "bpe/absent": byte_level(None),
        "bpe/bos": byte_level("gpt-2", add_bos_token=True, add_eos_token=True),
        "bpe/no_bos": byte_level("llama-bpe", add_bos_token=False),
        "bpe/ignored": byte_level(
            "gpt-2", add_space_prefix=True, remove_extra_whitespaces=True, add_sep_token=False
        ),
        "spm": sentence_piece(),
        "spm/no_prefix": sentence_piece(add_space_prefix=False),
        "spm/ignored": sentence_piece(
            remove_extra_whitespaces=True, precompiled_charsmap=[1, 0, 0, 0, 7, 7]
        ),
        "spm/eos": sentence_piece(add_bos_token=False, add_eos_token=True),
        "spm/no_ids": sentence_piece(bos_token_id=None, eos_token_id=None, unknown_token_id=None),
        "spm/phi3": sentence_piece(name="Tiny Phi-3 mini"),
        "spm/ties": sentence_piece(levels=7),
        "spm/missing_letters": sentence_piece(without="\nae'"),
        "spm/no_scores": sentence_piece(scores=None),
        "spm/odd_ids": sentence_piece(padding_token_id=4_000_000_000, eos_token_id=99_999),
    }


VOCABULARIES = _vocabularies()
_RULES = {rule: name for name, rule in reversed(PRE_TOKENIZERS.items())}
KEPT = {f"bpe/{name}" for name in _RULES.values()} | {
    name for name in VOCABULARIES if name.removeprefix("bpe/") not in PRE_TOKENIZERS
}
"""One name of each pre-tokenizer, and all others."""


def odd_texts(seed: int, count: int) -> list[str]:
    """Random strings of letters, marks, digits, signs and spaces of many scripts."""
    rng = random.Random(seed)
    letters = sorted(set("".join(TEXTS))) + [" ", " ", "\n", "'", "s", "t", "L", "l", "1", "2"] * 4
    return [
        "".join(rng.choices(letters, k=rng.randrange(1, 40))).replace("\0", "")
        for _ in range(count)
    ]
