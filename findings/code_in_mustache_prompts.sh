#!/usr/bin/env bash
# Rows (code, a quotation, nothing, a name that is missing) put into one prompt by the three kinds of template
# that langchain's prompts may be written in, and by two libraries of the third kind, Mustache.
#
# Seen with langchain-core 1.8.3, jinja2 3.1.6, chevron 0.14.0, pystache 0.6.8:
#   Under template_format="mustache" a row's text is made safe for a web page: `a < b && c` is `a &lt; b
#   &amp;&amp; c` in the prompt, in chats too, as by chevron and pystache. `{{{text}}}` and `{{&text}}` leave
#   it as it is, and so do "f-string" and "jinja2". "jinja2" takes the template's last line break away, so
#   that a prompt that ended in "A:\n" ends in "A:". None and an empty list are nothing under "mustache", and
#   "None" and "[]" under the other two. A name that the row does not have is nothing for `format` of
#   "mustache" and "jinja2", and an error of "f-string". No warning.
# So a model is asked to mend code that is not the row's and answers in entities, which counts as its mistake;
# and a template that was carried over to another format gives other tokens in every row.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q langchain-core==1.8.3 jinja2==3.1.6 chevron==0.14.0 pystache==0.6.8
cd "$work"
venv/bin/python - <<'PY' 2>said || { cat said; exit 1; }
import warnings
from importlib.metadata import version

import chevron
import pystache
from langchain_core.prompts import ChatPromptTemplate, PromptTemplate

TEMPLATES = {"f-string": "<{text}>\n", "jinja2": "<{{ text }}>\n", "mustache": "<{{text}}>\n"}
CODE = 'if a < b && c: print("x")'
SAFE = "if a &lt; b &amp;&amp; c: print(&quot;x&quot;)"


def filled(form, template, **row):
    try:
        return PromptTemplate.from_template(template, template_format=form).format(**row)
    except KeyError:
        return "KeyError"


PACKAGES = ("langchain-core", "jinja2", "chevron", "pystache")
print(*(f"{name} {version(name)}" for name in PACKAGES), sep=", ")
with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    seen = {}
    for row in ({"text": CODE}, {"text": None}, {"text": []}, {}):
        seen[str(row)] = [filled(form, template, **row) for form, template in TEMPLATES.items()]
        print(row, *(f"    {form:9} {said!r}" for form, said in zip(TEMPLATES, seen[str(row)])), sep="\n")
    raw = [filled("mustache", template, text=CODE) for template in ("{{{text}}}", "{{&text}}")]
    chats = [
        ChatPromptTemplate.from_messages([("user", template)], template_format=form)
        .format_messages(text=CODE)[0]
        .content
        for form, template in TEMPLATES.items()
    ]
    by_others = [
        chevron.render(TEMPLATES["mustache"], {"text": CODE}),
        pystache.render(TEMPLATES["mustache"], {"text": CODE}),
    ]
print("by chevron and pystache", by_others)
assert not warned
assert list(seen.values()) == [
    [f"<{CODE}>\n", f"<{CODE}>", f"<{SAFE}>\n"],
    ["<None>\n", "<None>", "<>\n"],
    ["<[]>\n", "<[]>", "<>\n"],
    ["KeyError", "<>", "<>\n"],
]
assert chats == seen[str({"text": CODE})] and raw == [CODE] * 2
assert by_others == [f"<{SAFE}>\n"] * 2
PY
