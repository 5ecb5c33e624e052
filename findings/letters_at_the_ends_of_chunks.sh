#!/usr/bin/env bash
# A text in Japanese, and one in English, cut into chunks of 16 tokens by the splitters of three libraries, with one
# tokenizer that spells letters that it does not know in bytes, as those of most models do; and what is left of the
# text when the chunks are put together.
#
# Seen with chonkie 1.7.0, langchain-text-splitters 1.1.3, semchunk 4.1.1, tokenizers 0.23.3:
#   chonkie's TokenChunker and RecursiveChunker, and langchain's `split_text_on_tokens`, which its TokenTextSplitter
#   is made of, cut between any two tokens and decode each piece alone: a letter whose bytes fall on both sides is
#   U+FFFD at the end of one chunk and again at the start of the next. Of 168 Japanese letters 14 are gone; all 22
#   chunks of chonkie's note another place in the text than what they hold, and chunks of 16 tokens have up to 22
#   when they are counted again. chonkie's SentenceChunker keeps every letter, and makes one chunk of 352 tokens, as
#   it knows no full stop of Japanese. semchunk keeps letters and size. In English all do. Nothing is said.
# So summaries, embeddings and quotations of a document are of a text with holes, and a trial in English shows none.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q chonkie==1.7.0 langchain-text-splitters==1.1.3 semchunk==4.1.1 tokenizers==0.23.3
cd "$work"
cat > look.py <<'PY'
from importlib.metadata import version

import chonkie
import semchunk
from langchain_text_splitters import Tokenizer as Counted
from langchain_text_splitters import split_text_on_tokens
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = 16
LOST = "\ufffd"
TEXTS = {
    "Japanese": "東京は日本の首都です。大阪は西にあります。京都には古い寺が多く、春には桜が咲きます。" * 4,
    "English": "Tokyo is the capital of Japan. Osaka lies in the west. Kyoto has many old temples. " * 4,
}
letters = Tokenizer(models.BPE())
letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
letters.decoder = decoders.ByteLevel()
how = {"vocab_size": 320, "show_progress": False, "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
letters.train_from_iterator([TEXTS["English"], "です。は。には"], trainers.BpeTrainer(**how))


def count(text):
    return len(letters.encode(text).ids)


def by_chonkie(kind, **settings):
    return lambda text: [(chunk.text, chunk) for chunk in kind(tokenizer=letters, chunk_size=SIZE, **settings)(text)]


def by_langchain(text):
    ways = {"encode": lambda part: letters.encode(part).ids, "decode": letters.decode}
    cut = Counted(chunk_overlap=0, tokens_per_chunk=SIZE, **ways)
    return [(chunk, None) for chunk in split_text_on_tokens(text=text, tokenizer=cut)]


WAYS = {
    "chonkie, TokenChunker": by_chonkie(chonkie.TokenChunker),
    "chonkie, RecursiveChunker": by_chonkie(chonkie.RecursiveChunker),
    "langchain": by_langchain,
    "chonkie, SentenceChunker": by_chonkie(chonkie.SentenceChunker, chunk_overlap=0),
    "semchunk": lambda text: [(chunk, None) for chunk in semchunk.chunk(text, SIZE, count)],
}
print(*(f"{name} {version(name)}" for name in ("chonkie", "langchain-text-splitters", "semchunk", "tokenizers")), sep=", ")
seen = {}
for name, text in TEXTS.items():
    print(f"{name}, {len(text)} letters, {count(text)} tokens")
    assert letters.decode(letters.encode(text).ids) == text
    for way, cut in WAYS.items():
        chunks = cut(text)
        whole = "".join(chunk for chunk, _ in chunks)
        kept = sum(letter not in LOST + " " for letter in whole)
        lost = len(text.replace(" ", "")) - kept
        wrong = sum(note is not None and text[note.start_index : note.end_index] != chunk for chunk, note in chunks)
        most = max(count(chunk) for chunk, _ in chunks)
        seen[name, way] = lost, whole.count(LOST), wrong, most
        print(f"    {way:26} {len(chunks):3} chunks, letters lost {lost}, U+FFFD {whole.count(LOST)}, ", end="")
        print(f"chunks of another place {wrong}, most tokens {most}")
for (name, way), (lost, holes, wrong, most) in seen.items():
    if name == "English" or way == "semchunk":
        assert (lost, holes, wrong) == (0, 0, 0) and most <= SIZE, (name, way)
    elif "Sentence" in way:
        assert (lost, holes, wrong, most) == (0, 0, 0, count(TEXTS[name])), way
    else:
        assert (lost, holes, most) == (14, 34, 22) and wrong == (22 if "chonkie" in way else 0), way
PY
HOME=$work venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
