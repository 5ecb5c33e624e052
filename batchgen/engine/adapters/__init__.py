"""LoRA adapters on a loaded model: merged into its weights, or chosen row by row.

Imports model, cpu's packing of layers, mixture's sorting of tokens, and the values of scheduling;
nothing that runs a step. Read `lora.py` first, then `serving.py`, and `grouped.py` for GPUs.
"""
