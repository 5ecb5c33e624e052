#!/usr/bin/env bash
# A document longer than a model reads (32 tokens here, 512 for most), with a name at its beginning and one near its
# end, put into transformers' pipelines for the work on whole documents: names found, a class of a fixed set, a class
# of names given in words, and vectors.
#
# Seen with transformers 5.24.0, torch 2.13.0:
#   "token-classification" cuts the document where the model ends and finds no name behind it: the same rows without
#   a limit would have two. "zero-shot-classification" cuts it too, so that a document has the scores of its
#   beginning, to the last bit, whatever comes behind. "text-classification" and "feature-extraction" raise on the
#   same document. With `stride` the first finds both names. Nothing is said by the two that cut.
# So names and addresses that a job was to find and take out stay in the long documents, each of which looks done, and
# two of four pipelines with one model and one file stop where the others go on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q torch==2.13.0
"$work/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3
cd "$work"
cat > look.py <<'PY'
import logging
from importlib.metadata import version

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification, BertModel
from transformers import PreTrainedTokenizerFast, pipeline

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "Ann", "Bob", "Cid"]
END = 32
SHORT, LONG = "a Ann a Bob a", " ".join(["a"] * 20 + ["Ann"] + ["a"] * 20 + ["Bob"] + ["a"] * 5)
warned = []


class Kept(logging.Handler):
    def emit(self, record):
        warned.append(record.getMessage())


def config(*labels):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: n for n, label in enumerate(labels)}}
    return BertConfig(vocab_size=len(WORDS), max_position_embeddings=END, initializer_range=1.0, **sizes, **names)


def finder():
    """A model that finds names: of a word it sees nothing but whether it is one."""
    model = BertForTokenClassification(config("O", "PER")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.fill_(1.0 if name.endswith("LayerNorm.weight") else 0.0)
        model.bert.embeddings.word_embeddings.weight[5:, 0] = 5
        model.bert.embeddings.word_embeddings.weight[4, 1] = 5
        model.classifier.weight[1, 0] = model.classifier.weight[0, 1] = 5
    return model


torch.manual_seed(0)
made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]"))
made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
pair = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]", "special_tokens": [("[CLS]", 2), ("[SEP]", 3)]}
made.post_processor = processors.TemplateProcessing(**pair)
special = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), WORDS))
letters = PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=END, **special)
logger = logging.getLogger("transformers")
transformers.logging.set_verbosity_warning()
logger.addHandler(Kept())
print(f"transformers {version('transformers')}, torch {version('torch')}; {len(LONG.split())} words, {END} are read")


def pipe(task, model, **settings):
    return pipeline(task, model=model.eval(), tokenizer=letters, device="cpu", **settings)


def names(text, **settings):
    found = pipe("token-classification", finder(), aggregation_strategy="simple", **settings)(text)
    return [name["word"] for name in found]


seen = names(SHORT), names(LONG), names(LONG, stride=8)
print("    names in a short text, in a long one, and with a stride:", *seen)
assert seen == (["Ann", "Bob"], ["Ann"], ["Ann", "Bob"])
zero = pipe("zero-shot-classification", BertForSequenceClassification(config("contradiction", "entailment")))
asked = {"candidate_labels": ["Ann", "Bob"], "hypothesis_template": "a {}"}
texts = [LONG, LONG.replace("Bob", "Cid Cid Cid"), LONG.replace("Ann", "Cid")]
scores = [sorted(zip(said["labels"], said["scores"])) for said in (zero(text, **asked) for text in texts)]
print("    scores of labels given in words:", *scores)
assert scores[0] == scores[1] != scores[2]
assert not warned, warned
kinds = {"text-classification": BertForSequenceClassification(config("no", "yes"))}
kinds |= {"feature-extraction": BertModel(config("no", "yes"))}
for task, model in kinds.items():
    assert pipe(task, model)(SHORT)
    try:
        pipe(task, model)(LONG)
    except RuntimeError as error:
        print(f"    {task} raises: {str(error)[:60]} ...")
    else:
        raise SystemExit(f"{task} took the long document")
PY
HF_HUB_OFFLINE=1 HF_HOME=$work/hf OMP_NUM_THREADS=1 venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
