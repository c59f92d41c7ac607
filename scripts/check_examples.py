"""Runs the examples of `scripts/examples/` against a node, and checks what they get: rows, types and nulls. So for Parquet over HTTP,
beside the Arrow stream of the same query.

What is expected comes from the CSV files, read here and nowhere else. `scripts/check_examples` installs what it needs.

Usage: check_examples.py HOST:PORT DATASET_ROOT [ROWS]    (ROWS: how many PM2.5 from 5 to 35 are known to be)
Exit codes: 0 all passed, 1 something failed.
"""

import collections
import csv
import json
import runpy
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
from pyarrow import ipc, parquet

FIELDS = (
    "latitude", "longitude", "timestamp", "parameter", "value", "unit", "raw_concentration",
    "aqi", "category", "site_name", "agency_name", "aqs_id", "full_aqs_id",
)
NUMBERS = ("value", "raw_concentration", "aqi", "category")
MISSING = {"", "-999", "-999.0"}
PANDAS = dict.fromkeys(FIELDS, "category") | dict.fromkeys(("latitude", "longitude", "value", "raw_concentration"), "float64")
PANDAS |= {"timestamp": "datetime64[s, UTC]", "aqi": "Int16", "category": "Int8"}
POLARS = dict.fromkeys(FIELDS, pl.Categorical) | dict.fromkeys(("latitude", "longitude", "value", "raw_concentration"), pl.Float64)
POLARS |= {"timestamp": pl.Datetime("ms", "UTC"), "aqi": pl.Int16, "category": pl.Int8}
DUCKDB = dict.fromkeys(FIELDS, "VARCHAR") | dict.fromkeys(("latitude", "longitude", "value", "raw_concentration"), "DOUBLE")
DUCKDB |= {"timestamp": "TIMESTAMP WITH TIME ZONE", "aqi": "SMALLINT", "category": "TINYINT"}
# The first has nulls in one number, the second in all of them; the third has no AQI, the last no rows.
COMMANDS = (
    {"parameter": "PM2.5", "min_value": 5, "max_value": 35},
    {"parameter": "OZONE"},
    {"parameter": "CO"},
    {"parameter": "nothing"},
)
EXAMPLES = Path(__file__).parent / "examples"

passed = failed = 0


def expect(what, found, expected):
    global passed, failed
    if found == expected:
        passed += 1
        shown = str(found)
        print(f"ok      {what}: {shown if len(shown) < 60 else shown[:57] + '...'}")
    else:
        failed += 1
        print(f"FAILED  {what}: found {found}, expected {expected}")


def read(root):
    """All rows, in the order of days, files and rows."""
    for path in sorted(root.glob("[0-9]*/*.csv")):
        with path.open(newline="", encoding="utf-8") as lines:
            yield from (dict(zip(FIELDS, row)) for row in csv.reader(lines) if row)


def matches(row, command):
    if row["parameter"] != command["parameter"]:
        return False
    low, high = command.get("min_value"), command.get("max_value")
    return low is None or (row["value"] not in MISSING and low <= float(row["value"]) <= high)


def number(text):
    return None if text in MISSING else float(text)


def run(name, address, command, is_default):
    arguments = [address] if is_default else [address, json.dumps(command)]
    sys.argv = [name, *arguments]
    began = time.monotonic()
    found = runpy.run_path(str(EXAMPLES / name))
    print(f"        {name} {command}: {time.monotonic() - began:.2f} s")
    return found


