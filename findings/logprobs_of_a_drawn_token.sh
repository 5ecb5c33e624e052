#!/usr/bin/env bash
# The log-probability that four engines give of the token that they wrote, under one setting at a time (temperature,
# top_p, top_k, a repetition penalty on a token of the prompt, a bias against one), beside that of the model itself:
# one model, whose distribution over 32 tokens is the same behind every prompt.
#
# Seen with transformers 5.24.0, mlx-lm 0.32.2, ctranslate2 4.8.5, xllamacpp 2026.10.11549 (llama.cpp):
#   transformers' `output_scores`, and `compute_transition_scores` of them, are of what was left after every setting:
#   under top_p 0.3 the one token that is left has 0, which is certainty, where the model gives it -0.93, and under a
#   temperature of 2 each number is another one. mlx-lm's are behind the penalty and the bias, and before temperature,
#   top_p and top_k. llama.cpp's server and ctranslate2's scores and logits are of the model alone, whatever was set: of a token
#   that a bias of 10 made nearly certain they say -5.9. llama.cpp's `post_sampling_probs` are those of transformers,
#   as probabilities. Without a setting all four agree. Nothing in a row says which it is.
# So a threshold on a row's log-probability, a perplexity of answers or a vote weighted by it, found in one engine, is of
# another quantity in the next, and a mean over rows of several temperatures is of none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0 'mlx[cpu]==0.32.4' mlx-lm==0.32.2 ctranslate2==4.8.5 \
  xllamacpp==2026.10.11549 gguf==0.19.0 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version
from math import log
from pathlib import Path

import ctranslate2
import gguf
import mlx.core as mx
import numpy as np
import torch
import xllamacpp
from mlx_lm.generate import generate_step
from mlx_lm.sample_utils import make_logits_processors, make_sampler
from mlx_lm.utils import load_model
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TOKENS = WIDTH = 32
LOGITS = 8 - 0.5 * np.arange(TOKENS)  # the best token is 0, and so is the prompt
NAMES = [chr(65 + token) for token in range(TOKENS)]
CASES = {
    "nothing": {},
    "temperature 2": {"temperature": 2.0},
    "top_p 0.3": {"top_p": 0.3},
    "top_k 2": {"top_k": 2},
    "repetition_penalty 1.5": {"repetition_penalty": 1.5},
    "a bias of 10 for token 10": {"bias": (10, 10.0)},
}
OFF = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}


def normal(logits):
    return logits - np.log(np.exp(logits).sum())


config = LlamaConfig(
    vocab_size=TOKENS, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1, num_attention_heads=1,
    bos_token_id=None, eos_token_id=None, pad_token_id=1, rope_theta=10000.0,
)  # fmt: skip
model = LlamaForCausalLM(config).eval()
output = np.zeros((TOKENS, WIDTH), np.float32)
output[:, 0] = LOGITS
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name or "embed" in name else 0.0)
    model.lm_head.weight.copy_(torch.tensor(output))
model.save_pretrained("model")
letters = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(NAMES)}, merges=[]))
ends = dict.fromkeys(("unk_token", "bos_token", "eos_token"), NAMES[-1])
PreTrainedTokenizerFast(tokenizer_object=letters, **ends).save_pretrained("model")
in_mlx, _ = load_model(Path("model"))
ctranslate2.converters.TransformersConverter("model").convert("model_ct2")
in_ctranslate2 = ctranslate2.Generator("model_ct2", "cpu")
ctranslate2.set_random_seed(0)
to = gguf.GGUFWriter("model.gguf", "llama")
to.add_context_length(64)
to.add_embedding_length(WIDTH)
to.add_block_count(1)
to.add_feed_forward_length(WIDTH)
to.add_head_count(1)
to.add_head_count_kv(1)
to.add_layer_norm_rms_eps(1e-6)
to.add_vocab_size(TOKENS)
to.add_tokenizer_model("gpt2")
to.add_tokenizer_pre("gpt-2")
to.add_token_list(NAMES)
to.add_token_types([gguf.TokenType.NORMAL] * TOKENS)
to.add_token_merges(["A B"])
for part in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
    to.add_tensor(f"blk.0.{part}.weight", np.zeros((WIDTH, WIDTH), np.float32))
for norm in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
    to.add_tensor(f"{norm}.weight", np.ones(WIDTH, np.float32))
to.add_tensor("token_embd.weight", np.ones((TOKENS, WIDTH), np.float32))
to.add_tensor("output.weight", output)
to.write_header_to_file()
to.write_kv_data_to_file()
to.write_tensors_to_file()
to.close()
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.warmup = "model.gguf", 64, False
server = xllamacpp.Server(params)


