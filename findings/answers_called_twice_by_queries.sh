#!/usr/bin/env bash
# A function that asks a model, registered in a query engine, whose answers are then filtered, measured, joined and
# counted: how often each row is asked, and which answers come out of a filter for "yes". The model is one that is
# sampled: asked a second time it answers "no".
#
# Seen with duckdb 2.0.1, datafusion 55.0.0, daft 0.7.26, polars 2.1.0:
#   `select a from (select ask(prompt) a from t) where a like '%yes'` asks each row once for the filter and once more
#   for what is selected, in DuckDB and DataFusion: twenty calls for ten rows, and every answer that the filter for
#   "yes" lets through is "no". A second condition makes it one more in DuckDB. With `side_effects=True`, or as
#   "volatile", each is asked once there. A subquery that is joined to itself is asked twice by DataFusion, be it
#   volatile or not, and by Daft, as by its `concat`, so that one row has two answers; once by DuckDB, with
#   `with` as with `materialized`, and by Polars. Of one text for all rows DuckDB and DataFusion ask once, so that
#   ten samples are one. `count(*)` asks none of them. Polars asks each row once in all of these. No warning.
# So a filter for the good answers costs twice and gives others than those that it judged, and the more the query is
# written out in steps the more is paid.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q duckdb==2.0.1 datafusion==55.0.0 daft==0.7.26 polars==2.1.0 pyarrow==25.0.1 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
from collections import Counter
from importlib.metadata import version

import daft
import datafusion
import duckdb
import polars as pl
import pyarrow as pa

PROMPTS = [f"p{place}" for place in range(10)]
FILTERED = "select a from (select ask(prompt) a from t) where a like '%yes'"
QUERIES = {
    "measured": "select a, length(a) from (select ask(prompt) a from t)",
    "filtered": FILTERED,
    "filtered twice": FILTERED + " and a like 'p%'",
    "joined": "with x as (select prompt, ask(prompt) a from t) select x.a, y.a from x join x y on x.prompt = y.prompt",
    "one text": "select ask('p') from t",
    "counted": "select count(*) from (select ask(prompt) a from t)",
}
asked = Counter()


def ask(prompt):
    asked[prompt] += 1
    return f"{prompt} {'yes' if asked[prompt] == 1 else 'no'}"


def by_duckdb(query, **kind):
    connection = duckdb.connect()
    connection.execute("set threads = 1")
    connection.create_function("ask", ask, ["VARCHAR"], "VARCHAR", **kind)
    connection.register("t", pa.table({"prompt": PROMPTS}))
    return connection.execute(query).fetchall()


def by_datafusion(query, kind):
    def column(prompts):
        return pa.array([ask(prompt) for prompt in prompts.to_pylist()])

    context = datafusion.SessionContext()
    context.register_udf(datafusion.udf(column, [pa.string()], pa.string(), kind, name="ask"))
    context.from_arrow(pa.table({"prompt": PROMPTS}), name="t")
    return [tuple(row.values()) for row in context.sql(query).to_pylist()]


@daft.func
def ask_daft(prompt: str) -> str:
    return ask(prompt)


def by_daft(query):
    rows = daft.from_pydict({"prompt": PROMPTS}).with_column("a", ask_daft(daft.col("prompt")))
    a = daft.col("a")
    done = {
        "measured": lambda: rows.with_column("n", a.length()).select("a", "n"),
        "filtered": lambda: rows.where(a.endswith("yes")).select("a"),
        "filtered twice": lambda: rows.where(a.endswith("yes") & a.startswith("p")).select("a"),
        "joined": lambda: rows.join(rows, on="prompt").exclude("prompt"),
        "counted": lambda: rows.agg(daft.col("prompt").count()),
        "concat": lambda: rows.concat(rows).select("a"),
    }[query]()
    return [tuple(row.values()) for row in done.to_pylist()]


def by_polars(query):
    asks = pl.col("prompt").map_elements(ask, return_dtype=pl.String)
    rows, a = pl.LazyFrame({"prompt": PROMPTS}).with_columns(a=asks), pl.col("a")
    done = {
        "measured": rows.select("a", n=a.str.len_chars()),
        "filtered": rows.filter(a.str.ends_with("yes")).select("a"),
        "filtered twice": rows.filter(a.str.ends_with("yes")).filter(a.str.starts_with("p")).select("a"),
        "joined": rows.join(rows, on="prompt").drop("prompt"),
        "counted": rows.select(pl.len()),
        "concat": pl.concat([rows, rows]).select("a"),
    }[query]
    return done.collect().rows()


def calls(run, *how, **more):
    asked.clear()
    rows = run(*how, **more)
    assert len(rows) in (1, 10, 20), rows
    return sum(asked.values()), sum(any(str(cell).endswith("no") for cell in row) for row in rows)


print(*(f"{name} {version(name)}" for name in ("duckdb", "datafusion", "daft", "polars")), sep=", ")
seen = {}
for name, query in QUERIES.items():
    seen[name] = {
        "DuckDB": calls(by_duckdb, query),
        "with side effects": calls(by_duckdb, query, side_effects=True),
        "DataFusion": calls(by_datafusion, query, "stable"),
        "volatile": calls(by_datafusion, query, "volatile"),
    }
    if name != "one text":
        seen[name] |= {"Daft": calls(by_daft, name), "Polars": calls(by_polars, name)}
seen["concat"] = {"Daft": calls(by_daft, "concat"), "Polars": calls(by_polars, "concat")}
for name, engines in seen.items():
    told = (f"{engine} {count} calls, {noes} rows with a no" for engine, (count, noes) in engines.items())
    print(f"{name}:", "; ".join(told))
as_materialized = calls(by_duckdb, QUERIES["joined"].replace("as (", "as materialized ("))
once, twice = (10, 0), (20, 10)
assert all(found == once for found in seen["measured"].values())
filtered = seen["filtered"]
assert filtered.pop("DuckDB") == filtered.pop("DataFusion") == twice
assert len(filtered) == 4 and set(filtered.values()) == {once}
again = seen["filtered twice"]
assert again.pop("DuckDB") == (30, 10) and again.pop("DataFusion") == twice
assert len(again) == 4 and set(again.values()) == {once}
joined = seen["joined"]
assert [joined.pop(engine) for engine in ("DataFusion", "volatile", "Daft")] == [twice] * 3
assert len(joined) == 3 and {as_materialized, *joined.values()} == {once}
assert list(seen["one text"].values()) == [(1, 0), (10, 9), (1, 0), (10, 9)]
assert {count for count, _ in seen["counted"].values()} == {0}
assert seen["concat"] == {"Daft": twice, "Polars": once}
PY
DAFT_PROGRESS_BAR=0 venv/bin/python -W ignore look.py 2>said || { cat said; exit 1; }
