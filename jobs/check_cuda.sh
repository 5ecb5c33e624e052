#!/usr/bin/env bash
# On a machine with an NVIDIA GPU: the kernels' tests, every other test that needs one, then the kernels' again under
# compute-sanitizer.
# Usage, in the repository's root: bash jobs/check_cuda.sh [workers]
set -euo pipefail
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
cd tests
tests=(test_triton_attention.py test_triton_graphs.py test_triton_sampling.py test_float8_cache.py
  test_triton_quantized.py test_triton_experts.py)
quick="ragged_step or without_a_slot or padded or merge or split or accelerator or items or (greedy and 5000) or last_bit or rounded_to_themselves or product and (-80- or -150-) or layer_of and (-48- or -33- or -16-)"
parallel=()
if [[ $# -gt 0 ]]; then parallel=(-n "$1"); fi  # pytest-xdist: mostly compilation, use every core
python3 -m pytest -q -W default -p no:cacheprovider "${parallel[@]}" "${tests[@]}"
python3 -m pytest -q -W default -p no:cacheprovider "${parallel[@]}" -m cuda test_graph_runner.py test_parity.py \
  test_kernels_ahead.py test_placement.py test_device_sampler.py test_graph_sharing.py test_quantized_gpu.py test_experts_gpu.py
for tool in memcheck racecheck; do
  # Without torch's cache every tensor is an allocation of its own, so that overruns are seen.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 1 \
    python3 -m pytest -q -W default -p no:cacheprovider "${tests[@]}" -k "$quick and not captured"
done