def by_transformers(settings):
    settings = OFF | settings
    bias = settings.pop("bias", None)
    asked = settings | ({"sequence_bias": [[[bias[0]], bias[1]]]} if bias else {})
    ids = torch.tensor([[0]])
    done = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=1, do_sample=True, output_scores=True,
        return_dict_in_generate=True, **asked,
    )  # fmt: skip
    scores = model.compute_transition_scores(done.sequences, done.scores, normalize_logits=True)
    return int(done.sequences[0, 1]), float(scores[0, 0])


def by_llamacpp(settings, drawn=False):
    settings = {"min_p": 0.0} | OFF | settings
    asked = {"repeat_penalty": settings.pop("repetition_penalty", 1.0)}
    if "bias" in settings:
        asked["logit_bias"] = [list(settings.pop("bias"))]
    asked |= {"prompt": [0], "n_predict": 1, "n_probs": 1, "post_sampling_probs": drawn}
    answer = server.handle_completions(asked | settings)
    first = (answer[0] if isinstance(answer, list) else answer)["choices"][0]["logprobs"]["content"][0]
    return first["id"], log(first["prob"]) if drawn else first["logprob"]


def by_mlx(settings):
    settings = OFF | settings
    bias, penalty = settings.pop("bias", None), settings.pop("repetition_penalty", None)
    processors = make_logits_processors(dict([bias]) if bias else None, penalty)
    sampler = make_sampler(temp=settings.pop("temperature"), **settings)
    token, logprobs = next(
        generate_step(mx.array([0]), in_mlx, max_tokens=1, sampler=sampler, logits_processors=processors)
    )
    return int(token), float(logprobs[int(token)])


def by_ctranslate2(settings):
    if "bias" in settings:
        return None  # it has none
    settings = OFF | settings
    asked = {"sampling_temperature": settings.pop("temperature"), "sampling_topp": settings.pop("top_p")}
    asked |= {"sampling_topk": settings.pop("top_k"), "return_scores": True, "return_logits_vocab": True}
    done = in_ctranslate2.generate_batch([["A"]], max_length=1, include_prompt_in_result=False, **asked, **settings)[0]
    token = done.sequences_ids[0][0]
    logits = normal(np.array(done.logits[0]).ravel()[:TOKENS].astype(float))
    assert abs(logits[token] - done.scores[0]) < 0.01, (logits[token], done.scores)
    return token, done.scores[0]


def left(settings):
    """The distribution that is drawn from, by transformers' order, and that behind penalty and bias alone."""
    logits = LOGITS.copy()
    if "bias" in settings:
        logits[settings["bias"][0]] += settings["bias"][1]
    logits[0] /= settings.get("repetition_penalty", 1.0)
    processed = normal(logits)
    drawn = normal(logits / settings.get("temperature", 1.0))
    kept = settings.get("top_k", TOKENS)
    if "top_p" in settings:
        kept = int((np.cumsum(np.exp(drawn)) < settings["top_p"]).sum()) + 1
    drawn[kept:] = -np.inf
    return normal(drawn), processed


ENGINES = {
    "transformers": by_transformers, "llama.cpp, drawn": lambda settings: by_llamacpp(settings, drawn=True),
    "mlx-lm": by_mlx, "llama.cpp": by_llamacpp, "ctranslate2": by_ctranslate2,
}  # fmt: skip
print(*(f"{name} {version(name)}" for name in ("transformers", "mlx-lm", "ctranslate2", "xllamacpp")), sep=", ")
raw = normal(LOGITS)
for case, settings in CASES.items():
    drawn, processed = left(settings)
    print(f"{case}: the model gives token 0 {raw[0]:.3f}, 1 {raw[1]:.3f}, 10 {raw[10]:.3f}")
    for engine, ask in ENGINES.items():
        for turn in range(8):
            if (found := ask(settings)) is None:
                continue
            token, said = found
            wanted = (drawn if "transformers" in engine or "drawn" in engine else processed if engine == "mlx-lm" else raw)[token]
            if turn == 0:
                print(f"    {engine:17} token {token:2}: {said:.3f}")
            assert abs(said - wanted) < 0.02, (case, engine, token, said, wanted)
assert abs(left(CASES["top_p 0.3"])[0][0]) < 1e-6 and raw[0] < -0.9
assert left(CASES["a bias of 10 for token 10"])[0][10] > -0.02 and raw[10] < -5.9
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
