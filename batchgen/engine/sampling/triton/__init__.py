"""The GPU's sampler: any mix of rows within a step's graph, nothing asked of the device.

Imports `sampling` (rules and masks), `scheduling`, torch and triton.
Read `sampler.py` first, which launches the passes in their order: `score_kernel.py`,
`token_kernel.py`, `filter_kernel.py`, `wide_search.py`. `choose_kernel.py` is for steps whose rows
need no more than a temperature.
"""
