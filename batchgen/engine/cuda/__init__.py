"""A step on a GPU as a graph: buckets, captures, compiled layers, kernels compiled ahead.

Imports `execution` and all below it; `cpu` is its neighbour.
Read `graph_runner.py` first.
"""
