"""A tokenizer of bytes with tags as tokens, special ones or others, and codecs over it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.text.backend_codec import BackendCodec


def tag_codec(
    special: Sequence[str] = (), other: Sequence[str] = (), template: str | None = None
) -> BackendCodec:
    """Every byte is a token; `special` are left out by decoding, `other` are not; <eos> is special
    and the vocabulary's last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: index for index, char in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(tag, special=True) for tag in special])
    tokenizer.add_tokens([AddedToken(tag, special=False) for tag in other])
    tokenizer.add_special_tokens([AddedToken("<eos>", special=True)])
    compiled = None if template is None else ChatTemplate(template, {})
    return BackendCodec(tokenizer, compiled, None, tokenizer.get_vocab_size())


def plain_ids(codec: BackendCodec, text: str) -> list[int]:
    """`text` in pieces: what looks like a tag is no token of that name."""
    return [one for char in text for one in codec.encode_plain([char])[0]]
