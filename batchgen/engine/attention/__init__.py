"""Attention over the paged KV cache: one interface, one oracle, several backends."""
