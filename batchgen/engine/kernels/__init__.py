"""Small C kernels for the CPU, compiled on the machine that runs them; nothing depends on them."""
