"""Runs the examples of `scripts/examples/` against a node, and checks what they get: rows, types and nulls.

What is expected comes from the CSV files, read here and nowhere else. `scripts/check_examples` installs what it needs.

Usage: check_examples.py HOST:PORT DATASET_ROOT [ROWS]    (ROWS: how many PM2.5 from 5 to 35 are known to be)
Exit codes: 0 all passed, 1 something failed.
"""

import collections
import csv
import json
import runpy
import sys
import time
from pathlib import Path

import polars as pl

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


def main():
    address, root = sys.argv[1], Path(sys.argv[2])
    known = int(sys.argv[3]) if len(sys.argv) > 3 else None
    rows = list(read(root))
    for index, command in enumerate(COMMANDS):
        wanted = [row for row in rows if matches(row, command)]
        if index == 0 and known is not None:
            expect("rows of PM2.5 from 5 to 35 in the files", len(wanted), known)
        check(address, command, wanted, index == 0)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
