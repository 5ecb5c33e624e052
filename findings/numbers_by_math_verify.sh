#!/usr/bin/env bash
# Numbers as models write them, in plain text and in LaTeX, read and compared by math-verify, which judges
# answers for leaderboards and gives rewards in training: `verify(parse(gold), parse(answer))`.
#
# Seen with math-verify 0.9.0, latex2sympy2_extended 1.11.0, sympy 1.14.0:
#   In plain text an exponent ends the number (6.02e23 is 6.02, 1e5 is 1, 2e-3 is 2), so does a mixed one
#   (1 1/2 is 1) and a word behind it (5 million is 5); of -.5, of a minus that is the sign U+2212, of +5,
#   -$5 and ~5 nothing is read, so that they are wrong, also if both sides have them. 2023-24 is 1999.
#   In LaTeX `1\,234`, thousands set apart, are 235 (1 + 234), 1 \ldots 5 is 6, and 1.2.3 is 0.36; `101_2`
#   is 101, not 5, and 10_{16} is 10. Units make no difference, 5 cm are 5 m, nor digits behind the sixth.
#   parse says nothing of what it passed over, and what it cannot read is an empty list, which is wrong.
# So rewards and scores depend on how a number is spelt, and some wrong ones are right.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "math-verify[antlr4_13_2]==0.9.0" latex2sympy2_extended==1.11.0 sympy==1.14.0
"$work/venv/bin/python" - <<'PY' 2>/dev/null
from importlib.metadata import version

from math_verify import parse, verify
from sympy import N

NAMES = ("math-verify", "latex2sympy2_extended", "sympy")
MINUS = "\N{MINUS SIGN}"
# an answer and its gold, what is read of the answer as a number, and whether it is right
CASES = {
    ("602", "602"): (602, True),
    ("1,234.5", "1234.5"): (1234.5, True),
    ("6.02e23", "602000000000000000000000"): (6.02, False),
    ("6.02e23", "6.02"): (6.02, True),
    ("1e5", "100000"): (1, False),
    ("2e-3", "2"): (2, True),
    ("1 1/2", "1.5"): (1, False),
    ("1 1/2", "1"): (1, True),
    ("5 million", "5000000"): (5, False),
    ("-.5", "-0.5"): (None, False),
    ("-.5", "-.5"): (None, False),
    (f"{MINUS}5", "-5"): (None, False),
    (f"{MINUS}5", f"{MINUS}5"): (None, False),
    ("+5", "+5"): (None, False),
    ("-$5", "-5"): (None, False),
    ("~5", "5"): (None, False),
    ("2023-24", "1999"): (1999, True),
    ("5 cm", "5 m"): (5, True),
    ("0.1234567", "0.1234569"): (0.1234567, True),
    (r"$1{,}234$", "1234"): (1234, True),
    (r"$1\,234$", "1234"): (235, False),
    (r"$1\,234$", "235"): (235, True),
    (r"$1 \ldots 5$", "6"): (6, True),
    (r"$1.2.3$", "0.36"): (0.36, True),
    (r"$101_2$", "5"): (101, False),
    (r"$101_2$", "101"): (101, True),
    (r"$10_{16}$", "10"): (10, True),
}


def judged(answer, gold):
    read = parse(answer)
    number = float(N(read[0])) if read else None
    return number, verify(parse(gold), read)


print(*(f"{name} {version(name)}" for name in NAMES), sep=", ")
seen = {case: judged(*case) for case in CASES}
for (answer, gold), (number, right) in seen.items():
    print(f"{answer:14} gold {gold:25} read as {number}: {'right' if right else 'wrong'}")
assert seen == CASES
PY
