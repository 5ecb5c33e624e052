#!/usr/bin/env bash
# Runs batchgen on a real Ray cluster of three nodes on this machine, breaks it, and prints a table:
# fault -> outcome. Needs `pip install '.[ray,test]'`; 2 cores and 3 GB of memory are enough.
set -euo pipefail
cd "$(dirname "$0")/.."
python -c 'import ray' 2>/dev/null || { echo "ray is not installed: pip install '.[ray]'" >&2; exit 2; }
RAY_TABLE=$(mktemp)
export RAY_TABLE
trap 'rm -f "$RAY_TABLE"' EXIT
status=0
python -m pytest -q -p no:cacheprovider tests/test_ray.py "$@" || status=$?
python -c 'import ray; print(f"\nRay {ray.__version__}, a head and two nodes of two CPUs, 160 echo rows in 4 shards\n")'
printf '| fault | outcome |\n| --- | --- |\n'
cat "$RAY_TABLE"
exit $status
