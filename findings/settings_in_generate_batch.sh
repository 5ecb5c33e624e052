#!/usr/bin/env bash
# One prompt, one greedy model and one setting at a time, by transformers' `generate` and by its
# `generate_batch` (continuous batching), which takes the same GenerationConfig.
#
# Seen with transformers 5.24.0, torch 2.13.0 on a CPU:
#   min_new_tokens, stop_strings and repetition_penalty change nothing for `generate_batch`: its tokens
#   are those without the setting. Of the penalty it warns, once a call, as of a processor that it
#   drops; of the minimum and the stop strings it says nothing. no_repeat_ngram_size it keeps, and
#   every request fails: the call returns an empty answer, with the error in a field beside it. The
#   end token, and without a setting every token, are as `generate` has them.
# So moving a job from one call to the other, for the same model and config, changes its answers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>warned
from importlib.metadata import version

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

torch.manual_seed(1)
NEVER, NEW = 31, 8
vocabulary = {letter: token for token, letter in enumerate("abcdefghijklmnopqrstuvwxyz012345")}
made = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
made.pre_tokenizer, made.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=made)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=0, eos_token_id=NEVER, pad_token_id=0, initializer_range=0.4,
    )
).eval()
small = ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=64)
prompt = [3, 17, 9, 22, 5, 30, 11, 8]


def both(**setting):
    config = GenerationConfig(
        **{"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "eos_token_id": NEVER}
        | setting
    )
    rows = torch.tensor([prompt])
    how = {"tokenizer": tokenizer} if "stop_strings" in setting else {}
    alone = model.generate(
        rows, attention_mask=torch.ones_like(rows), generation_config=config, **how
    )
    (batched,) = model.generate_batch(
        [prompt], generation_config=config, continuous_batching_config=small, warmup=False
    ).values()
    found = alone[0, len(prompt) :].tolist(), list(batched.generated_tokens)
    print(f"{setting!s:42}", *map(tokenizer.decode, found), batched.error or "")
    return found


print(*(f"{name} {version(name)}" for name in ("transformers", "torch")), sep=", ")
plain, batched = both()
assert plain == batched and len(plain) == NEW
end = plain[4]
first, ended = plain[: plain.index(end) + 1], {"eos_token_id": end}
assert both(**ended) == (first, first)
found = both(**ended, min_new_tokens=NEW - 1)
assert len(found[0]) >= NEW - 1 and found[1] == first
found = both(stop_strings=[tokenizer.decode(plain[2:4])])
assert found == (plain[:4], plain)
found = both(repetition_penalty=1.8)
assert found[0] != plain and found[1] == plain
found = both(no_repeat_ngram_size=1)
assert len(set(found[0])) == NEW and found[1] == []
PY
dropped=$(grep "isn't supported by CB" warned)
echo "${dropped##* - }"
test "$(grep -c "isn't supported by CB" warned)" = 1
! grep -qi "min.*new\|stop.*string" warned
