"""batchgen turns a file of prompts into a file of completions, unattended."""

__version__ = "0.1.0"
