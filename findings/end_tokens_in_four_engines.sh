#!/usr/bin/env bash
# A model that writes a token of its templates (`<|eot_id|>`, `<|endoftext|>`, ...) and five letters behind it, in four
# engines: where the model's files name that token as an end beside another, as Llama 3's and Qwen's do in
# generation_config.json, and where they name the other one alone, as those of a base model do.
#
# Seen with transformers 5.24.0, mlx-lm 0.32.2, ctranslate2 4.8.5, xllamacpp 2026.10.11549 (llama.cpp), gguf 0.19.0:
#   ctranslate2's converter keeps one end token, the tokenizer's; it reads neither generation_config.json nor
#   config.json for more. A model that ends its turns by the other one is not stopped, and writes on to max_length
#   in every row; transformers and mlx-lm stop. `end_token=` on each call makes ctranslate2 stop as well.
#   llama.cpp ends at tokens by their names: at `<|eot_id|>`, `<|im_end|>`, `<|endoftext|>`, `<end_of_turn>`,
#   `<|eom_id|>`, `<EOT>`, `[EOS]` and others, though the file names one end token and that is not among them, and
#   whether they are control tokens there or plain words. The answer is done, with "stop" for a reason. The other
#   three write on behind it, and so does llama.cpp behind `<|x|>` and `<_eos>`. A warning stands in no row.
# So a row has one document by one engine and many by another, a few-shot prompt of documents is answered by nothing,
# and a job of turns that end by the second token of the list costs max_length each.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 ctranslate2==4.8.5 \
  xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import ctranslate2
import gguf
import mlx_lm
import numpy as np
import torch
import xllamacpp
from mlx_lm.generate import stream_generate
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

BY_NAME = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<|eom_id|>", "<EOT>", "[EOS]"]
OTHERS = ["<|x|>", "<_eos>", "<|im_start|>"]
SPECIAL = ["<s>", "</s>", *BY_NAME, *OTHERS]
VOCABULARY = SPECIAL + list("abcdef")
TOKEN = {token: place for place, token in enumerate(VOCABULARY)}
WIDTH, NEW = 32, 6
folders = 0


def weights(end):
    """Embeddings and output weights of a model that writes `end` behind an a, and the other letters behind that."""
    embedding, output = np.zeros((2, len(VOCABULARY), WIDTH), np.float32)
    embedding[np.arange(len(VOCABULARY)), np.arange(len(VOCABULARY))] = 1.0
    for token, then in {"a": end, end: "b", "b": "c", "c": "d", "d": "e", "e": "f"}.items():
        output[TOKEN[then], TOKEN[token]] = 1.0
    return embedding, output


def folder(end, ends):
    """A folder of that model, whose generation_config.json names `ends`."""
    global folders
    folders += 1
    path = f"model_{folders}"
    like = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
        num_attention_heads=1, bos_token_id=0, eos_token_id=ends, rope_theta=10000.0,
    )  # fmt: skip
    model = LlamaForCausalLM(like).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        for to, values in zip((model.model.embed_tokens, model.lm_head), weights(end)):
            to.weight.copy_(torch.tensor(values))
    model.generation_config = GenerationConfig(eos_token_id=ends, bos_token_id=0)
    model.save_pretrained(path)
    words = Tokenizer(models.BPE(vocab=TOKEN, merges=[]))
    words.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    words.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>").save_pretrained(path)
    return path


def by_transformers(path):
    model, ids = AutoModelForCausalLM.from_pretrained(path), torch.tensor([[TOKEN["a"]]])
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
    return model.generate(ids, **asked)[0, 1:].tolist()


def by_mlx(path):
    model, tokenizer = mlx_lm.load(path)
    return [step.token for step in stream_generate(model, tokenizer, prompt=[TOKEN["a"]], max_tokens=NEW)]


def by_ctranslate2(path, **more):
    ctranslate2.converters.TransformersConverter(path).convert(f"{path}_ct2", force=True)
    asked = {"max_length": NEW, "include_prompt_in_result": False, "return_end_token": True}
    return ctranslate2.Generator(f"{path}_ct2", "cpu").generate_batch([["a"]], **asked, **more)[0].sequences_ids[0]


def by_llamacpp(end, special_type):
    to = gguf.GGUFWriter("model.gguf", "llama")
    to.add_context_length(64)
    to.add_embedding_length(WIDTH)
    to.add_block_count(1)
    to.add_feed_forward_length(WIDTH)
    to.add_head_count(1)
    to.add_head_count_kv(1)
    to.add_layer_norm_rms_eps(1e-6)
    to.add_vocab_size(len(VOCABULARY))
    to.add_tokenizer_model("gpt2")
    to.add_tokenizer_pre("gpt-2")
    to.add_token_list(VOCABULARY)
    to.add_token_types([special_type if token in SPECIAL else gguf.TokenType.NORMAL for token in VOCABULARY])
    to.add_token_merges(["a b"])
    to.add_bos_token_id(0)
    to.add_eos_token_id(1)
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        to.add_tensor(f"blk.0.{part}.weight", np.zeros((WIDTH, WIDTH), np.float32))
    for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        to.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
    embedding, output = weights(end)
    to.add_tensor("token_embd.weight", embedding)
    to.add_tensor("output.weight", output)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = "model.gguf", 64, False
    answer = xllamacpp.Server(params).handle_completions({"prompt": [TOKEN["a"]], "n_predict": NEW, "temperature": 0.0})
    answer = answer[0] if isinstance(answer, list) else answer
    return answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]


print(*(f"{name} {version(name)}" for name in ("transformers", "mlx-lm", "ctranslate2", "xllamacpp")), sep=", ")
for end in SPECIAL[2:]:
    whole = [TOKEN[token] for token in (end, "b", "c", "d", "e", "f")]
    listed, alone = folder(end, [1, TOKEN[end]]), folder(end, 1)
    assert json.loads(Path(listed, "generation_config.json").read_text())["eos_token_id"] == [1, TOKEN[end]]
    found = {
        "transformers": [by_transformers(path) for path in (listed, alone)],
        "mlx-lm": [by_mlx(path) for path in (listed, alone)],
        "ctranslate2": [by_ctranslate2(path) for path in (listed, alone)],
    }
    told = ", ".join(f"{engine} {len(one)} and {len(other)}" for engine, (one, other) in found.items())
    in_gguf = [by_llamacpp(end, kind) for kind in (gguf.TokenType.CONTROL, gguf.TokenType.NORMAL)]
    print(f"{end:15} tokens where it is listed and where it is not: {told}; llama.cpp, not listed: {in_gguf}")
    assert found["transformers"] == found["mlx-lm"] == [whole[:1], whole]
    assert found["ctranslate2"] == [whole, whole]
    assert in_gguf == [(1, "stop") if end in BY_NAME else (NEW, "length")] * 2
    told_each_call = by_ctranslate2(listed, end_token=["</s>", end])
    assert told_each_call == whole[:1], told_each_call
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
