"""What makes a loaded model fast on a CPU: packed linears, fused layers, the whole stack in C.

Imports `model`, `quantization`, `packed`, `kernels`, the CPU's attention and torch; `cuda` is its
neighbour.
Read `optimize.py` first: each part is proven equal to the module it stands in for.
"""
