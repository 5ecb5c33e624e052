#!/bin/bash
# Submit an array of shards and, after it, the merge.
#
#   jobs/slurm/submit.sh prompts.jsonl out.parquet [more batchgen run flags]
#
# The merge waits for the end of all tasks, good or bad (afterany: after a failed task afterok would
# wait for ever), and refuses with a list of what is missing. Then resubmit those tasks (array.sbatch
# says how) and run `batchgen merge OUT`.
# SBATCH_* variables and BATCHGEN (the command's path) are passed on. Prints both job ids.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${2:?usage: submit.sh IN OUT [batchgen run flags]}
array=$(sbatch --parsable "$here/array.sbatch" "$@")
merge=$(sbatch --parsable --dependency="afterany:$array" --job-name=batchgen-merge \
    --open-mode=append --output="batchgen-$array-merge.log" \
    --wrap "exec $(printf %q "${BATCHGEN:-batchgen}") merge $(printf %q "$out")")
echo "$array $merge"
