"""What makes our own process start fast: caches, imports, work begun ahead. Stdlib only."""
