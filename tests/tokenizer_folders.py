"""Small tokenizers of the common kinds, written as model folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer

TEXTS = [
    "Hello world, this is a test.",
    "  leading spaces and\n\nnew lines\t tabs ",
    "héllo wörld 🎉 日本語 12345 3.14",
    "<s> not a token? <|im_end|> <|im_start|>user",
    "don't can't I'll  'quoted'",
    "",
]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WITH_BOS = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def _bpe(prepare: Any, unk: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>" if unk else None, byte_fallback=unk))
    prepare(tokenizer)
    alphabet = pre_tokenizers.ByteLevel.alphabet() if not unk else []
    special = SPECIAL + ([f"<0x{byte:02X}>" for byte in range(256)] if unk else [])
    trainer = BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def _byte_level(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()


def _sentencepiece(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )


def _with_bos(tokenizer: Tokenizer) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )


def make(folder: Path, kind: str) -> Path:
    """Kinds: gpt2, gpt2_class, llama3 (byte-level with BOS), llama_class, qwen2, truncating."""
    tokenizer = _bpe(_sentencepiece, True) if kind == "llama_class" else _bpe(_byte_level, False)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"}
    config |= {"bos_token": "<s>", "unk_token": "<unk>", "chat_template": CHATML}
    model_type = "llama"
    if kind in ("llama3", "llama_class"):
        _with_bos(tokenizer)
        config["chat_template"] = WITH_BOS
    if kind == "gpt2_class":
        config["tokenizer_class"], model_type = "GPT2Tokenizer", "gpt2"
    if kind == "qwen2":
        config |= {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None}
        model_type = "qwen2"
    if kind == "llama_class":
        config |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    if kind == "truncating":
        tokenizer.enable_truncation(4)
        tokenizer.enable_padding(length=9)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def with_added_past_the_model(folder: Path) -> Path:
    """A tiny model whose tokenizer got a `[PAD]` and an `[END]` that it has no rows for; `[END]` is
    named as an end."""
    from tiny_models import tiny_model  # with torch, which tokenizers do not need

    make(folder, "gpt2")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    module = tiny_model("llama", vocab_size=size)
    module.generation_config.eos_token_id = [2, size + 1]
    module.save_pretrained(folder)
    tokenizer.add_special_tokens(["[PAD]", "[END]"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder
