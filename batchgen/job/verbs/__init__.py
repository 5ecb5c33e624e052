"""What other commands do with outputs: status, merge, diff, export, and the rows of inspect.

Imports `ledger`, `output`, `storage`, `stores` and `text`; `run` is its neighbour.
Read the file that the command is named for.
"""
