#!/usr/bin/env bash
# A prompt of 12 tokens by ctranslate2's `generate_batch`, alone and in one batch with another prompt, of 1,
# 2, 3, 11 or 12 tokens; greedily, with a setting more each time, and without the prompt in the result.
#
# Seen with ctranslate2 4.8.5 (float32, on a CPU), transformers 5.24.0, torch 2.13.0:
#   Beside a prompt of one token, as an answer from nothing but the begin token is, the long prompt's answer
#   is the prompt itself from its second token on, as far as max_length goes, with a score of 0, which is
#   certainty. Beside longer ones it is right.
#   repetition_penalty, no_repeat_ngram_size and suppress_sequences count the tokens of a prompt from the
#   batch's shortest prompt on, and none if the row is alone: a word of the prompt is held against the answer
#   if a shorter prompt is in the batch. The shorter row's answer is always as it is alone. With
#   max_batch_size=1 the long one's is too. Without these settings lengths make no difference. No warning.
# So the same row has another answer by what it was batched with, and a row of nothing among the prompts
# makes questions the answers to themselves.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 ctranslate2==4.8.5
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import ctranslate2
import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = [chr(40 + token) for token in range(64)]
WIDTH = len(NAMES)
PROMPT = [1, *range(10, 20), 5]
NEW = 10
# what a token's successors are, the best first; behind the prompt's last token comes a word of the prompt
FOLLOWS = {5: (13, 30), 13: (40, 41)} | {token: (token + 1, 29) for token in range(20, 62)}
config = LlamaConfig(
    vocab_size=WIDTH, hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
)
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for name, weight in model.named_parameters():
        weight.fill_(1.0 if "norm" in name else 0.0)
    model.model.embed_tokens.weight.copy_(torch.eye(WIDTH))
    for token, (best, second) in FOLLOWS.items():
        model.lm_head.weight[best, token], model.lm_head.weight[second, token] = 1.0, 0.9
model.save_pretrained("model")
letters = Tokenizer(models.BPE(vocab={name: token for token, name in enumerate(NAMES)}, merges=[]))
special = dict(zip(("unk_token", "bos_token", "eos_token"), NAMES))
PreTrainedTokenizerFast(tokenizer_object=letters, **special).save_pretrained("model")
ctranslate2.converters.TransformersConverter("model").convert("converted")
generator = ctranslate2.Generator("converted", "cpu", inter_threads=1, intra_threads=1)

ids = torch.tensor([PROMPT])
asked = {"attention_mask": torch.ones_like(ids), "max_new_tokens": NEW, "do_sample": False}
greedy = model.generate(ids, **asked)[0, len(PROMPT) :].tolist()
SETTINGS = [
    {},
    {"repetition_penalty": 2.0},
    {"no_repeat_ngram_size": 1},
    {"suppress_sequences": [[NAMES[PROMPT[-1]], NAMES[greedy[0]]]]},
]


def answers(prompts, **settings):
    """The tokens of each answer and its score."""
    texts = [[NAMES[token] for token in prompt] for prompt in prompts]
    settings = {"include_prompt_in_result": False, "max_length": NEW, "return_scores": True} | settings
    done = generator.generate_batch(texts, **settings)
    return [(one.sequences_ids[0], one.scores[0]) for one in done]


print(f"ctranslate2 {version('ctranslate2')}, transformers {version('transformers')}")
print("transformers     ", greedy)
seen = {}
for settings in SETTINGS:
    name = next(iter(settings), "nothing more")
    alone, score = answers([PROMPT], **settings)[0]
    print(f"{name}\n    alone         {alone}")
    assert len(alone) == NEW and score < -0.1
    assert alone == greedy
    for length in (1, 2, 3, 11, 12):
        other = [1, *range(20, 19 + length)]
        (short, _), (found, score) = answers([other, PROMPT], **settings)
        assert short == answers([other], **settings)[0][0]
        one_by_one = answers([other, PROMPT], max_batch_size=1, **settings)
        assert one_by_one[1][0] == alone
        seen[name, length] = "same" if found == alone else "prompt" if found == PROMPT[1 : 1 + NEW] else "other"
        print(f"    beside {length:2}     {found} {seen[name, length]}, score {score:.3f}")
        assert (score == 0) == (seen[name, length] == "prompt")
for (name, length), what in seen.items():
    if length == 1:
        assert what == "prompt"
    else:
        counted = length < 12 if name == "suppress_sequences" else length < 5 and name != "nothing more"
        assert what == ("other" if counted else "same"), (name, length)
PY
OMP_NUM_THREADS=1 HF_HOME=$work/hf venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
