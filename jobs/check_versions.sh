#!/usr/bin/env bash
# Every library at its lowest and at its newest: a venv a pin set, and in it the tests that touch the libraries.
# Usage, in the repository's root: bash jobs/check_versions.sh [lowest|newest|PIN SET]...   (default: all of them)
# A pin set's line below is what pip is given; the result is added to jobs/versions.jsonl, one object a run.
# BATCHGEN_VENVS keeps the venvs (default: a temporary folder); BATCHGEN_TORCH names another torch for all sets.
set -euo pipefail
cd "$(dirname "$0")/.."
venvs=${BATCHGEN_VENVS:-$(mktemp -d)}
declare -A pins=(
  [lowest]="torch==2.11.0 transformers==5.17.0 datasets==3.0.0 pyarrow==18.0.0 click==8.1.0 tqdm==4.66.3"
  [newest]="torch transformers datasets pyarrow click tqdm"
  [transformers]="torch==2.13.0 transformers==5.17.0 datasets pyarrow click tqdm"
)
helpers="gguf>=0.10 accelerate>=1.1 pytest>=8 hypothesis>=6.100 pandas>=2.2 duckdb>=1.0"
tests=(test_own_cache test_models test_proof test_refusals test_schema test_input_parquet test_input_sources
  test_tokenizer test_help test_cli)

check() {
  local name=$1 python=$venvs/$1/bin/python started=$SECONDS code=0
  [ -x "$python" ] || python3 -m venv "$venvs/$name"
  local paths=("${tests[@]/#/tests/}"); paths=("${paths[@]/%/.py}")
  local wanted=${pins[$name]}
  [ -z "${BATCHGEN_TORCH:-}" ] || wanted=$(sed -E "s/^torch[^ ]*/$BATCHGEN_TORCH/" <<<"$wanted")
  # shellcheck disable=SC2086  # words
  "$python" -m pip install -q $wanted $helpers
  PYTHONPATH=$PWD "$python" -m pytest -q -p no:cacheprovider -W default "${paths[@]}" >"$venvs/$name.log" \
    2>&1 || code=$?
  "$python" - "$name" "$code" "$((SECONDS - started))" "$venvs/$name.log" <<'PY' | tee -a jobs/versions.jsonl
import json, re, sys, time
from importlib.metadata import version
from platform import python_version

name, code, seconds, log = sys.argv[1:]
lines = open(log, encoding="utf-8").read().splitlines()
closing = next((line for line in reversed(lines) if re.search(r"\d+ (passed|failed|error)", line)), "")
libraries = ("torch", "transformers", "datasets", "pyarrow", "click", "tqdm", "numpy", "huggingface_hub", "pandas")
print(json.dumps({
    "pins": name, "date": time.strftime("%Y-%m-%d"), "python": python_version(), "exit_code": int(code),
    **{what: int(count) for count, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)", closing)},
    "failures": [line.split()[1] for line in lines if line.startswith(("FAILED", "ERROR"))],
    "seconds": int(seconds), **{library: version(library) for library in libraries},
}))
PY
  return "$code"
}

[[ $# -gt 0 ]] || set -- lowest newest
failed=0
for name in "$@"; do check "$name" || failed=1; done
exit "$failed"
