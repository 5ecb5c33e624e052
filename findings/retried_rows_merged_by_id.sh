#!/usr/bin/env bash
# A table of answers by id, and a file with the answers of rows that were done again, merged into it by id: one row
# each; two answers for one id, as a row has that was sent twice; two for an id that is new; and a row without an id.
#
# Seen with duckdb 2.0.1, polars 2.1.0, pandas 3.1.1, deltalake 1.6.6, pylance 14.0.2, pyiceberg 0.12.0:
#   Two answers for an id that is there: DuckDB's MERGE and UPDATE take the last, its INSERT OR REPLACE the first;
#   Polars' `update` and pandas' `combine_first` make two rows of the one. deltalake, Lance, pyiceberg and pandas'
#   `update` refuse. Two answers for an id that is new: deltalake, Lance and DuckDB's MERGE insert both, and so do Polars
#   (with how="full") and `combine_first`; INSERT OR REPLACE keeps the first; pyiceberg refuses. The next merge of one
#   answer for that id makes two equal rows of them. A row without an id is a new one each time for all but
#   pandas, whose two ways find it, pyiceberg, which raises, and the ways that insert nothing. Nobody warns.
# So the same file of retries leaves another answer by the engine that merged it, ids that were unique are not after
# the first run, and the check that a library makes of old ids it does not make of new ones.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q duckdb==2.0.1 polars==2.1.0 pandas==3.1.1 deltalake==1.6.6 pylance==14.0.2 \
  'pyiceberg[sql-sqlite]==0.12.0' pyarrow==26.0.1 numpy==2.4.6
cd "$work"
cat > look.py <<'PY'
import tempfile
from importlib.metadata import version

import duckdb
import lance
import polars as pl
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake
from pyiceberg.catalog.sql import SqlCatalog


def table(*rows):
    ids, answers = zip(*rows)
    return pa.table({"id": pa.array(ids, pa.string()), "answer": pa.array(answers, pa.string())})


BASE = table(("a", "old"), ("b", "old"), (None, "old"))
RETRIES = {
    "one answer each": table(("b", "1"), ("c", "1")),
    "two for an old id": table(("b", "1"), ("b", "2")),
    "two for a new id": table(("c", "1"), ("c", "2")),
    "no id": table((None, "1")),
}


def by_deltalake(base, new):
    at = tempfile.mkdtemp(dir=".")
    write_deltalake(at, base)
    merge = DeltaTable(at).merge(new, "t.id = s.id", source_alias="s", target_alias="t")
    merge.when_matched_update_all().when_not_matched_insert_all().execute()
    return pl.read_delta(at).rows()


def by_lance(base, new):
    data = lance.write_dataset(base, tempfile.mkdtemp(dir=".") + "/t.lance")
    data.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new)
    return pl.from_arrow(lance.dataset(data.uri).to_table()).rows()


def by_pyiceberg(base, new):
    at = tempfile.mkdtemp()
    catalog = SqlCatalog("here", uri=f"sqlite:///{at}/catalog.db", warehouse=f"file://{at}")
    catalog.create_namespace("n")
    data = catalog.create_table("n.t", schema=base.schema)
    data.append(base)
    data.upsert(new, join_cols=["id"])
    return pl.from_arrow(data.scan().to_arrow()).rows()


def by_duckdb(statement, unique=""):
    def merge(base, new):
        connection = duckdb.connect()
        connection.register("base", base)
        connection.register("s", new)
        connection.execute(f"create table t (id varchar {unique}, answer varchar)")
        connection.execute("insert into t from base")
        connection.execute(statement)
        return connection.execute("from t").fetchall()

    return merge


def by_polars(how):
    return lambda base, new: pl.from_arrow(base).update(pl.from_arrow(new), on="id", how=how).rows()


def by_pandas(name):
    def merge(base, new):
        base, new = (part.to_pandas().set_index("id") for part in (base, new))
        if name == "update":
            base.update(new)
        else:
            base = new.combine_first(base)
        return [(None if id != id else id, answer) for id, answer in base["answer"].items()]

    return merge


MERGE = "merge into t using s on t.id = s.id when matched then update set answer = s.answer when not matched then insert"
WAYS = {
    "deltalake merge": by_deltalake,
    "lance merge_insert": by_lance,
    "pyiceberg upsert": by_pyiceberg,
    "duckdb MERGE": by_duckdb(MERGE),
    "duckdb UPDATE": by_duckdb("update t set answer = s.answer from s where t.id = s.id"),
    "duckdb INSERT OR REPLACE": by_duckdb("insert or replace into t from s", "unique"),
    "polars update": by_polars("left"),
    "polars update, full": by_polars("full"),
    "pandas update": by_pandas("update"),
    "pandas combine_first": by_pandas("combine_first"),
}
NEW = dict.fromkeys(WAYS, True) | dict.fromkeys(("duckdb UPDATE", "polars update", "pandas update"), False)
packages = ("duckdb", "polars", "pandas", "deltalake", "pylance", "pyiceberg")
print(*(f"{name} {version(name)}" for name in packages), sep=", ")
seen = {}
for case, new in RETRIES.items():
    print(f"{case}:")
    for way, merge in WAYS.items():
        try:
            rows = sorted(merge(BASE, new), key=str)
        except Exception as error:  # each library has a kind of its own
            print(f"    {way:25} {type(error).__name__}: {str(error)[:70]}")
            seen[case, way] = "refused"
            continue
        told = {id: [answer for other, answer in rows if other == id] for id, _ in rows}
        seen[case, way] = told
        print(f"    {way:25}", ", ".join(f"{id}: {' and '.join(answers)}" for id, answers in told.items()))
for way in WAYS:
    added = {"c": ["1"]} if NEW[way] else {}
    assert seen["one answer each", way] == {"a": ["old"], "b": ["1"], None: ["old"]} | added, way
told = {way: seen["two for an old id", way] for way in WAYS}
refuse = ("deltalake merge", "lance merge_insert", "pyiceberg upsert", "pandas update")
assert {way for way, found in told.items() if found == "refused"} == set(refuse)
assert told["duckdb MERGE"]["b"] == told["duckdb UPDATE"]["b"] == ["2"]
assert told["duckdb INSERT OR REPLACE"]["b"] == ["1"]
assert all(told[way]["b"] == ["1", "2"] for way in ("polars update", "polars update, full", "pandas combine_first"))
told = {way: seen["two for a new id", way] for way in WAYS if NEW[way]}
assert told.pop("pyiceberg upsert") == "refused"
assert told.pop("duckdb INSERT OR REPLACE")["c"] == ["1"]
assert len(told) == 5 and all(found["c"] == ["1", "2"] for found in told.values())
twice = table(("a", "old"), ("c", "1"), ("c", "2"))
for way in ("deltalake merge", "lance merge_insert", "duckdb MERGE"):
    rows = sorted(WAYS[way](twice, table(("c", "3"))))
    print(f"{way}, one answer for an id that is there twice: {rows}")
    assert rows == [("a", "old"), ("c", "3"), ("c", "3")]
told = {way: seen["no id", way] for way in WAYS}
assert told["pyiceberg upsert"] == "refused"
for way, found in told.items():
    if "pandas" in way:
        assert found[None] == ["1"], way
    elif way != "pyiceberg upsert":
        assert found[None] == (["1", "old"] if NEW[way] else ["old"]), way
PY
LANCE_LOG=error venv/bin/python -W ignore look.py 2>said || { tail -n 40 said; exit 1; }