def check(address, command, rows, is_default):
    nulls = {name: sum(row[name] in MISSING for row in rows) for name in NUMBERS}
    values = [number(row["value"]) for row in rows]
    names = [row["site_name"] for row in rows]

    frame = run("flight_pandas.py", address, command, is_default)["frame"]
    expect("pandas, rows", len(frame), len(rows))
    expect("pandas, nulls", {name: int(frame[name].isna().sum()) for name in NUMBERS}, nulls)
    expect("pandas, values in order", [None if value != value else value for value in frame["value"]] == values, True)
    expect("pandas, sites in order", list(frame["site_name"]) == names, True)
    expect("pandas, types", {name: str(frame[name].dtype) for name in frame}, PANDAS)

    frame = run("flight_polars.py", address, command, is_default)["frame"]
    expect("polars, rows", frame.height, len(rows))
    expect("polars, nulls", {name: frame[name].null_count() for name in NUMBERS}, nulls)
    expect("polars, values in order", frame["value"].to_list() == values, True)
    expect("polars, sites in order", frame["site_name"].to_list() == names, True)
    expect("polars, types", dict(frame.schema), POLARS)

    days = collections.defaultdict(list)
    for row in rows:
        days[row["timestamp"][:10].replace("-", "")].append(row)
    expected = [
        (day, len(of_day), sum(row["aqi"] not in MISSING for row in of_day),
         max((value for row in of_day if (value := number(row["value"])) is not None), default=None),
         len({row["full_aqs_id"] for row in of_day}))
        for day, of_day in sorted(days.items())
    ]
    found = run("flight_duckdb.py", address, command, is_default)["days"].fetchall()
    expect("duckdb, days with rows, AQI, highest value and sites", found, expected)


def over_http(address, command, form):
    words = {"parameter": command["parameter"], "min": command.get("min_value", ""), "max": command.get("max_value", ""), "format": form}
    began = time.monotonic()
    with urllib.request.urlopen(f"http://{address}/api/v1/query?{urllib.parse.urlencode(words)}", timeout=60) as answer:
        body = answer.read()
    print(f"        {form} {command}: {len(body)} bytes, {time.monotonic() - began:.2f} s")
    return body


def check_parquet(address, command, rows, scratch):
    """What the Arrow stream has, but for seconds, which Parquet has not."""
    arrow = ipc.open_stream(over_http(address, command, "arrow")).read_all()
    at = arrow.schema.get_field_index("timestamp")
    arrow = arrow.set_column(at, pa.field("timestamp", pa.timestamp("ms", "UTC"), False), arrow["timestamp"].cast(pa.timestamp("ms", "UTC")))
    file = scratch / "rows.parquet"
    file.write_bytes(over_http(address, command, "parquet"))
    table = parquet.read_table(file)
    expect("parquet, rows", table.num_rows, len(rows))
    expect("parquet in pyarrow, types", table.schema.remove_metadata().equals(arrow.schema.remove_metadata()), True)
    expect("parquet in pyarrow, nulls", {name: table[name].null_count for name in FIELDS}, {name: arrow[name].null_count for name in FIELDS})
    # Dictionaries differ from group to group: the texts are compared.
    texts = pa.schema([pa.field(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type, field.nullable) for field in arrow.schema])
    expect("parquet in pyarrow, rows in order", table.cast(texts).equals(arrow.cast(texts)), True)
    frame = pl.read_parquet(file)
    expect("parquet in polars, types", dict(frame.schema), POLARS)
    expect("parquet in polars, rows in order", frame.to_arrow().cast(texts).equals(arrow.cast(texts)), True)
    described = duckdb.sql(f"DESCRIBE SELECT * FROM '{file}'").fetchall()
    expect("parquet in duckdb, types", {column[0]: column[1] for column in described}, DUCKDB)
    counts = ", ".join(f"count(*) - count({name})" for name in NUMBERS)
    found = dict(zip(NUMBERS, duckdb.sql(f"SELECT {counts} FROM '{file}'").fetchall()[0]))
    expect("parquet in duckdb, nulls", found, {name: arrow[name].null_count for name in NUMBERS})


def main():
    address, root = sys.argv[1], Path(sys.argv[2])
    known = int(sys.argv[3]) if len(sys.argv) > 3 else None
    rows = list(read(root))
    for index, command in enumerate(COMMANDS):
        wanted = [row for row in rows if matches(row, command)]
        if index == 0 and known is not None:
            expect("rows of PM2.5 from 5 to 35 in the files", len(wanted), known)
        check(address, command, wanted, index == 0)
        with tempfile.TemporaryDirectory(prefix="parquet") as scratch:
            check_parquet(address, command, wanted, Path(scratch))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
