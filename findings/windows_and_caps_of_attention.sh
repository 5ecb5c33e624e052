#!/usr/bin/env bash
# Small models whose layers look back no further than 8 tokens (`sliding_window`, which is 4096 for Mistral's
# first 7B, Gemma 2 and StarCoder2, and 2047 for a Phi-3), and 40 tokens read by transformers and by two other
# engines that take the same folder; and a gemma2 with its soft caps (50 in attention, 30 for the logits) and
# without. The base of the positions is written where all of them look for it.
#
# Seen with transformers 5.24.0, mlx-lm 0.32.2, ctranslate2 4.8.5:
#   mlx-lm looks back over everything for mistral, mixtral, phi3, gemma2, starcoder2, qwen2 and qwen3, and
#   keeps the window of gemma3. ctranslate2 looks back over everything for qwen3 and gemma2. Up to the eighth
#   token they agree with transformers, and behind it they are off by whole units of log-probability. With a
#   window that the text does not fill all of them agree. ctranslate2 passes over both caps too: without them
#   it agrees, with them it is off by nearly half a unit; mlx-lm keeps them. Nobody warns.
# So rows that fit into the window have the same completions everywhere, and longer ones those of a model that
# nobody trained; a trial on short rows shows nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 "mlx[cpu]==0.32.4" mlx-lm==0.32.2 \
  ctranslate2==4.8.5
cd "$work"
cat > look.py <<'PY'
import json
from importlib.metadata import version
from pathlib import Path

import ctranslate2
import mlx.core as mx
import numpy as np
import torch
from mlx_lm.utils import load_model
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

WINDOW, IDS = 8, list(range(4, 44))
NAMES = [chr(40 + token) for token in range(64)]
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 8192,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}
ALL_LAYERS = {"use_sliding_window": True, "max_window_layers": 0}
GEMMA = {"head_dim": 16, "query_pre_attn_scalar": 16}
NO_CAPS = {"attn_logit_softcapping": None, "final_logit_softcapping": None}
KINDS = {
    "mistral": {}, "mixtral": {"num_local_experts": 2}, "phi3": {}, "gemma2": GEMMA, "starcoder2": {},
    "qwen2": ALL_LAYERS, "qwen3": ALL_LAYERS | {"head_dim": 16},
    "gemma3_text": GEMMA | {"num_hidden_layers": 6},
}


def write(kind, window, **more):
    """A folder with a model of that kind, and its log-probabilities behind each of IDS."""
    folder = f"{kind}_{window}_{len(more)}"
    config = AutoConfig.for_model(kind, **(SIZES | KINDS[kind] | more), sliding_window=window)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
        wanted = model(torch.tensor([IDS])).logits[0].log_softmax(-1).numpy()
    model.save_pretrained(folder)
    letters = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(NAMES)}, merges=[]))
    special = dict(zip(("unk_token", "bos_token", "eos_token"), NAMES))
    PreTrainedTokenizerFast(tokenizer_object=letters, **special).save_pretrained(folder)
    at = Path(folder, "config.json")
    said = json.loads(at.read_text())
    ropes = said["rope_parameters"]
    if "full_attention" in ropes:
        said["rope_local_base_freq"] = ropes["sliding_attention"]["rope_theta"]
    said["rope_theta"] = ropes.get("full_attention", ropes)["rope_theta"]
    assert said["sliding_window"] == window
    at.write_text(json.dumps(said))
    return folder, wanted


def by_mlx(folder):
    model, _ = load_model(Path(folder))
    logits = model(mx.array([IDS]))[0]
    return np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))


def by_ctranslate2(folder):
    ctranslate2.converters.TransformersConverter(folder).convert(f"{folder}_ct2", force=True)
    generator = ctranslate2.Generator(f"{folder}_ct2", "cpu")
    found = generator.forward_batch([[NAMES[token] for token in IDS]], return_log_probs=True)
    return np.array(found)[0, :, :64]


print(*(f"{name} {version(name)}" for name in ("transformers", "mlx-lm", "ctranslate2")), sep=", ")
kept = {}
for kind in KINDS:
    engines = {"mlx-lm": by_mlx} | ({"ctranslate2": by_ctranslate2} if kind == "qwen3" else {})
    for window in (4096, WINDOW):
        folder, wanted = write(kind, window)
        for engine, read in engines.items():
            off = np.abs(read(folder) - wanted).max(axis=1)
            inside, behind = float(off[:WINDOW].max()), float(off[-1])
            print(f"{kind:11} window {window:4} {engine:11} off by {inside:.3f} up to token 8, {behind:.3f} at 40")
            assert inside < 0.1, (kind, engine)
            if window == WINDOW:
                kept[kind, engine] = behind < 0.1
                assert kept[kind, engine] or behind > 0.5
            else:
                assert behind < 0.1, (kind, engine)
for engine, read in (("mlx-lm", by_mlx), ("ctranslate2", by_ctranslate2)):
    for caps in ({}, NO_CAPS) if engine == "ctranslate2" else ({},):
        folder, wanted = write("gemma2", 4096, **caps)
        off = float(np.abs(read(folder) - wanted).max())
        print(f"gemma2 {'without' if caps else 'with':7} caps {engine:11} off by {off:.3f}")
        assert (off > 0.2) == (engine == "ctranslate2" and not caps)
folder, wanted = write("gemma2", WINDOW, **NO_CAPS)
off = np.abs(by_ctranslate2(folder) - wanted).max(axis=1)
print(f"gemma2 without caps, window {WINDOW}, ctranslate2 off by {off[: WINDOW].max():.3f} and {off[-1]:.3f}")
assert off[:WINDOW].max() < 0.1 and off[-1] > 0.5
assert [name for name, keeps in kept.items() if keeps] == [("gemma3_text", "mlx-lm")] and len(kept) == 9
PY
OMP_NUM_THREADS=1 HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
if grep -i -E "window|sliding|softcap" said; then exit 1; fi
