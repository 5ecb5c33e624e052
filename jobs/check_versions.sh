#!/usr/bin/env bash
# Every library at its lowest and at its newest: a venv a pin set, and in it the tests that touch the libraries.
# Usage, in the repository's root: bash jobs/check_versions.sh [lowest|newest|PINS]...   (default: lowest newest)
# A set's line below is what pip is given. Each run is added to jobs/versions.jsonl; `python jobs/versions.py table`
# makes the table of batchgen/docs/versions.md of it.
# BATCHGEN_VENVS keeps the venvs (default: a temporary folder); BATCHGEN_VENV is one that is there already, to be
# looked at as it is, under the name of the one set given. BATCHGEN_TORCH takes another torch in all sets, where
# a set's own comes as GBs of CUDA alone; the data names what ran.
set -euo pipefail
cd "$(dirname "$0")/.."
venvs=${BATCHGEN_VENVS:-$(mktemp -d)}
declare -A pins=(
  [lowest]="torch==2.11.0 transformers==5.17.0 datasets==3.0.0 pyarrow==18.0.0 click==8.1.0 tqdm==4.66.3"
  [newest]="torch transformers datasets pyarrow click tqdm"
)
helpers="gguf>=0.10 accelerate>=1.1 pytest>=8 pytest-xdist>=3.6 hypothesis>=6.100 pandas>=2.2 duckdb>=1.0"
tests=(test_own_cache test_models test_proof test_refusals test_schema test_input_parquet test_input_sources
  test_tokenizer test_help test_cli test_inspect_types test_gguf test_warnings)

check() {
  local name=$1 wanted=${pins[$1]:-$1}
  local folder=${BATCHGEN_VENV:-$venvs/${name//[^A-Za-z0-9.]/_}} code=0
  local python=$folder/bin/python paths=("${tests[@]/#/tests/}")
  wanted=$(sed -E "s/^torch[^ ]*/${BATCHGEN_TORCH:-&}/" <<<"$wanted")
  [ -x "$python" ] || python3 -m venv "$folder"
  # shellcheck disable=SC2086  # words
  [ -n "${BATCHGEN_VENV:-}" ] || "$python" -m pip install -q $wanted $helpers
  PYTHONPATH=$PWD "$python" -m pytest -q -p no:cacheprovider --junitxml "$folder/junit.xml" \
    "${paths[@]/%/.py}" >"$folder/log" 2>&1 || code=$?
  [ "$code" -le 1 ] || { tail -n 30 "$folder/log"; return "$code"; }
  "$python" jobs/versions.py record "$name" "$wanted" "$folder/junit.xml"
}

[[ $# -gt 0 ]] || set -- lowest newest
[[ $# -eq 1 || -z ${BATCHGEN_VENV:-} ]] || { echo "BATCHGEN_VENV goes with one set" >&2; exit 2; }
failed=0
for name in "$@"; do check "$name" || failed=1; done
exit "$failed"
