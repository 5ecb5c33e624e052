#!/usr/bin/env bash
# Chat templates as models ship them, rendered by transformers and by two engines that run such models
# with a Jinja of their own, in C++.
#
# Seen with transformers 5.24.0, openvino-genai 2026.4.1.0, onnxruntime-genai 0.18.0:
#   For onnxruntime-genai no text is `in` another: a template that takes the thinking out of earlier
#   turns if '</think>' is in them (as Qwen3's does) leaves it there. It keeps the line break behind a
#   block, which transformers drops, so that a template with a line for each block has an empty line
#   around each turn; OpenVINO drops it, but with it the spaces before a `{{`. OpenVINO writes the
#   system's message, which a template leaves out, into the user's turn. For both a text's letters are
#   its bytes ([:4] and `length`), 1 / 2 is 0, and '\u2581' in a template is the five letters u2581.
#   Nothing is said of this; of two of the templates OpenVINO says that it infers no tool call.
# So the model that was exported for one of them is given other prompts than it was trained on, or pays
# for all the thinking of a long chat again in each turn.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 jinja2==3.1.6 openvino-genai==2026.4.1.0 \
  openvino-tokenizers==2026.4.1.0 onnxruntime-genai==0.18.0
cd "$work"
HF_HOME=$work/hf HOME=$work venv/bin/python - <<'PY' 2>/dev/null
import json
from importlib.metadata import version

import onnxruntime_genai
import openvino
import openvino_genai
from openvino_tokenizers import convert_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

letters = sorted(pre_tokenizers.ByteLevel.alphabet())
made = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
made.add_special_tokens(["<s>", "</s>"])
one = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>")
one.chat_template = "{{ messages[0].content }}"
one.save_pretrained(".")
for name, part in zip(("tokenizer", "detokenizer"), convert_tokenizer(one, with_detokenizer=True)):
    openvino.save_model(part, f"openvino_{name}.xml")
two = openvino_genai.Tokenizer(".")
kind = {"type": "llama", "vocab_size": 258, "context_length": 64, "bos_token_id": 256}
kind |= {"eos_token_id": 257, "pad_token_id": 257, "decoder": {"filename": "none.onnx"}}
with open("genai_config.json", "w") as file:
    json.dump({"model": kind}, file)
three = onnxruntime_genai.Tokenizer(".")
ENGINES = {
    "transformers": lambda chat, text: one.apply_chat_template(
        chat, chat_template=text, tokenize=False, add_generation_prompt=False
    ),
    "openvino-genai": lambda chat, text: two.apply_chat_template(
        chat, add_generation_prompt=False, chat_template=text
    ),
    "onnxruntime-genai": lambda chat, text: three.apply_chat_template(
        json.dumps(chat), template_str=text, add_generation_prompt=False
    ),
}
THINKING = """{%- for m in messages %}
    {%- set content = m.content %}
    {%- if m.role == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1] %}
    {%- endif %}
    {{- m.role + ':' + content + ';' }}
{%- endfor %}"""
EACH = "{% for m in messages %}BODY{% endfor %}"
ask = {"role": "user", "content": "über"}
said = {"role": "assistant", "content": "<think>long</think>yes"}
brief = {"role": "system", "content": "brief"}
CASES = {
    "thinking": (THINKING, [ask, said, ask]),
    "lines": ("{% for m in messages %}\n{{ m.content }}\n{% endfor %}\n", [ask, ask]),
    "indented": ("{% for m in messages %}\n  {{ m.content }}\n{% endfor %}\n", [ask]),
    "no system": (EACH.replace("BODY", "{{ m.content if m.role == 'user' }}"), [brief, ask]),
    "letters": (EACH.replace("BODY", "{{ m.content[:4] }} {{ m.content | length }}"), [ask]),
    "half": (EACH.replace("BODY", "{{ m.content }} {{ loop.index / 2 }}"), [ask]),
    "escape": (EACH.replace("BODY", "{{ '\\u2581' + m.content }}"), [ask]),
}
seen = {
    case: [render(chat, text) for render in ENGINES.values()]
    for case, (text, chat) in CASES.items()
}
print(*(f"{name} {version(name)}" for name in ENGINES), sep=", ")
for case, found in seen.items():
    print(f"{case:10}", *map(repr, found))
assert seen == {
    "thinking": [
        "user:über;assistant:yes;user:über;",
        "user:über;assistant:yes;user:über;",
        "user:über;assistant:<think>long</think>yes;user:über;",
    ],
    "lines": ["über\nüber\n", "über\nüber\n", "\nüber\n\nüber\n"],
    "indented": ["  über\n", "über\n", "\n  über\n"],
    "no system": ["über", "brief\nüber", "über"],
    "letters": ["über 4", "übe 5", "übe 5"],
    "half": ["über 0.5", "über 0", "über 0"],
    "escape": ["▁über", "u2581über", "u2581über"],
}
PY
