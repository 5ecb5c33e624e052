"""What the other commands do: validate, status, merge, diff.

Imports every room but `run`.
Read the file that the command is named for.
"""
