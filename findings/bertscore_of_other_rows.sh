#!/usr/bin/env bash
# Ten answers and their references, of different lengths, judged by torchmetrics' BERTScore: each pair alone, all of
# them in one call, the same pairs in other orders, with a small model of random weights; and beside it the measure
# written out for one pair.
#
# Seen with torchmetrics 1.9.0, transformers 5.24.0, torch 2.13.0:
#   The texts are sorted by length, answers and references each by their own, and put back by the same indices
#   once more instead of by their inverse. An answer is then compared with the reference of another row: here all
#   ten have another score than alone, and another order of the same pairs gives other scores and another mean. Where all
#   lengths are equal, or the rows come sorted by length, or there are two of them, all is right, and texts
#   compared with themselves have 1 in any order. `BERTScore().update` batch by batch ends in the same. An empty text
#   that meets another has a score of 0, in the place of a row that is not empty. Nothing is said.
# So a file of completions has a mean of pairs that nobody made: a good model beside a bad one is as good or as bad as
# what its lengths happen to sort together, and the row that is worst by score is another one.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q torchmetrics==1.9.0 transformers==5.24.0 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import random
from importlib.metadata import version
from pathlib import Path

import torch
from torchmetrics.functional.text import bert_score
from torchmetrics.text import BERTScore
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, BertTokenizerFast

WORDS = [f"w{place}" for place in range(60)]
Path("vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
torch.manual_seed(0)
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
model = BertModel(BertConfig(vocab_size=65, max_position_embeddings=64, **sizes))
with torch.no_grad():
    for weight in model.parameters():
        weight.mul_(3 if weight.dim() > 1 else 1)
model.save_pretrained("model")
BertTokenizerFast(vocab_file="vocab.txt").save_pretrained("model")
model, tokenizer = AutoModel.from_pretrained("model").eval(), AutoTokenizer.from_pretrained("model")
HOW = {"model_name_or_path": "model", "num_layers": 2, "verbose": False}


def judged(answers, references):
    return torch.as_tensor(bert_score(answers, references, **HOW)["f1"]).reshape(-1).tolist()


def written_out(answer, reference):
    """F1 of one pair: each token's best cosine on the other side, without the tokens at both ends."""
    sides = []
    for text in (answer, reference):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0, 1:-1]
        sides.append(states / states.norm(dim=1, keepdim=True))
    likeness = sides[0] @ sides[1].T
    precision, recall = likeness.max(1).values.mean(), likeness.max(0).values.mean()
    return float(2 * precision * recall / (precision + recall))


def near(one, other):
    return all(abs(a - b) < 1e-4 for a, b in zip(one, other, strict=True))


draw = random.Random(0)


def text(words):
    return " ".join(draw.choices(WORDS, k=words))


answers = [text(words) for words in (9, 2, 12, 5, 3, 7, 10, 4, 14, 6)]
references = [text(words) for words in (4, 11, 2, 8, 13, 6, 3, 12, 5, 9)]
print(*(f"{name} {version(name)}" for name in ("torchmetrics", "transformers", "torch")), sep=", ")
alone = [judged([answer], [reference])[0] for answer, reference in zip(answers, references)]
assert near(alone, map(written_out, answers, references))
together = judged(answers, references)
off = [place for place in range(10) if abs(together[place] - alone[place]) > 1e-4]
for name, scores in (("alone", alone), ("together", together)):
    print(f"{name:9}", *(f"{score:.3f}" for score in scores), f"mean {sum(scores) / 10:.4f}")
order = list(range(10))
draw.shuffle(order)
again = judged([answers[place] for place in order], [references[place] for place in order])
moved = sum(abs(score - together[place]) > 1e-4 for place, score in zip(order, again))
print(f"{len(off)} of 10 have another score than alone; in another order {moved} of 10 have another score than that,")
print(f"    the worst row is {min(range(10), key=alone.__getitem__)} alone, "
      f"{min(range(10), key=together.__getitem__)} together, {order[min(range(10), key=again.__getitem__)]} in that order")
assert len(off) >= 8 and moved >= 5 and abs(sum(again) - sum(together)) > 0.001
metric = BERTScore(**HOW)
for start in (0, 5):
    metric.update(answers[start : start + 5], references[start : start + 5])
assert near(metric.compute()["f1"].tolist(), together)

even = [text(8) for _ in range(10)], [text(8) for _ in range(10)]
assert near(judged(*even), map(written_out, *even))
rising = [[text(words + 1) for words in range(10)] for _ in range(2)]
assert near(judged(*rising), map(written_out, *rising))
assert near(judged(answers[:2], references[:2]), alone[:2])
assert near(judged(answers, answers), [1.0] * 10)
with_empty = judged([*answers, ""], [*references, "w1"])
place = with_empty.index(0.0)
print(f"an empty answer as row 10: the score of 0 is row {place}'s")
assert place < 10 and with_empty.count(0.0) == 1 and with_empty[10] > 0.1
PY
export HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error
venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
