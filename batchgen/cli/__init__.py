"""The command line: parsing and messages only. Never imports torch; `job` inside commands."""
