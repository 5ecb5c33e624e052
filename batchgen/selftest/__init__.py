"""Proofs that users run on their own machine; each drives real processes of batchgen."""
