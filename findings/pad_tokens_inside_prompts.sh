#!/usr/bin/env bash
# One prompt, alone and not padded, in which the model's padding token stands: amid the text (as Qwen's
# <|endoftext|>, which is its padding too, stands between the documents of a prompt), or last; and beside it
# the same prompt with another token there.
#
# Seen with transformers 5.24.0, onnxruntime-genai 0.18.0, onnxruntime 1.32.0:
#   transformers' `generate`, given ids alone, takes such a token for padding and does not let the model see
#   it, wherever it stands; `forward`, given the same ids, does. An `attention_mask` of ones makes them agree,
#   and so does a padding token that is an end token too. onnxruntime-genai lets the model see it amid the
#   text, and of one that is last it gives the logits of the token before, as if the prompt had ended there.
#   Another token there makes no difference to any of them. Nobody warns.
# So the separators that a prompt needs are not there for one engine, its last one is not for another, and
# a comparison of log-probabilities with completions is one of two prompts.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 onnxruntime==1.32.0 \
  onnxruntime-genai==0.18.0 onnx==1.23.2 onnx-ir==1.1.0
cd "$work"
cat > look.py <<'PY'
import subprocess
import sys
import warnings
from importlib.metadata import version

import numpy as np
import onnxruntime_genai
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS, PAD, OTHER = 64, 3, 4
config = LlamaConfig(
    vocab_size=TOKENS, hidden_size=128, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=PAD,
)
torch.manual_seed(0)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        if "norm" not in name:
            weight.normal_(std=0.3)
model.save_pretrained("model")
letters = Tokenizer(models.BPE(vocab={chr(40 + token): token for token in range(TOKENS)}, merges=[]))
special = {"bos_token": chr(41), "eos_token": chr(42), "pad_token": chr(43)}
PreTrainedTokenizerFast(tokenizer_object=letters, **special).save_pretrained("model")
build = ["-m", "onnxruntime_genai.models.builder", "-i", "model", "-o", "onnx", "-p", "fp32", "-e", "cpu"]
subprocess.run([sys.executable, *build, "-c", "cache"], check=True, capture_output=True)
engine = onnxruntime_genai.Model("onnx")


def normal(logits):
    return torch.tensor(np.array(logits, dtype=np.float32)).log_softmax(-1)


def by_generate(ids, **more):
    asked = {"max_new_tokens": 1, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    return normal(model.generate(torch.tensor([ids]), **asked, **more).logits[0][0])


def by_onnx(ids):
    params = onnxruntime_genai.GeneratorParams(engine)
    params.set_search_options(max_length=64, batch_size=1)
    generator = onnxruntime_genai.Generator(engine, params)
    generator.append_tokens(np.array([ids], dtype=np.int32))
    return normal(generator.get_logits()[0, -1])


PROMPTS = {
    "amid the text": [1, 5, 6, PAD, 7, 8, PAD, 9],
    "last": [1, 5, 6, 7, 8, 9, PAD],
}
print(*(f"{name} {version(name)}" for name in ("transformers", "onnxruntime-genai", "onnxruntime")), sep=", ")
seen = {}
with torch.no_grad(), warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for where, prompt in PROMPTS.items():
        for what in ("padding token", "other token"):
            ids = prompt if what == "padding token" else [OTHER if token == PAD else token for token in prompt]
            wanted = normal(model(torch.tensor([ids])).logits[0, -1])
            shorter = normal(model(torch.tensor([ids[:-1]])).logits[0, -1])
            found = {
                "generate": by_generate(ids),
                "with a mask": by_generate(ids, attention_mask=torch.ones(1, len(ids), dtype=torch.long)),
                "with eos = pad": by_generate(ids, eos_token_id=[2, PAD]),
                "onnxruntime-genai": by_onnx(ids),
            }
            off = {name: float((logits - wanted).abs().max()) for name, logits in found.items()}
            told = ", ".join(f"{name} {number:.4f}" for name, number in off.items())
            print(f"{what} {where}, off from forward: {told}")
            seen[where, what] = {name for name, number in off.items() if number > 1e-2}
            if (where, what) == ("last", "padding token"):
                assert float((found["onnxruntime-genai"] - shorter).abs().max()) < 1e-3
assert not [one for one in warned if "pad" in str(one.message) and "eos" not in str(one.message)]
assert seen == {
    ("amid the text", "padding token"): {"generate"},
    ("amid the text", "other token"): set(),
    ("last", "padding token"): {"generate", "onnxruntime-genai"},
    ("last", "other token"): set(),
}, seen
PY
OMP_NUM_THREADS=1 HF_HOME=$work/hf venv/bin/python look.py 2>said || { cat said; exit 1; }
if grep -i -E "padding|attention_mask" said; then exit 1; fi
