"""A model's tokenizer and chat template as the job uses them: `load_codec`.

Encoding equals transformers' `AutoTokenizer` (which class a folder gets is its business, so it is
asked), rendering equals `apply_chat_template`. GGUF vocabularies are read from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import datetime
from typing import Any

from batchgen.errors import ModelRefusedError
from batchgen.gguf.tokenizer.build import build_tokenizer
from batchgen.gguf.tokenizer.vocabulary import special_token_texts
from batchgen.gguf_header import read_gguf_header
from batchgen.job.model.files import ModelFiles, ModelKind
from batchgen.job.model.vocabulary_files import as_its_files_say, missing_packages
from batchgen.job.templates.chat_template import ChatTemplate
from batchgen.job.templates.choice import TemplateChoice, choose_template
from batchgen.job.text.backend_codec import BackendCodec
from batchgen.job.text.byte_codec import ByteCodec
from batchgen.job.text.hidden_torch import torch_hidden
from batchgen.job.text.tekken import name_special_tokens
from batchgen.job.text.text_codec import TextCodec
from batchgen.job.text.transformers_codec import TransformersCodec
from batchgen.startup import timeline
from batchgen.startup.importing import importing

__all__ = ["NotCheckableError", "load_codec"]

_MAX_REASON = 300


class NotCheckableError(ModelRefusedError):
    """This tokenizer needs transformers with torch: `run` can use it, `validate` cannot."""


def load_codec(
    files: ModelFiles | None,
    chat_template: str | None = None,
    *,
    hide_torch: bool = False,
    trust_remote_code: bool = False,
    now: datetime | None = None,
) -> TextCodec:
    """The codec of a model, or of plain bytes where `files` is None (the echo engine).

    `chat_template`: a file, a template, or the name of one of the model's, for all chats.
    `hide_torch`: never import torch; raises NotCheckableError for the few tokenizers without a
    Rust backend. `now`: what `strftime_now` tells templates; the moment of the call by default.
    Raises UsageError for a bad template, ModelRefusedError for a tokenizer that cannot be loaded.
    """
    chosen = choose_template(chat_template or None, {} if files is None else files.chat_templates)
    if files is None:
        return ByteCodec(_template(chosen, {}, now))
    if files.kind is ModelKind.GGUF:
        return _gguf_codec(files, chosen, now)
    with torch_hidden() if hide_torch else nullcontext():
        return _transformers_codec(files, chosen, now, hide_torch, trust_remote_code)


def _gguf_codec(files: ModelFiles, chosen: TemplateChoice, now: datetime | None) -> TextCodec:
    metadata = read_gguf_header(files.path).metadata
    template = _template(chosen, special_token_texts(metadata), now)
    vocab_size = len(metadata["tokenizer.ggml.tokens"])
    backend = build_tokenizer(metadata, files.path)
    return BackendCodec(backend, template, files.bos_token_id, vocab_size)


def _transformers_codec(
    files: ModelFiles, chosen: TemplateChoice, now: datetime | None, hidden: bool, trust: bool
) -> TextCodec:
    tokenizer = _auto_tokenizer(files, trust)
    name_special_tokens(files.path, tokenizer)
    template = _template(chosen, tokenizer.special_tokens_map, now)
    vocab_size = _vocab_size(files, tokenizer)
    backend = _plain_backend(tokenizer)
    if backend is not None:
        backend = as_its_files_say(files.path, files.name, backend)
        return BackendCodec(backend, template, tokenizer.bos_token_id, vocab_size)
    if hidden:
        raise NotCheckableError(
            f"{files.name}: its tokenizer ({type(tokenizer).__name__}) has no Rust backend, so "
            "prompts cannot be counted without loading torch.",
            "`batchgen run` serves it; validate without --model checks everything else.",
        )
    return TransformersCodec(tokenizer, template, vocab_size)


def _auto_tokenizer(files: ModelFiles, trust_remote_code: bool) -> Any:
    with importing:
        from transformers import AutoTokenizer

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    try:
        with timeline.span("tokenizer"):
            return AutoTokenizer.from_pretrained(str(files.path), **options)
    except Exception as error:  # transformers raises many kinds here
        reason = " ".join(str(error).split())[:_MAX_REASON] or type(error).__name__
        if "trust_remote_code" in str(error):
            raise ModelRefusedError(
                f"{files.name}: its tokenizer is Python code that came with the model.",
                "Read that code; if you trust it, add --trust-remote-code.",
            ) from error
        raise ModelRefusedError(
            f"{files.name}: its tokenizer cannot be loaded: {reason}",
            missing_packages(files.path)
            or "Does the model's folder hold tokenizer.json, or what its class needs?",
        ) from error


def _plain_backend(tokenizer: Any) -> Any | None:
    """The Rust tokenizer, where encoding and decoding are its own and not a subclass's."""
    from transformers import PreTrainedTokenizerFast

    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return None
    own = type(tokenizer)
    for name in ("_encode_plus", "_decode", "decode", "__call__"):
        if getattr(own, name) is not getattr(PreTrainedTokenizerFast, name):
            return None
    return tokenizer.backend_tokenizer


def _vocab_size(files: ModelFiles, tokenizer: Any) -> int:
    nested = files.config.get("text_config")
    for config in (files.config, nested if isinstance(nested, dict) else {}):
        if isinstance(config.get("vocab_size"), int):
            return int(config["vocab_size"])
    return len(tokenizer)


def _template(
    chosen: TemplateChoice, tokens: Mapping[str, Any], now: datetime | None
) -> ChatTemplate | None:
    if chosen.source is None:
        return None
    template = ChatTemplate(chosen.source, tokens, now, chosen.tool_use)
    if chosen.given:
        template.check()
    return template
