#!/usr/bin/env bash
# Ten samples of one prompt, a failed row asked again, and a file read again that has changed, by `submit` and
# `map` of Dask's client, by its executor, and by four other ways to hand calls to workers.
#
# Seen with distributed 2026.8.0, dask 2026.8.0, joblib 1.6.0:
#   A call's name is made of its function and arguments, and calls of one name are one call: of ten times
#   `submit(sample, prompt)` one is made, and all ten futures have its answer; so have `map` with ten equal
#   prompts, and `get_executor()` under the standard library's names. A call that failed, submitted again while
#   the first future is still held, is not made: it has the first one's error at once. A file that has changed
#   is not read again. `pure=False` makes each call. `dask.delayed`, a bag's `map`, joblib on Dask's workers and
#   the standard library's executor make ten. Nothing is said.
# So the vote over ten samples is unanimous, whatever the model is unsure of, rows whose prompts are equal have one
# answer, and a retry in a loop fails as often as it tries without a request that was sent.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q dask==2026.8.0 distributed==2026.8.0 joblib==1.6.0
cd "$work"
cat > look.py <<'PY'
import itertools
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import dask
import dask.bag
import joblib
from distributed import Client

TIMES = 10
PROMPTS = ["Is 91 prime?"] * TIMES
numbers = itertools.count()
tried = Path("tried").absolute()
tried.touch()


def sample(prompt):
    """What stands for a model's answer: no two are equal."""
    return f"{prompt} {next(numbers)}"


def away_at_first(prompt, tried):
    """Runs in the worker, which has a copy of this module's variables: what it tried is in a file."""
    tried.write_text(tried.read_text() + prompt)
    if tried.read_text() == prompt:
        raise OSError("the server is away")
    return "an answer"


def outcome(future):
    try:
        return future.result()
    except OSError as error:
        return f"failed: {error}"


print(*(f"{name} {version(name)}" for name in ("distributed", "dask", "joblib")), sep=", ")
client = Client(processes=False, n_workers=1, threads_per_worker=2, dashboard_address=None)
executor, pool = client.get_executor(), ThreadPoolExecutor(2)
ways = {
    "client.submit": lambda: client.gather([client.submit(sample, prompt) for prompt in PROMPTS]),
    "client.map": lambda: client.gather(client.map(sample, PROMPTS)),
    "executor.submit": lambda: [done.result() for done in [executor.submit(sample, prompt) for prompt in PROMPTS]],
    "executor.map": lambda: list(executor.map(sample, PROMPTS)),
    "client.map, pure=False": lambda: client.gather(client.map(sample, PROMPTS, pure=False)),
    "dask.delayed": lambda: dask.compute(*[dask.delayed(sample)(prompt) for prompt in PROMPTS]),
    "dask.bag": lambda: dask.bag.from_sequence(PROMPTS).map(sample).compute(scheduler="threads"),
    "joblib": lambda: joblib.Parallel(backend="threading", n_jobs=2)(joblib.delayed(sample)(p) for p in PROMPTS),
    "ThreadPoolExecutor": lambda: list(pool.map(sample, PROMPTS)),
}
for way, ask in ways.items():
    answers = ask()
    print(f"    {way:24} {len(answers)} answers, {len(set(answers))} of them different")
    assert len(answers) == TIMES
    assert len(set(answers)) == (1 if way.startswith(("client", "executor")) and "pure" not in way else TIMES), way

ask = away_at_first, "q", tried
first = client.submit(*ask)
told = [outcome(first), outcome(client.submit(*ask)), tried.read_text()]
told += [outcome(client.submit(*ask, pure=False)), tried.read_text()]
print("    a failed row asked again, and what was tried:", told)
assert told == ["failed: the server is away", "failed: the server is away", "q", "an answer", "qq"]

prompts = Path("prompts.txt").absolute()
prompts.write_text("yesterday's")
held = client.submit(Path.read_text, prompts)
texts = [held.result()]
prompts.write_text("today's")
texts += [client.submit(Path.read_text, prompts).result(), client.submit(Path.read_text, prompts, pure=False).result()]
print("    a file that has changed:", texts)
assert texts == ["yesterday's", "yesterday's", "today's"]
client.close()
PY
venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
