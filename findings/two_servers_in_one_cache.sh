#!/usr/bin/env bash
# The same questions to two servers on this machine, the base model's and the tuned one's, which serve under
# one name, as two copies of a server do whose command names the model; by dspy, as a comparison is made.
#
# Seen with dspy 3.4.1, litellm 1.110.2:
#   The address is no part of what an answer is stored under. The second server is never asked: all its
#   answers are the first one's, from the memory of the same process and from the disk of the process that
#   ran yesterday, and so are its embeddings, whatever the temperature is. Headers of their own, a name of its
#   own or `cache=False` reach it. Nothing is said.
# So a tuned model scores exactly what its base does, and a model that was trained again and served at
# another port has yesterday's answers, on whole data sets, in no time.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q dspy==3.4.1 litellm==1.110.2 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import dspy

VECTORS = {"base": [1.0, 0.0], "tuned": [0.0, 1.0]}
asked = dict.fromkeys(VECTORS, 0)


class Served(BaseHTTPRequestHandler):
    """Answers each chat with the name of its server, and each text with the server's vector."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = self.server.model
        asked[name] += 1
        if "messages" in body:
            said = {"role": "assistant", "content": name}
            answer = {"choices": [{"index": 0, "finish_reason": "stop", "message": said}]}
            answer |= {"id": "1", "object": "chat.completion", "created": 1}
        else:
            rows = [{"object": "embedding", "index": n, "embedding": VECTORS[name]} for n in range(len(body["input"]))]
            answer = {"object": "list", "data": rows}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        text = json.dumps(answer | {"model": body["model"], "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


def start(model):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.model = model
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return {"api_base": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}


order = sys.argv[1:]
places = {model: start(model) for model in order}
print(f"dspy {version('dspy')}, litellm {version('litellm')}, asked in the order {order}")


def answers(name="openai/ours", **settings):
    """What each server is said to have answered."""
    return [dspy.LM(name, **places[model], **settings)("Who are you?")[0] for model in order]


seen = {
    "as it is": answers(),
    "temperature 0.5": answers(temperature=0.5),
    "headers of their own": [
        dspy.LM("openai/ours", **places[model], headers={"X-Model": model})("And who else?")[0] for model in order
    ],
    "cache=False": answers(cache=False),
    "names of their own": [dspy.LM(f"openai/{model}", **places[model])("Who are you?")[0] for model in order],
    "embeddings": [dspy.Embedder("openai/ours", **places[model])(["a"])[0].tolist() for model in order],
}
for how, said in seen.items():
    print(f"    {how:20} {said}")
print("    requests that came", asked)
print(json.dumps(seen), file=open("seen.json", "w"))
PY
export DSPY_CACHEDIR=$work/kept LITELLM_LOCAL_MODEL_COST_MAP=True HF_HOME=$work/hf
venv/bin/python -W ignore look.py base tuned 2>said || { cat said; exit 1; }
mv seen.json first.json
venv/bin/python -W ignore look.py tuned base 2>said || { cat said; exit 1; }
venv/bin/python - <<'PY'
import json

first, second = json.load(open("first.json")), json.load(open("seen.json"))
for how in ("as it is", "temperature 0.5"):
    assert first[how] == second[how] == ["base", "base"], how
assert first["embeddings"] == second["embeddings"] == [[1.0, 0.0]] * 2
for how in ("cache=False", "headers of their own", "names of their own"):
    assert first[how] == ["base", "tuned"] and second[how] == ["tuned", "base"], how
PY
