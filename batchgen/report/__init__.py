"""Benchmarks, and what models, adapters and outputs are: for `bench` and `inspect`.

Imports both halves; torch only where an engine runs. `page/` is `batchgen report`, `machine/`
`batchgen doctor`.
Read `bench_session.py` first, then `workloads.py`.
"""
