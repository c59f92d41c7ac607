"""Answers what the overlay answers with DuckDB and Polars, inside one process, and says how long that takes.

`overlay-harness bench --peers PYTHON` runs it and talks with it by lines, so that rounds of the overlay and of its
peers take turns. Both load all files into memory first; then comes one line of JSON with `ready`, the versions, the rows,
and the milliseconds of loading. Each line `WORK SYSTEM` on standard input is answered with the milliseconds that it took,
the rows that came, and the sum of means where these are means:

    > filter_arrow duckdb
    < {"ms": 103.2, "rows": 225521, "mean_sum": null}

A work is done once a line, to its end: the Arrow table, or a JSON text for each row, lies in memory; it is looked at and
dropped when the time is taken, as an older table is before its files are loaded again. Rows come in the order of the files,
as the systems keep it by themselves. Both use `--threads` threads; Polars has them from POLARS_MAX_THREADS, which must
say the same. Needs what `scripts/compare_peers` installs.

Exit codes: 0 at the end of the input, 1 if a system fails, 2 if the arguments are not understood.
"""

import argparse
import io
import json
import sys
import time
from pathlib import Path

import duckdb
import polars
import pyarrow
import pyarrow.compute

COLUMNS = {
    "latitude": "DOUBLE", "longitude": "DOUBLE", "timestamp": "TIMESTAMP", "parameter": "VARCHAR", "value": "DOUBLE",
    "unit": "VARCHAR", "raw_concentration": "DOUBLE", "aqi": "SMALLINT", "category": "SMALLINT", "site_name": "VARCHAR",
    "agency_name": "VARCHAR", "aqs_id": "VARCHAR", "full_aqs_id": "VARCHAR",
}
POLARS_TYPES = {
    "DOUBLE": polars.Float64, "SMALLINT": polars.Int16, "VARCHAR": polars.String,
    # Read as text, since the files write no seconds.
    "TIMESTAMP": polars.String,
}
NULLABLE = ("value", "raw_concentration", "aqi", "category")
MISSING = -999
LEAST, MOST = 5, 35


class DuckDb:
    """A table in memory."""

    version = duckdb.__version__

    def __init__(self, files, threads):
        self.files = files
        self.connection = duckdb.connect()
        self.connection.execute(f"SET threads = {threads}")

    def free(self):
        self.connection.execute("DROP TABLE IF EXISTS rows")

    def load(self):
        columns = [f"nullif({name}, {MISSING}) AS {name}" if name in NULLABLE else name for name in COLUMNS]
        self.connection.execute(
            f"CREATE TABLE rows AS SELECT {', '.join(columns)}"
            " FROM read_csv(?, header = false, delim = ',', quote = '\"', columns = ?, timestampformat = '%Y-%m-%dT%H:%M')",
            [self.files, COLUMNS],
        )
        return self.connection.execute("SELECT count(*) FROM rows").fetchall()[0][0]

    def filter(self):
        return f"SELECT * FROM rows WHERE parameter = 'PM2.5' AND value BETWEEN {LEAST} AND {MOST}"

    def filter_arrow(self):
        return self.connection.sql(self.filter()).to_arrow_table()

    def filter_json(self):
        # Takes less time than COPY to a file of JSON lines does, and leaves none behind.
        return self.connection.sql(f"SELECT to_json(found) FROM ({self.filter()}) AS found").to_arrow_table()

    def aggregate(self):
        means = self.connection.sql(
            "SELECT site_name, timestamp::DATE AS day, avg(value) AS mean FROM rows"
            " WHERE parameter = 'PM2.5' AND value IS NOT NULL GROUP BY ALL"
        )
        return means.to_arrow_table()


class Polars:
    """A data frame."""

    version = polars.__version__

    def __init__(self, files):
        self.files = files
        self.rows = None

    def free(self):
        self.rows = None

    def load(self):
        types = {name: POLARS_TYPES[sql] for name, sql in COLUMNS.items()}
        missing = [polars.col(name).replace(MISSING, None) for name in NULLABLE]
        time_of_row = polars.col("timestamp").str.to_datetime("%Y-%m-%dT%H:%M", time_unit="us")
        scan = polars.scan_csv(self.files, has_header=False, schema=types)
        self.rows = scan.with_columns(time_of_row, *missing).collect()
        return self.rows.height

    def filter(self):
        value = polars.col("value")
        return self.rows.filter(polars.col("parameter") == "PM2.5", value.is_between(LEAST, MOST))

    def filter_arrow(self):
        return self.filter().to_arrow()

    def filter_json(self):
        lines = io.BytesIO()
        self.filter().write_ndjson(lines)
        return lines

    def aggregate(self):
        value = polars.col("value")
        day = polars.col("timestamp").dt.date().alias("day")
        rows = self.rows.lazy().filter(polars.col("parameter") == "PM2.5", value.is_not_null())
        return rows.group_by("site_name", day).agg(value.mean().alias("mean")).collect().to_arrow()


WORKS = ("load", "filter_arrow", "filter_json", "aggregate")


def timed(work):
    """What `work` returns, and the milliseconds that it took."""
    started = time.perf_counter()
    made = work()
    return made, round(1000 * (time.perf_counter() - started), 3)


def row_count(made):
    """The rows of a table, the lines of a text, or what is a count already."""
    if isinstance(made, io.BytesIO):
        return made.getvalue().count(b"\n")
    return made.num_rows if isinstance(made, pyarrow.Table) else made


def answer(line, systems):
    work, _, name = line.strip().partition(" ")
    if work not in WORKS or name not in systems:
        return {"error": f"unknown work `{line.strip()}` (works: {', '.join(WORKS)}; systems: {', '.join(systems)})"}
    if work == "load":
        systems[name].free()
    made, ms = timed(getattr(systems[name], work))
    mean_sum = pyarrow.compute.sum(made["mean"]).as_py() if work == "aggregate" else None
    return {"ms": ms, "rows": row_count(made), "mean_sum": mean_sum}


def say(**values):
    print(json.dumps(values), flush=True)


def main():
    parser = argparse.ArgumentParser(description="Answers the overlay's queries with DuckDB and Polars.")
    parser.add_argument("--dataset-root", type=Path, required=True, help="the folder of YYYYMMDD folders")
    parser.add_argument("--threads", type=int, required=True, help="of each system")
    arguments = parser.parse_args()
    root, threads = arguments.dataset_root, arguments.threads
    if polars.thread_pool_size() != threads:
        parser.error(f"Polars has {polars.thread_pool_size()} threads: set POLARS_MAX_THREADS to {threads}")
    found = root.glob("[0-9]" * 8 + "/[!.]*")
    files = sorted(str(path) for path in found if path.name.endswith((".csv", ".csv.gz")) and path.is_file())
    if not files:
        parser.error(f"no YYYYMMDD/*.csv or *.csv.gz below `{root}`")
    systems = {"duckdb": DuckDb(files, threads), "polars": Polars(files)}
    loaded = {name: timed(system.load) for name, system in systems.items()}
    rows = {name: rows for name, (rows, _) in loaded.items()}
    if len(set(rows.values())) != 1:
        sys.exit(f"error: the systems do not read the same rows: {rows}")
    versions = {name: system.version for name, system in systems.items()}
    load_ms = {name: ms for name, (_, ms) in loaded.items()}
    say(ready=True, **versions, rows=rows["duckdb"], load_ms=load_ms)
    for line in sys.stdin:
        say(**answer(line, systems))


if __name__ == "__main__":
    main()
