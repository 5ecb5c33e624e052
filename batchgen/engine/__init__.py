"""The engine half: token ids in, token ids out. Knows no files and no text."""
