"""The job half: rows in, rows out. Knows files, text and resume; never imports torch."""
