#!/usr/bin/env bash
# Chats and settings given to litellm's `completion` for servers of one's own (vLLM's and LM Studio's chats, two ways to
# ollama, and one to a server of plain completions), and what a server on this machine is sent; beside it openai's
# own client.
#
# Seen with litellm 1.110.2, openai 3.57.0:
#   Of six stop strings four are sent, to servers that take any number too; openai's client sends six, and so does
#   litellm with `disable_stop_sequence_limit` set.
#   For "ollama_chat" a frequency_penalty, which 0 leaves off and 0.5 makes strict, is sent as repeat_penalty, which 1
#   leaves off: 0.5 rewards each repetition, and 0 is sent as 0. For "ollama" it stays what it is. A chat to "ollama"
#   is a text of "### User:" and "### Assistant:", whatever the model's template is, which the server puts around it
#   again; the arguments of a tool call are parsed and written again, 1.10 as 1.1.
#   For "text-completion-openai" each message of a chat is a prompt of its own: the instruction is completed alone, and
#   so is the question, and the first choice, which is what one reads, is the answer to the instruction. One
#   message alone is sent as one prompt. Nothing is said of any of these; a setting that litellm does not know for a
#   server it refuses.
# So rows run on behind their fifth stop string, are paid for and are cut nowhere, a penalty makes a model repeat
# itself, and a job of plain completions answers its instruction once for each row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q litellm==1.110.2 openai==3.57.0
cd "$work"
cat > look.py <<'PY'
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import litellm
import openai

STOPS = ["\n\n", "###", "User:", "Question:", "</answer>", "END"]
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
CALL = {"id": "1", "type": "function", "function": {"name": "install", "arguments": '{"version": 1.10}'}}
sent = []


class Server(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        answer = {"id": "1", "created": 1, "model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        done = {"model": "m", "done": True, "prompt_eval_count": 1, "eval_count": 1}
        if self.path == "/api/show":
            answer = {}
        elif self.path == "/api/generate":
            answer = done | {"response": "yes"}
        elif self.path == "/api/chat":
            answer = done | {"message": {"role": "assistant", "content": "yes"}}
        elif self.path == "/chat/completions":
            message = {"role": "assistant", "content": "yes"}
            answer |= {"object": "chat.completion", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        else:
            prompts = asked["prompt"] if isinstance(asked["prompt"], list) else [asked["prompt"]]
            answer |= {"object": "text_completion", "choices": [
                {"index": place, "text": f"the answer to {prompt!r}", "finish_reason": "stop"}
                for place, prompt in enumerate(prompts)
            ]}  # fmt: skip
        if self.path != "/api/show":
            sent.append(asked)
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
base = f"http://127.0.0.1:{server.server_port}"
litellm.suppress_debug_info = True


def by_litellm(way, chat=CHAT, **settings):
    """What the server was sent, and the answer that comes back."""
    sent.clear()
    chat = json.loads(json.dumps(chat))
    done = litellm.completion(f"{way}/m", chat, api_base=base, api_key="none", num_retries=0, timeout=20, **settings)
    (asked,) = sent
    return asked | asked.get("options", {}), done


def by_openai(**settings):
    sent.clear()
    openai.OpenAI(base_url=base, api_key="none", max_retries=0).chat.completions.create(model="m", messages=CHAT, **settings)
    return sent[0]


print(*(f"{name} {version(name)}" for name in ("litellm", "openai")), sep=", ")
assert by_openai(stop=STOPS)["stop"] == STOPS
CHATS = ("hosted_vllm", "lm_studio", "llamafile", "openai")
for way in (*CHATS, "ollama", "ollama_chat", "text-completion-openai"):
    stop = by_litellm(way, stop=STOPS)[0]["stop"]
    penalties = [by_litellm(way, frequency_penalty=value)[0] for value in (0.5, 0)]
    penalties = [{name: asked[name] for name in asked if "penalty" in name} for asked in penalties]
    print(f"{way:22} of {len(STOPS)} stop strings {len(stop)}; a frequency_penalty of 0.5 and of 0 as {penalties}")
    assert stop == STOPS[:4]
    name = "repeat_penalty" if way == "ollama_chat" else "frequency_penalty"
    assert penalties == [{name: 0.5}, {name: 0}]

litellm.disable_stop_sequence_limit = True
assert by_litellm("hosted_vllm", stop=STOPS)[0]["stop"] == STOPS
for way in CHATS:
    assert by_litellm(way)[0]["messages"] == CHAT
prompt = by_litellm("ollama")[0]["prompt"]
print(f"ollama: {CHAT} is {prompt!r}")
assert prompt.startswith("### System:\nBe brief.") and "### User:\nWhy?" in prompt
turns = [CHAT[1], {"role": "assistant", "content": None, "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "1", "content": "done"}]
again = by_litellm("ollama", turns)[0]["prompt"], json.dumps(by_litellm("ollama_chat", turns)[0]["messages"])
print("a call with version 1.10:", *again, sep="\n    ")
assert all("1.1}" in text and "1.10" not in text for text in again)
assert "1.10}" in by_litellm("hosted_vllm", turns)[0]["messages"][1]["tool_calls"][0]["function"]["arguments"]

asked, done = by_litellm("text-completion-openai")
texts = [choice.message.content for choice in done.choices]
print(f"text-completion-openai: the same chat is {asked['prompt']}, and the choices are {texts}")
assert asked["prompt"] == ["Be brief.", "Why?"]
assert texts == ["the answer to 'Be brief.'", "the answer to 'Why?'"]
asked, done = by_litellm("text-completion-openai", CHAT[1:])
assert asked["prompt"] == "Why?" and done.choices[0].message.content == "the answer to 'Why?'"
try:
    by_litellm("ollama", presence_penalty=0.5)
except litellm.UnsupportedParamsError as error:
    print("ollama with a presence_penalty:", type(error).__name__)
else:
    raise AssertionError("not refused")
PY
LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
