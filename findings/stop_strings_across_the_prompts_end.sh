#!/usr/bin/env bash
# Prompts whose last letters are the beginning of a stop string, as "A:\n" is with the stop "\n\n", and
# models whose answer goes on with the rest of it, by two engines.
#
# Seen with transformers 5.24.0, xllamacpp 2026.10.11549 (llama.cpp):
#   transformers looks for the stop string in the prompt and the answer together: a line break that the
#   prompt ends with and one that the answer begins with are "\n\n", and the answer ends there, after one
#   token. llama.cpp looks at the answer alone, and writes it all. A stop string that stands in the prompt as
#   a whole ends neither. In the answer proper both stop; transformers keeps the stop string and what
#   the last token had behind it, llama.cpp keeps neither. Nobody tells.
# So every row of a prompt that ends in a line break is empty if the model begins with one, and a score
# compares two models by how they begin.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 gguf==0.19.0 xllamacpp==2026.10.11549
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import gguf
import numpy as np
import torch
import xllamacpp
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

VOCABULARY = ["Ċ", ":", "A", "B", "C", "D", "E", "CD", "ĊA"]
WIDTH, NEW = 32, 6
TOKEN = {token: place for place, token in enumerate(VOCABULARY)}
CASES = {  # a prompt's tokens, what follows each token, the stop string
    "the answer begins with its rest": ("A : Ċ", {"Ċ": "ĊA", "ĊA": "B", "B": "B"}, "\n\n"),
    "the same, in letters": ("B A", {"A": "B", "B": "C", "C": "D", "D": "E", "E": "E"}, "AB"),
    "it stands in the prompt": ("A B C", {"C": "D", "D": "E", "E": "E"}, "BC"),
    "it stands in the answer": ("A", {"A": "B", "B": "C", "C": "D", "D": "D"}, "BC"),
    "it ends within a token": ("A", {"A": "B", "B": "CD", "CD": "E", "E": "E"}, "BC"),
}


def weights(follows):
    """Embeddings and output weights of a model that writes behind each token the one that follows it."""
    embedding, output = np.zeros((2, len(VOCABULARY), WIDTH), np.float32)
    embedding[np.arange(len(VOCABULARY)), np.arange(len(VOCABULARY))] = 1.0
    for token, then in follows.items():
        output[TOKEN[then], TOKEN[token]] = 1.0
    return embedding, output


letters = Tokenizer(models.BPE(vocab=TOKEN, merges=[("C", "D"), ("Ċ", "A")]))
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
letters.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters)
config = LlamaConfig(
    vocab_size=len(VOCABULARY), hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1,
    num_attention_heads=1, bos_token_id=None, eos_token_id=None, pad_token_id=0,
)


def by_transformers(prompt, follows, stop):
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if "norm" in name else 0.0)
        for to, values in zip((model.model.embed_tokens, model.lm_head), weights(follows)):
            to.weight.copy_(torch.tensor(values))
    ids = torch.tensor([prompt])
    asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
    done = model.generate(ids, stop_strings=[stop], tokenizer=tokenizer, **asked)
    return tokenizer.decode(done[0, len(prompt) :])


def by_llamacpp(prompt, follows, stop):
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
    to.add_token_types([gguf.TokenType.NORMAL] * len(VOCABULARY))
    to.add_token_merges(["C D", "Ċ A"])
    for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        to.add_tensor(f"blk.0.{part}.weight", np.zeros((WIDTH, WIDTH), np.float32))
    for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        to.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
    embedding, output = weights(follows)
    to.add_tensor("token_embd.weight", embedding)
    to.add_tensor("output.weight", output)
    to.write_header_to_file()
    to.write_kv_data_to_file()
    to.write_tensors_to_file()
    to.close()
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = "model.gguf", 64, False
    server = xllamacpp.Server(params)
    asked = {"prompt": prompt, "n_predict": NEW, "stop": [stop], "temperature": 0.0, "ignore_eos": True}
    answer = server.handle_completions(asked)
    return (answer[0] if isinstance(answer, list) else answer)["choices"][0]["text"]


print(*(f"{name} {version(name)}" for name in ("transformers", "xllamacpp")), sep=", ")
seen = {}
for case, (prompt, follows, stop) in CASES.items():
    ids = [TOKEN[token] for token in prompt.split()]
    seen[case] = by_transformers(ids, follows, stop), by_llamacpp(ids, follows, stop)
    print(f"stop at {stop!r} behind {tokenizer.decode(ids)!r}, {case}:")
    print(f"    transformers {seen[case][0]!r}, llama.cpp {seen[case][1]!r}")
assert list(seen.values()) == [
    ("\nA", "\nABBBBB"),
    ("B", "BCDEEE"),
    ("DEEEEE", "DEEEEE"),
    ("BC", ""),
    ("BCD", ""),
], seen
PY
HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
