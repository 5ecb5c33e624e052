"""What the other commands do: status, merge, diff.

Imports every room but `run`.
Read the file that the command is named for.
"""
