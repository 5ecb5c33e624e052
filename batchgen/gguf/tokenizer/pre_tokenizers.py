"""How byte-level BPE cuts a text before it merges, by the name that the file gives.

A GGUF file names its pre-tokenizer (`tokenizer.ggml.pre`) and leaves the rule to the reader. The
rules are llama.cpp's (src/llama-vocab.cpp, `llm_tokenizer_bpe`), its simplifications of the models'
own included: each expression in turn cuts what those before it left, matches and gaps apart. Every
name here gives llama.cpp's ids (`jobs/check_gguf_tokens.py`); another is refused, because other
cuts give other tokens, silently.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PRE_TOKENIZERS", "PreTokenizer"]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """`patterns`: of Oniguruma. `words_first`: a cut that is itself a token skips the merges.

    `adds_bos`: where the file does not say.
    """

    patterns: tuple[str, ...]
    words_first: bool = False
    adds_bos: bool = False


_ENDINGS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = rf"{_ENDINGS}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN2 = rf"{_ENDINGS}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
_ANY_UPPER, _ANY_LOWER = r"(?:(?=\p{L})[^a-z])", r"(?:(?=\p{L})[^A-Z])"
_LOWER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_ANY_UPPER}*{_ANY_LOWER}+"
_UPPER_WORD = rf"[^\r\n\p{{L}}\p{{N}}]?{_ANY_UPPER}+{_ANY_LOWER}*"
_SLASHES = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_TEKKEN = rf"{_LOWER_WORD}|{_UPPER_WORD}|\p{{N}}|{_SLASHES}"
_GPT4O = rf"{_LOWER_WORD}{_ENDINGS}?|{_UPPER_WORD}{_ENDINGS}?|\p{{N}}{{1,3}}|{_SLASHES}"
_ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    rf"{_ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
)
_FALCON = (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]")
_DEFAULT = (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]")
_CODER = (
    r"[\r\n]",
    r"\s?\p{L}+",
    r"\s?\p{P}+",
    "(?:(?!\\s)[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff])+",
    r"\p{N}",
)
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_BAILING = (
    rf"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|{_WORD}|\p{{N}}|{_SIGNS}|\s*[\r\n]|\s+(?!\S)|\s+"
)
_SEED = rf"{_ENDINGS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}"
_EXAONE_MOE = (
    rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)

_LLAMA3_NAMES = "llama3 llama-v3 llama-bpe falcon3 falcon-h1 pixtral midm-2.0 lfm2"
_QWEN2_NAMES = "qwen2 deepseek-r1-qwen kormo f2llmv2 stablelm2 hunyuan megrez solar-open grok-2"
_GPT2_NAMES = (
    "gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert"
    " jina-v1-en jina-v2-code roberta-bpe mpt olmo jais trillion granite-docling exaone4"
)
_DIGIT_NAMES = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum2"


def _named(names: str, *patterns: str, **flags: bool) -> dict[str, PreTokenizer]:
    return dict.fromkeys(names.split(), PreTokenizer(patterns, **flags))


PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    **_named(_LLAMA3_NAMES, _LLAMA3, words_first=True, adds_bos=True),
    **_named("dbrx smaug-bpe glm4 chatglm-bpe", _LLAMA3),
    **_named(_QWEN2_NAMES, _QWEN2),
    **_named("ufakzeka", rf"{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"),
    **_named("laguna", r"[^\n]+|[\n]+", _QWEN2),
    **_named(_GPT2_NAMES, _GPT2),
    **_named(_DIGIT_NAMES, r"\p{N}", _GPT2),
    **_named("default", *_DEFAULT),
    **_named("falcon", *_FALCON),
    **_named("deepseek-v3 hunyuan-dense joyai-llm hy_v4", *_DEEPSEEK3),
    **_named("deepseek-coder", *_CODER),
    **_named("poro-chat bloom gpt3-finnish", _BLOOM),
    **_named("viking", _BLOOM, r"\p{N}"),
    **_named("tekken", _TEKKEN, words_first=True, adds_bos=True),
    **_named("gpt-4o llama4 kanana2 talkie minimax-m2", _GPT4O),
    **_named("bailingmoe bailingmoe2 llada-moe", _BAILING),
    **_named("seed-coder", _SEED),
    **_named("exaone-moe", _EXAONE_MOE),
    **_named(
        "minicpm5",
        r"\p{N}{1,3}",
        rf"{_ENDINGS}|{_WORD}|\p{{N}}+|{_SIGNS}|{_SPACES}",
        words_first=True,
    ),
}
"""By `tokenizer.ggml.pre`."""
