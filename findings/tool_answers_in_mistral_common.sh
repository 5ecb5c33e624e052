#!/usr/bin/env bash
# What a tool answered ("1.10", a version or a price), and what the assistant had called it with, in the
# prompt that mistral-common makes of a chat, by the tokenizers that the package ships.
#
# Seen with mistral-common 1.13.1:
#   Up to the third version (Mistral 7B and Mixtral, Nemo's tekken too) the answer's text is parsed as
#   JSON where it can be, and written again: "1.10" is 1.1, "1e3" 1000.0, "-0" 0, and of a key that
#   stands twice the last is kept. Text that is no JSON ("007", "1.2.0") stays in quotes, so that one
#   tool's answers are numbers and texts by turns. The seventh gives the answer as it was. The arguments
#   of a call are parsed and written again by all of them. Nothing is said.
# So asked which version is installed, 1.1 or 1.10, the model reads the other one, and the tokens
# counted for a row are not those of its text.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q mistral-common==1.13.1 sentencepiece==0.2.3
cd "$work"
HF_HOME=$work/hf venv/bin/python -W ignore - <<'PY'
import re
from importlib.metadata import version

from mistral_common.protocol.instruct.messages import AssistantMessage, ToolMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.tool_calls import Function, FunctionCall, Tool, ToolCall
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

TOKENIZERS = {
    "v2": MistralTokenizer.v2(),
    "v3": MistralTokenizer.v3(),
    "v3, tekken": MistralTokenizer.v3(is_tekken=True),
    "v7": MistralTokenizer.v7(),
}
ANSWERS = ["1.10", "1e3", "-0", '{"price": 10.50, "price": 12}', "007", "1.2.0"]
CALLED, ID = '{"price": 9.90, "limit": 1e3}', "abcdefghi"
ANSWER = re.compile(r'(?:"content": |\[TOOL_CONTENT\])(.*?)(?:, "call_id".*|}\])?\[/TOOL_RESULTS\]')
ARGUMENTS = re.compile(r'"arguments": ({.*?})')


def prompt(tokenizer, answer):
    call = ToolCall(id=ID, function=FunctionCall(name="look", arguments=CALLED))
    chat = [
        UserMessage(content="Which one?"),
        AssistantMessage(content=None, tool_calls=[call]),
        ToolMessage(tool_call_id=ID, name="look", content=answer),
    ]
    tools = [Tool(function=Function(name="look", parameters={}))]
    request = ChatCompletionRequest(messages=chat, tools=tools)
    return tokenizer.encode_chat_completion(request).text.replace("▁", " ")


print(f"mistral-common {version('mistral-common')}")
print("written   ", "; ".join(ANSWERS), "called with", CALLED)
read, called = {}, {}
for name, tokenizer in TOKENIZERS.items():
    prompts = [prompt(tokenizer, answer) for answer in ANSWERS]
    read[name] = [ANSWER.search(text)[1].strip() for text in prompts]
    called[name] = ARGUMENTS.search(prompts[0])[1]
    print(f"{name:10}", "; ".join(read[name]), "called with", called[name])
again = ["1.1", "1000.0", "0", '{"price": 12}', '"007"', '"1.2.0"']
assert read == {"v2": again, "v3": again, "v3, tekken": again, "v7": ANSWERS}
assert set(called.values()) == {'{"price": 9.9, "limit": 1000.0}'}
PY
