"""Reports on a run: summary and benchmark."""
