#!/usr/bin/env bash
# A prompt of 5 tokens by transformers' `generate`, alone and in one batch with a prompt of 20, padded on the left under
# an attention mask, greedy; with each of the settings that say how long an answer may or must be.
#
# Seen with transformers 5.24.0, torch 2.13.0 on a CPU:
#   min_length and max_length count the padding. Of min_length 12 the short prompt keeps seven tokens of its own to write
#   when it is alone; beside the longer one its row is 20 wide before it begins, and it ends where it likes. Of
#   max_length 24 it may write 19 tokens alone and 4 beside the other. exponential_decay_length_penalty counts from
#   where the answers begin, and min_new_tokens and max_new_tokens do, too: with these, both give the same tokens.
#   Of the other settings that look at what stands before, no_repeat_ngram_size 2 counts the padding as text: a
#   model that writes the padding's token may not write it twice in a row beside a longer prompt. Nobody warns.
# So a checkpoint whose generation_config has min_length, as those for summaries do, keeps its promise for the longest
# prompt of each batch alone, and how rows are put into batches changes what they are answered.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>warned
from importlib.metadata import version

import torch
from transformers import LlamaConfig, LlamaForCausalLM

PAD, NEW = 0, 10
SHORT, LONGER = [3, 17, 9, 22, 5], [3] * 20


def made(seed):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
            bos_token_id=PAD, eos_token_id=31, pad_token_id=PAD, initializer_range=0.4,
        )
    ).eval()
    return model


def answer(model, prompts, pad=PAD, **setting):
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=pad, **setting)
    return out[0, width:].tolist()


def until(tokens, end):
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def both(model, end=None, **setting):
    how = setting if end is None else setting | {"eos_token_id": end}
    found = [until(answer(model, p, **how), end) for p in ([SHORT], [SHORT, LONGER])]
    print(f"{setting!s:75} alone {found[0]}, beside a longer one {found[1]}")
    return found


print(*(f"{name} {version(name)}" for name in ("transformers", "torch")), sep=", ")
model = made(1)
plain, beside = both(model, max_new_tokens=NEW)
assert plain == beside and len(plain) == NEW
end = plain[3]
ended = until(plain, end)
assert both(model, end, max_new_tokens=NEW) == [ended, ended]
alone, beside = both(model, end, max_new_tokens=NEW, min_length=12)
assert len(alone) >= 12 - len(SHORT) > len(ended) and beside == ended
alone, beside = both(model, end, max_new_tokens=NEW, min_new_tokens=7)
assert alone == beside and len(alone) >= 7
alone, beside = both(model, max_length=24)
assert (len(alone), len(beside)) == (19, 4)
alone, beside = both(model, end, max_new_tokens=NEW, exponential_decay_length_penalty=(1, 50.0))
assert alone == beside

# the same model, whose padding is a token that it writes
alone, beside = both(model, pad=plain[4], max_new_tokens=NEW, no_repeat_ngram_size=2)
twice = [plain[4]] * 2
assert twice in [alone[n : n + 2] for n in range(NEW)]
assert twice not in [beside[n : n + 2] for n in range(NEW)]
PY
! grep -qi "min_length\|padding\|ngram" warned
