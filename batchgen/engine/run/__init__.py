"""One engine from its config to its completions: loaded, proven, sized, stepped.

Imports every room below it.
Read `engine.py` first (the loop), then `factory.py`, `resolved_config.py` (every decision) and
`loader.py`.
"""
