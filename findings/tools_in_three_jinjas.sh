#!/usr/bin/env bash
# A chat template that writes a tool's definition with `tojson`, as most do that know tools, rendered
# by transformers, by Jinja itself and by minijinja (the engine of some servers written in Rust).
#
# Seen with transformers 5.24.0, Jinja2 3.1.6, minijinja 3.1.0:
#   transformers replaces `tojson`. Jinja's own sorts the keys and writes `<`, `>`, `&`, `'` and all
#   that is not ASCII as \uXXXX; minijinja keeps the order and all letters, but writes those four
#   signs so too, and 1e-7 where the others write 1e-07. Of a text minijinja says that it is no
#   `sequence`, the other two that it is one; some templates tell text from a list of parts by that.
# So one template, one row and no error give three prompts: whoever renders rows ahead of a job gives
# the model tokens that it was not trained on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 jinja2==3.1.6 minijinja==3.1.0
cd "$work"
HF_HOME=$work/hf venv/bin/python - <<'PY' 2>/dev/null
import minijinja
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TOOL = {"name": "find", "description": "Those < 5 €, not Bob's", "least": 1e-07}
TEMPLATE = (
    "{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    "{{ ' sequence' if messages[0].content is sequence else ' other' }}"
)
messages = [{"role": "user", "content": "Hi"}]
tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))
jinja = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
rust = minijinja.Environment()
seen = {
    "transformers": tokenizer.apply_chat_template(
        messages, tools=[TOOL], chat_template=TEMPLATE, tokenize=False
    ),
    "Jinja": jinja.from_string(TEMPLATE).render(messages=messages, tools=[TOOL]),
    "minijinja": rust.render_str(TEMPLATE, messages=messages, tools=[TOOL]),
}
for name, prompt in seen.items():
    print(f"{name:12} {prompt}")
assert seen == {
    "transformers": '{"name": "find", "description": "Those < 5 €, not Bob\'s", '
    '"least": 1e-07} sequence',
    "Jinja": r'{"description": "Those \u003c 5 \u20ac, not Bob\u0027s", "least": 1e-07, '
    '"name": "find"} sequence',
    "minijinja": r'{"name": "find", "description": "Those \u003c 5 €, not Bob\u0027s", '
    '"least": 1e-7} other',
}
PY
