"""One page that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from html import escape
from typing import Any

from batchgen import __version__
from batchgen.counts import counted
from batchgen.job.redaction import redacted
from batchgen.job.storage.manifest import flatten
from batchgen.report.page.charts import PART_NAMES, charts_of
from batchgen.report.page.figures import Figures

__all__ = ["embedded_figures", "figure", "page_of", "shell", "table"]

_FIGURES_ID = "figures"
_LONGEST_VALUE = 400
_STYLE = """
:root{color-scheme:light dark;--fg:#1c2430;--bg:#fff;--dim:#5b6675;--line:#dfe4ea;--a:#2563c9;
--p:#a9c5f0;--bad:#b3261e}
@media (prefers-color-scheme:dark){:root{--fg:#e6eaf0;--bg:#14181f;--dim:#9aa5b4;--line:#2c343f;
--a:#6ea8ff;--p:#31507f;--bad:#ff8a80}}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:1100px;background:var(--bg);color:var(--fg);
font:15px/1.5 system-ui,sans-serif}
h1{font-size:1.4rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1.05rem;margin:2rem 0 .3rem}
p,figcaption{color:var(--dim);margin:.2rem 0}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:0 2rem}
.cards{display:flex;flex-wrap:wrap;gap:.6rem 2rem;margin:1rem 0;padding:0;list-style:none}
.cards b{display:block;font-size:1.3rem;font-variant-numeric:tabular-nums}
.cards li{color:var(--dim)}
figure{margin:0}svg{width:100%;height:auto;display:block}
svg:focus-visible{outline:2px solid var(--a);outline-offset:2px}
text{font:13px system-ui,sans-serif;fill:var(--dim)}.m{text-anchor:middle}.r{text-anchor:end}
.a{fill:var(--a)}.s0{opacity:.2}.s1{opacity:.4}.s2{opacity:.6}.s3{opacity:.8}
.g,.x{stroke:var(--line);fill:none}.d{stroke:var(--fg);stroke-dasharray:4 3;stroke-width:1.5}
.p{stroke:var(--p)}.w{stroke:var(--a)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .8rem .25rem 0;border-bottom:1px solid var(--line);
vertical-align:top;overflow-wrap:anywhere}.n{text-align:right}.bad{color:var(--bad)}
"""


def page_of(figures: Figures) -> str:
    """The page; what comes from rows or from the footer is escaped."""
    return shell(figures.name, _headline(figures), _sections(figures), _data(figures))


def shell(name: str, headline: str, sections: Iterable[str], data: str = "") -> str:
    """A page of sections that are HTML already, with a script of `data` alone behind them."""
    name = escape(name)
    return redacted(
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f'<link rel="icon" href="data:,"><title>{name}: batchgen report</title>'
        f"<style>{_STYLE}</style></head><body><main>"
        f"<h1>{name}</h1><p>{escape(headline)}</p>"
        + "".join(sections)
        + f"</main>{data}</body></html>\n"
    )


def figure(title: str, drawn: str, text: str) -> str:
    """A chart under its heading, with what it says in words."""
    caption = f"<figcaption>{escape(text)}</figcaption>"
    return f"<figure><h2>{escape(title)}</h2>{drawn}{caption}</figure>"


def embedded_figures(page: str) -> dict[str, Any]:
    """The figures that a page was made of. Raises ValueError where it is no report."""
    _, found, rest = page.partition(f'id="{_FIGURES_ID}">')
    if not found:
        raise ValueError("it is no report of batchgen's")
    data: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return data


def _headline(figures: Figures) -> str:
    totals = figures.totals
    rate = totals["completion tokens"] / figures.seconds if figures.seconds else 0.0
    return (
        f"{totals['rows']:,} rows, {totals['failed']:,} failed; {figures.seconds:,.1f} s of work "
        f"in {counted(len(figures.runs), 'run')}, {rate:,.0f} completion tokens a second."
    )


def _sections(figures: Figures) -> Iterator[str]:
    cards = "".join(
        f"<li><b>{value:,}</b>{escape(key)}</li>" for key, value in figures.totals.items()
    )
    yield f'<ul class="cards" aria-label="Totals">{cards}</ul>'
    yield _failures(figures)
    charts = "".join(figure(*chart) for chart in charts_of(figures))
    yield f'<div class="grid">{charts}</div>'
    yield _percentiles(figures)
    runs = (
        (run.run_id, run.at, f"{run.end - run.begin:,.1f}", f"{run.rows:,}") for run in figures.runs
    )
    yield table("Runs", ("run", "began (UTC)", "seconds", "rows"), runs)
    facts = [(name, _short(value)) for name, value in flatten(figures.provenance).items()]
    yield table("Where it came from", ("what", "value"), facts)
    yield f"<p>Made by batchgen {escape(__version__)} from the file's columns alone.</p>"


def _failures(figures: Figures) -> str:
    if not figures.failures:
        return ""
    rows = (
        (one.code, f"{one.rows:,}", id_, str(index), message)
        for one in figures.failures
        for id_, index, message in one.samples
    )
    return table("Failed rows", ("error", "rows", "id", "index", "the first of them"), rows)


def _percentiles(figures: Figures) -> str:
    names = next((list(found) for found in figures.percentiles.values() if found), [])
    rows = (
        (PART_NAMES[part], *(f"{found[name]:.3f}" for name in names))
        for part, found in figures.percentiles.items()
        if found
    )
    return table("Seconds by part of a completion's life", ("part", *names), rows)


def table(title: str, heads: Iterable[str], rows: Iterable[tuple[str, ...]]) -> str:
    """Cells of plain text."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in heads)
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    inner = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f"<h2>{escape(title)}</h2><table>{inner}</table>"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "..."


def _data(figures: Figures) -> str:
    """The numbers themselves, for `--check` and for programs; the bars of slots are drawn only."""
    data = asdict(figures)
    for bars in ("bars", "static_bars"):
        del data["slots"][bars]
    text = json.dumps(data, default=str, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{_FIGURES_ID}">{text}</script>'
