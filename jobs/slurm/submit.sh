#!/bin/bash
# Submit an array of shards and, after it, the merge.
#
#   jobs/slurm/submit.sh prompts.jsonl out.parquet [more batchgen run flags]
#
# Edit array.sbatch, nothing here: the merge takes partition, account and qos from it too. The merge
# waits for the end of all tasks, good or bad (afterany: after a failed task afterok would wait for
# ever), and refuses with a list of what is missing. Then resubmit those tasks (array.sbatch says
# how) and run `batchgen merge OUT`.
# SBATCH_* variables and BATCHGEN (the command's path) are passed on. Prints both job ids.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${2:?usage: submit.sh IN OUT [batchgen run flags]}
flags="--lock wait"   # and those of the run that the merge has to know
for ((n = 3; n <= $#; n++)); do
    case ${!n} in
        --checkpoint-dir=* | --max-failures=*) flags+=" $(printf %q "${!n}")" ;;
        --checkpoint-dir | --max-failures)
            flags+=" ${!n}"
            ((++n <= $#)) && flags+=" $(printf %q "${!n}")" ;;
    esac
done
site=$(sed -n 's/^#SBATCH \(--\(partition\|account\|qos\)=[^ ]*\).*/\1/p' "$here/array.sbatch")
array=$(sbatch --parsable "$here/array.sbatch" "$@")
array=${array%%;*}   # the rest would be the cluster's name
if ! merge=$(sbatch --parsable --dependency="afterany:$array" --job-name=batchgen-merge $site \
    --open-mode=append --output="batchgen-$array-merge.log" \
    --wrap "exec $(printf %q "${BATCHGEN:-batchgen}") merge $(printf %q "$out") $flags"); then
    echo "batchgen: array $array is submitted, its merge is not: run batchgen merge $out after it" >&2
    exit 1
fi
echo "$array ${merge%%;*}"
