#!/usr/bin/env bash
# click's NoSuchOption takes `possibilities`, the names to suggest. click 8.1.8 shows what it is given;
# click 8.5.1 keeps only those that difflib finds close to the wrong name, so that a caller's own
# suggestion for a name from elsewhere (`--batch-size` -> `--max-num-seqs`) is dropped without a word.
# Whoever suggests by meaning writes it into `message`, which both show.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/ask.py" <<'PY'
import sys
from importlib.metadata import version

import click

near = click.NoSuchOption("--max-token", possibilities=["--max-tokens"]).format_message()
far = click.NoSuchOption("--batch-size", possibilities=["--max-num-seqs"]).format_message()
said = click.NoSuchOption("--batch-size", "Did you mean --max-num-seqs?").format_message()
print(f"click {version('click')}\n  near: {near}\n  far:  {far}\n  said: {said}")
shows_far = "--max-num-seqs" in far
assert "--max-tokens" in near and "--max-num-seqs" in said
assert shows_far == (sys.argv[1] == "shown"), "changed"
PY
for pair in 8.1.8:shown 8.5.1:dropped; do
  python3 -m venv "$folder/v"
  "$folder/v/bin/pip" install -q --disable-pip-version-check "click==${pair%:*}"
  "$folder/v/bin/python" "$folder/ask.py" "${pair#*:}"
  rm -rf "$folder/v"
done
echo "seen: 8.1.8 shows a given suggestion whatever it is, 8.5.1 only where it is spelt alike"
