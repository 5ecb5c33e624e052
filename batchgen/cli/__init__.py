"""The command line: parsing and messages only. Never imports torch; imports `job` inside commands."""
