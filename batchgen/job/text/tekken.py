"""Mistral's own vocabulary file, `tekken.json`, where a folder has no tokenizer.json.

transformers reads its tokens, and nothing of what they are for: without mistral-common a prompt has
no `<s>` in front, and a template's `{{ bos_token }}` is empty. Each model with such a file was
trained on texts that begin with it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["name_special_tokens"]

_FILE = "tekken.json"
_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def name_special_tokens(folder: Path, tokenizer: Any) -> None:
    """Give a tokenizer that was made of the file alone its special tokens, and put `<s>` in front
    of prompts as mistral-common does; any other is left as it is."""
    from transformers import PreTrainedTokenizerFast

    is_alone = (folder / _FILE).is_file() and not (folder / "tokenizer.json").is_file()
    if not is_alone or not isinstance(tokenizer, PreTrainedTokenizerFast):
        return
    backend = tokenizer.backend_tokenizer
    for name, text in _NAMES.items():
        if getattr(tokenizer, name) is None and backend.token_to_id(text) is not None:
            setattr(tokenizer, name, text)
    if tokenizer.bos_token_id is not None and not backend.encode("").ids:
        from tokenizers import processors

        begin = tokenizer.bos_token
        backend.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
        )
