#!/usr/bin/env bash
# A Markdown document with code, a nested list, a table of tabs and Japanese text, cut at its headings by two of
# langchain's splitters, and by size by two others, so that nothing need be left out; and what the letters of the
# chunks are, put together.
#
# Seen with langchain-text-splitters 1.1.3, semchunk 4.1.1:
#   MarkdownHeaderTextSplitter takes the spaces off both ends of each line, inside of a code block too: Python's
#   lines all begin at the margin, and the code is no Python any more; a nested list is a flat one. Letters that do
#   not print it drops from the midst of lines: a tab, a space that does not break and the wide space of Japanese
#   are nothing, so that "12<tab>7" is "127". The end of a line that breaks by two spaces is gone. The
#   Experimental one gives back the document letter by letter, and so does semchunk but for spaces between chunks.
#   Nothing is said.
# So questions about code are asked of code that nobody wrote, in a table two numbers are one, and a model trained
# on what it is shown writes Python without indentation.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q langchain-text-splitters==1.1.3 semchunk==4.1.1
cd "$work"
venv/bin/python -W ignore - <<'PY'
import ast
import re
from importlib.metadata import version

import semchunk
from langchain_text_splitters import ExperimentalMarkdownSyntaxTextSplitter, MarkdownHeaderTextSplitter

CODE = "def sign(x):\n    if x < 0:\n        return -1\n    return 1\n"
TEXT = f"""# How to

```python
{CODE}```

- a list
  - in a list

## Numbers

cats\t12\t7
10\u00a0000 dogs, 東京\u3000大阪
"""


def by_header():
    cut = MarkdownHeaderTextSplitter([("#", "title"), ("##", "part")], strip_headers=False)
    return [chunk.page_content for chunk in cut.split_text(TEXT)]


def by_syntax():
    return [chunk.page_content for chunk in ExperimentalMarkdownSyntaxTextSplitter(strip_headers=False).split_text(TEXT)]


def by_size():
    return semchunk.chunk(TEXT, 120, len)


def runs(code):
    try:
        ast.parse(code)
    except SyntaxError as error:
        return type(error).__name__
    return True


print(*(f"{name} {version(name)}" for name in ("langchain-text-splitters", "semchunk")), sep=", ")
seen = {}
for way in (by_header, by_syntax, by_size):
    chunks = way()
    whole = "\n".join(chunks)
    code = re.search(r"```python\n(.*?)```", whole, re.DOTALL)[1]
    row = next(line for line in whole.splitlines() if line.startswith("cats"))
    places = next(line for line in whole.splitlines() if "dogs" in line)
    seen[way.__name__] = runs(code), "  - in" in whole, row, places, "".join(chunks) == TEXT
    print(way.__name__, *(f"    {chunk!r}" for chunk in chunks), sep="\n")
    print("    code that parses:", seen[way.__name__][0])
assert runs(CODE) is True
kept = True, True, "cats\t12\t7", "10\u00a0000 dogs, 東京\u3000大阪"
assert seen["by_header"] == ("IndentationError", False, "cats127", "10000 dogs, 東京大阪", False)
assert seen["by_syntax"] == (*kept, True)
assert seen["by_size"][:4] == kept
PY
