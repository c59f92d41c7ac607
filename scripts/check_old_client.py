"""Checks a node against the contract of the Python system that it replaces.

An old client knows only the field table of that contract, so this script has its own copy of it and
takes nothing from the project: it reads the CSV files itself, computes each answer with decimal.Decimal,
pages through the chunks as an old client does, and then provokes each status. Needs Python 3.9 or later,
grpcio and grpcio-tools; `scripts/check_old_client` installs them.

Exit codes: 0 all passed, 1 something failed, 2 the arguments are not understood.
"""

import argparse
import csv
import importlib
import json
import random
import sys
import tempfile
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path

import grpc
from grpc_tools import protoc

PROTO = """
syntax = "proto3";
service OverlayNode {
  rpc Query(QueryRequest) returns (QueryResponse);
  rpc GetChunk(ChunkRequest) returns (ChunkResponse);
  rpc GetMetrics(MetricsRequest) returns (MetricsResponse);
  rpc Shutdown(ShutdownRequest) returns (ShutdownResponse);
}
message QueryRequest {
  string query_type = 1; string query_params = 2; repeated string hops = 3; string client_id = 4;
}
message QueryResponse {
  string uid = 1; int32 total_chunks = 2; int64 total_records = 3; repeated string hops = 4; string status = 5;
}
message ChunkRequest { string uid = 1; int32 chunk_index = 2; }
message ChunkResponse {
  string uid = 1; int32 chunk_index = 2; int32 total_chunks = 3; string data = 4; bool is_last = 5;
  string status = 6;
}
message MetricsRequest {}
message MetricsResponse {
  string process_id = 1; string role = 2; string team = 3; int32 active_requests = 4;
  int32 max_capacity = 5; bool is_healthy = 6; int32 queue_size = 7; float avg_processing_time_ms = 8;
  int32 data_files_loaded = 9;
}
message ShutdownRequest { bool graceful = 1; }
message ShutdownResponse { string status = 1; }
"""

FIELDS = (
    "latitude", "longitude", "timestamp", "parameter", "value", "unit", "raw_concentration",
    "aqi", "category", "site_name", "agency_name", "aqs_id", "full_aqs_id",
)
NUMBERS = {"latitude", "longitude", "value", "raw_concentration", "aqi", "category"}
CONCENTRATIONS = {"value", "raw_concentration"}
DEFAULT_LIMIT = 2000
DEFAULT_RANGES = ["green=20200810-20200820", "pink=20200821-20200924"]
MISSING = Decimal(-999)
TIMEOUT_SECONDS = 60


def stubs():
    """The modules generated from PROTO."""
    folder = Path(tempfile.mkdtemp(prefix="check-old-client-"))
    (folder / "old_contract.proto").write_text(PROTO)
    arguments = [f"-I{folder}", f"--python_out={folder}", f"--grpc_python_out={folder}", "old_contract.proto"]
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("error: protoc refused the old contract")
    sys.path.insert(0, str(folder))
    return importlib.import_module("old_contract_pb2"), importlib.import_module("old_contract_pb2_grpc")


messages, services = stubs()


# The answer that should come -------------------------------------------------------------------------


class Dataset:
    """Every row, in canonical order: day, file stem, row in file."""

    def __init__(self, root):
        self.days = {}
        self.numbers = {}
        words = {}
        for folder in sorted(Path(root).iterdir()):
            if not (folder.is_dir() and folder.name.isdigit() and len(folder.name) == 8):
                continue
            rows = self.days.setdefault(folder.name, [])
            for path in sorted(folder.glob("*.csv"), key=lambda path: path.stem):
                with open(path, newline="", encoding="utf-8") as file:
                    for row in csv.reader(file):
                        if len(row) == 13 and row[0].strip().lower() != "latitude":
                            rows.append(tuple(words.setdefault(text, text) for text in row))
        self.row_count = sum(map(len, self.days.values()))

    def number(self, text):
        """The decimal in a field, or None where it is missing."""
        if text not in self.numbers:
            number = Decimal(text.strip()) if text.strip() else MISSING
            self.numbers[text] = None if number == MISSING else number
        return self.numbers[text]

    def select(self, query, ranges, limit):
        """The first `limit` rows that a filter selects, each with its day."""
        selected = []
        if "team" in query:
            ranges = {name: days for name, days in ranges.items() if name == query["team"]}
        for day, rows in self.days.items():
            owned = any(first <= day <= last for first, last in ranges.values())
            in_dates = str(query.get("date_start", "0")) <= day <= str(query.get("date_end", "9"))
            if not (owned and in_dates):
                continue
            matches = self.matcher(query)
            for row in rows:
                if matches(row):
                    selected.append((day, row))
                    if len(selected) == limit:
                        return selected
        return selected

    def matcher(self, query):
        """A function that tells whether a row matches."""
        conditions = []
        if "parameter" in query:
            parameter = query["parameter"].upper()
            conditions.append(lambda row: row[3].upper() == parameter)
        low, high = (bound(query, name, Decimal) for name in ("min_value", "max_value"))
        if low is not None or high is not None:
            conditions.append(lambda row: within(self.number(row[4]), low, high))
        for index, axis in ((0, "lat"), (1, "lon")):
            limits = [bound(query, f"{axis}_{end}", float) for end in ("min", "max")]
            if limits != [None, None]:
                conditions.append(
                    lambda row, index=index, limits=limits: within(float(row[index]), *limits)
                )
        for name, indices in (("site", (9,)), ("agency", (10,)), ("text", (9, 10))):
            if name in query:
                part = query[name].lower()
                conditions.append(
                    lambda row, part=part, indices=indices: any(part in row[i].lower() for i in indices)
                )
        return lambda row: all(condition(row) for condition in conditions)


def bound(query, name, kind):
    """A bound of a filter, whether it was written as a number or as text."""
    return kind(str(query[name])) if name in query else None


def within(number, low, high):
    """Whether a number, not missing, lies between inclusive bounds."""
    return number is not None and (low is None or number >= low) and (high is None or number <= high)


def effective_limit(query):
    """Absent, null and 0 are the default."""
    return int(query.get("limit") or 0) or DEFAULT_LIMIT


# Random filters --------------------------------------------------------------------------------------


class Filters:
    """Draws filters from the rows of a dataset."""

    def __init__(self, dataset, ranges, seed):
        self.random = random.Random(seed)
        self.dataset = dataset
        self.ranges = ranges
        self.days = [day for day, rows in dataset.days.items() if rows]

    def chance(self, percent):
        return self.random.randrange(100) < percent

    def row(self):
        return self.random.choice(self.dataset.days[self.random.choice(self.days)])

    def draw(self):
        """A query type and a filter."""
        query = {}
        if self.chance(75):
            name = self.row()[3] if self.chance(90) else self.random.choice(["PM25", "O3", "DUST"])
            query["parameter"] = self.mixed_case(name)
        self.values(query)
        self.dates(query)
        if self.chance(25):
            self.place(query)
        if self.chance(12):
            query["site"] = self.part(self.row()[9])
        if self.chance(12):
            query["agency"] = self.part(self.row()[10])
        if self.chance(15):
            query["team"] = self.random.choice([*self.ranges, "nobody"])
        self.limit(query)
        if self.chance(20):
            query[self.random.choice(["colour", "Parameter2", "verbose", "x-trace"])] = self.random.choice(
                ["red", 7, True, None, [1, 2], {"a": 1}]
            )
        query_type = self.random.choice(["filter", "filter", ""])
        if self.chance(20):
            query_type = "search"
            query["text"] = self.part(self.row()[self.random.choice([9, 10])])
        keys = list(query)
        self.random.shuffle(keys)
        return query_type, {key: query[key] for key in keys}

    def mixed_case(self, text):
        if self.chance(50):
            return text
        return "".join(self.random.choice([letter.lower(), letter.upper()]) for letter in text)

    def part(self, name):
        if not name or self.chance(5):
            return "zzyzx"
        start = self.random.randrange(len(name))
        part = name[start : start + self.random.randint(1, 8)].strip()
        return self.mixed_case(part) if part else name

    def written(self, text, also_as_text):
        """A number of the data as JSON number or as text, sometimes with needless digits."""
        if self.chance(50):
            return int(text) if text.lstrip("-").isdigit() else float(text)
        return self.random.choice([text, *also_as_text])

    def values(self, query):
        texts = [text for text in (self.row()[4] for _ in range(2)) if self.dataset.number(text) is not None]
        texts.sort(key=Decimal)
        names = [name for name in ("min_value", "max_value") if self.chance(50)]
        if len(texts) < len(names):
            return
        for name, text in zip(names, texts if len(names) == 2 else texts[:1]):
            query[name] = self.written(text, [text + "0", text + "00"])

    def dates(self, query):
        known = sorted({*self.days, *(day for days in self.ranges.values() for day in days)})
        outside = ["20200101", "20200731", "20200811", "20200812", "20201001", "20211231"]
        days = sorted(self.random.choice(known if self.chance(80) else outside) for _ in range(2))
        for name, day in zip(("date_start", "date_end"), days):
            if self.chance(45):
                query[name] = self.random.choice([day, int(day)])

    def place(self, query):
        row = self.row()
        for axis, center in (("lat", float(row[0])), ("lon", float(row[1]))):
            for end, sign in (("min", -1), ("max", 1)):
                if self.chance(75):
                    degrees = center + sign * self.random.choice([0, 0.25, 1, 3])
                    query[f"{axis}_{end}"] = self.random.choice([degrees, repr(degrees)])

    def limit(self, query):
        kind = self.random.randrange(8)
        if kind == 1:
            query["limit"] = None
        elif kind == 2:
            query["limit"] = self.random.choice([0, "0"])
        elif kind in (3, 4):
            query["limit"] = self.random.choice([1, 2, 3, 17, "50"])
        elif kind == 5:
            query["limit"] = self.random.choice([500, 2001, "10000"])
        elif kind == 6:
            query["limit"] = 50_000


# The node --------------------------------------------------------------------------------------------


class Node:
    """A node as an old client sees it: default message sizes, no metadata."""

    def __init__(self, address):
        self.address = address
        self.stub = services.OverlayNodeStub(grpc.insecure_channel(address))

    def query(self, params, query_type="filter", hops=(), client_id="old-client"):
        text = params if isinstance(params, str) else json.dumps(params)
        request = messages.QueryRequest(
            query_type=query_type, query_params=text, hops=hops, client_id=client_id
        )
        return self.stub.Query(request, timeout=TIMEOUT_SECONDS)

    def chunk(self, uid, index):
        request = messages.ChunkRequest(uid=uid, chunk_index=index)
        return self.stub.GetChunk(request, timeout=TIMEOUT_SECONDS)

    def metrics(self):
        return self.stub.GetMetrics(messages.MetricsRequest(), timeout=TIMEOUT_SECONDS)

    def wait_until_ready(self, seconds):
        """Polls the metrics, as old scripts do."""
        end = time.monotonic() + seconds
        while True:
            try:
                return self.metrics()
            except grpc.RpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                    raise
                time.sleep(0.2)


class Literal(str):
    """A number as the JSON text writes it."""


class Difference(Exception):
    """What a node answered, and what it should have."""


def expect(condition, message):
    if not condition:
        raise Difference(message)


def drain(node, answer, order, shuffle):
    """All rows of a result; reads chunks in order, at random, or some of them twice."""
    expect(answer.status == "ready", f"status `{answer.status}`, expected `ready`")
    expect(answer.uid, "no uid")
    expect(answer.total_chunks >= 1, f"{answer.total_chunks} chunks; even an empty result has one")
    indices = list(range(answer.total_chunks))
    if order == "random":
        shuffle(indices)
    elif order == "twice":
        indices = indices + indices[::-1]
    data = {}
    for index in indices:
        chunk = node.chunk(answer.uid, index)
        expect(chunk.status == "success", f"chunk {index}: status `{chunk.status}`, expected `success`")
        found = (chunk.uid, chunk.chunk_index, chunk.total_chunks, chunk.is_last)
        wanted = (answer.uid, index, answer.total_chunks, index == answer.total_chunks - 1)
        expect(found == wanted, f"chunk {index}: (uid, index, chunks, last) is {found}, expected {wanted}")
        expect(data.setdefault(index, chunk.data) == chunk.data, f"chunk {index}: other data when read again")
    rows = []
    for index in range(answer.total_chunks):
        part = json.loads(data[index], parse_float=Literal, parse_int=Literal)
        expect(isinstance(part, list), f"chunk {index} is no JSON array")
        expect(part or answer.total_chunks == 1, f"chunk {index} of {answer.total_chunks} is empty")
        rows.extend(part)
    expect(
        len(rows) == answer.total_records,
        f"{len(rows)} rows in chunks, total_records {answer.total_records}",
    )
    return rows


def compare(rows, expected):
    """Both hold the same rows in the same order."""
    for index, (row, (day, fields)) in enumerate(zip(rows, expected)):
        wanted = dict(zip(FIELDS, fields), date=day)
        expect(set(row) == set(wanted), f"row {index}: keys {sorted(row)}, expected {sorted(wanted)}")
        for name, text in wanted.items():
            found = row[name]
            expect(
                same_number(name, found, text) if name in NUMBERS else equal_text(found, text),
                f"row {index} of {day}: {name} is {found!r}, expected {text!r}",
            )
    expect(len(rows) == len(expected), f"{len(rows)} rows, expected {len(expected)}")


def equal_text(found, text):
    return isinstance(found, str) and not isinstance(found, Literal) and found == text


def same_number(name, found, text):
    """Equal decimals; a concentration has a decimal, an index has none, missing is -999."""
    if not isinstance(found, Literal):
        return False
    wanted = Decimal(text.strip()) if text.strip() else MISSING
    try:
        if Decimal(found) != wanted:
            return False
    except InvalidOperation:
        return False
    if wanted == MISSING:
        return True
    if name in CONCENTRATIONS:
        return "." in found
    return name not in ("aqi", "category") or "." not in found


# The checks ------------------------------------------------------------------------------------------


class Report:
    """Counts, and prints what failed."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, name, body):
        try:
            body()
        except Difference as difference:
            self.fail(name, difference)
        except grpc.RpcError as error:
            self.fail(name, f"gRPC {error.code().name}: {error.details()}")
        except (ValueError, TypeError, KeyError) as error:
            self.fail(name, f"unreadable answer: {type(error).__name__}: {error}")
        else:
            self.passed += 1

    def fail(self, name, why):
        self.failed += 1
        print(f"FAILED {name}\n  {why}", flush=True)

    def skip(self, name, why):
        print(f"skipped {name}: {why}")


def check_filters(report, node, dataset, filters, ranges, count):
    """Random filters, each compared row by row with the files."""
    for number in range(count):
        query_type, query = filters.draw()
        order = filters.random.choice(["in order", "in order", "random", "twice"])

        def body():
            answer = node.query(query, query_type)
            rows = drain(node, answer, order, filters.random.shuffle)
            compare(rows, dataset.select(query, ranges, effective_limit(query)))

        report.check(f"{node.address} filter {number} ({order}): {query_type!r} {json.dumps(query)}", body)


INVALID = [
    ("malformed JSON", "filter", '{"parameter": "PM2.5"'),
    ("text that is no JSON", "filter", "PM2.5"),
    ("an array", "filter", '[{"parameter": "PM2.5"}]'),
    ("a number", "filter", "5"),
    ("min above max", "filter", '{"min_value": 35, "max_value": 5}'),
    ("min above max as text", "filter", '{"min_value": "9.5", "max_value": "10e-1"}'),
    ("NaN as text", "filter", '{"min_value": "NaN"}'),
    ("bare NaN", "filter", '{"max_value": NaN}'),
    ("infinity as text", "filter", '{"max_value": "Infinity"}'),
    ("a value that is no number", "filter", '{"min_value": "much"}'),
    ("a latitude that is no number", "filter", '{"lat_min": "north"}'),
    ("a date that does not exist", "filter", '{"date_start": "20200230"}'),
    ("a month that does not exist, as number", "filter", '{"date_end": 20201301}'),
    ("a date in words", "filter", '{"date_start": "yesterday"}'),
    ("limit -1", "filter", '{"limit": -1}'),
    ("limit -1 as text", "filter", '{"limit": "-1"}'),
    ("limit in words", "filter", '{"limit": "all"}'),
    ("unknown query type", "explode", "{}"),
]


def check_statuses(report, node, dataset, ranges):
    """Each status of the contract, on one node."""
    own_id = node.metrics().process_id
    day = next((day for day, rows in dataset.days.items() if rows and owned(day, ranges)), None)
    one_day = {"date_start": day, "date_end": day}

    def check(name, body):
        report.check(f"{node.address} {name}", body)

    def hops_are_echoed():
        for hops in ([], ["somebody"], ["somebody", "somebody else"]):
            answer = node.query({**one_day, "limit": 1}, hops=hops)
            expect(answer.status == "ready", f"status `{answer.status}` with hops {hops}")
            expect(list(answer.hops) == [*hops, own_id], f"hops {list(answer.hops)}, expected {[*hops, own_id]}")

    def loop_is_detected():
        for hops in ([own_id], ["somebody", own_id, "somebody else"]):
            answer = node.query(one_day, hops=hops)
            expect(answer.status == "loop_detected", f"status `{answer.status}` with hops {hops}")

    def empty_result_has_one_empty_chunk():
        answer = node.query({"parameter": "NO SUCH PARAMETER"})
        expect(answer.status == "ready", f"status `{answer.status}`")
        expect((answer.total_chunks, answer.total_records) == (1, 0),
               f"{answer.total_chunks} chunks, {answer.total_records} records; expected 1 and 0")
        chunk = node.chunk(answer.uid, 0)
        expect(chunk.status == "success" and chunk.is_last and json.loads(chunk.data) == [],
               f"status `{chunk.status}`, is_last {chunk.is_last}, data {chunk.data[:80]!r}")

    def days_without_owner_are_empty():
        answer = node.query({"date_start": "19990101", "date_end": "19991231"})
        expect((answer.status, answer.total_records) == ("ready", 0),
               f"status `{answer.status}`, {answer.total_records} records; expected `ready` and 0")

    def huge_limit_is_honoured():
        answer = node.query({**one_day, "limit": 10**12})
        compare(drain(node, answer, "in order", None), dataset.select(one_day, ranges, None))

    def huge_parameters_are_refused():
        params = json.dumps({"parameter": "PM2.5", "padding": "x" * 10_000_000})
        try:
            status = node.query(params).status
        except grpc.RpcError as error:
            allowed = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.OUT_OF_RANGE)
            expect(error.code() in allowed, f"gRPC {error.code().name}: {error.details()}")
        else:
            expect(status.startswith("invalid_query:"), f"status `{status}`")

    def chunk_errors_differ():
        answer = node.query({**one_day, "limit": 10})
        expect(answer.status == "ready", f"status `{answer.status}`")
        for index in (answer.total_chunks, answer.total_chunks + 7, -1, 2**31 - 1):
            status = node.chunk(answer.uid, index).status
            expect(status == "out_of_range", f"chunk {index}: status `{status}`, expected `out_of_range`")
        for uid in ("", "no-such-uid", answer.uid + "x", answer.uid[:-1]):
            status = node.chunk(uid, 0).status
            expect(status == "not_found", f"uid `{uid}`: status `{status}`, expected `not_found`")
        status = node.chunk(answer.uid, 0).status
        expect(status == "success", f"status `{status}` after errors, expected `success`")

    def default_limit_holds():
        count = len(dataset.select({}, ranges, DEFAULT_LIMIT))
        for params in ({}, {"limit": None}, {"limit": 0}):
            found = node.query(params).total_records
            expect(found == count, f"{found} records with {params}, expected {count}")

    def metrics_have_sense():
        metrics = node.metrics()
        role_known = metrics.role in ("leader", "team_leader", "worker")
        expect(metrics.process_id and role_known and metrics.team, f"{metrics}")
        expect(metrics.is_healthy and metrics.max_capacity > 0, f"{metrics}")
        counts = (metrics.active_requests, metrics.queue_size, metrics.avg_processing_time_ms, metrics.data_files_loaded)
        expect(all(count >= 0 for count in counts), f"{metrics}")
        expect(metrics.role == "leader" or metrics.team in ranges, f"{metrics.role} of unknown team `{metrics.team}`")

    if day is not None:
        check("echoes hops and adds itself", hops_are_echoed)
        check("detects a loop", loop_is_detected)
        check("honours a huge limit", huge_limit_is_honoured)
        check("tells unknown uids from indices out of range", chunk_errors_differ)
    else:
        report.skip(f"{node.address} hops, loops, limits, chunk errors", "no data of its teams below the dataset root")
    check("gives an empty result one empty chunk", empty_result_has_one_empty_chunk)
    check("gives nothing for days without an owner", days_without_owner_are_empty)
    check("refuses or bounds 10 MB of parameters", huge_parameters_are_refused)
    check("takes absent, null and 0 as the default limit", default_limit_holds)
    check("fills the metrics", metrics_have_sense)
    for name, query_type, params in INVALID:
        def body():
            status = node.query(params, query_type).status
            expect(status.startswith("invalid_query:") and len(status) > len("invalid_query:"), f"status `{status}`")

        check(f"refuses {name}", body)


def owned(day, ranges):
    return any(first <= day <= last for first, last in ranges.values())


def arguments():
    parser = argparse.ArgumentParser(description="Checks a node against the contract of the system that it replaces.")
    parser.add_argument("nodes", metavar="HOST:PORT[,HOST:PORT...]", help="the leader, which answers for all teams")
    parser.add_argument("dataset_root", metavar="DATASET_ROOT", help="the folder of YYYYMMDD folders that the nodes read")
    parser.add_argument("--filters", type=int, default=300, help="random filters for each node (default: 300)")
    parser.add_argument("--seed", type=int, default=1, help="decides the filters (default: 1)")
    parser.add_argument("--team", action="append", default=[], metavar="NAME=HOST:PORT",
                        help="another node, which answers for its team only; may be repeated")
    parser.add_argument("--range", action="append", default=[], metavar="NAME=YYYYMMDD-YYYYMMDD",
                        help=f"days of a team (default: {' '.join(DEFAULT_RANGES)}); may be repeated")
    parser.add_argument("--wait", type=float, default=60, help="seconds to wait for each node to be ready (default: 60)")
    parsed = parser.parse_args()
    ranges = {}
    for text in parsed.range or DEFAULT_RANGES:
        name, equals, days = text.partition("=")
        first, dash, last = days.partition("-")
        if not (name and equals and dash and len(first) == len(last) == 8):
            parser.error(f"--range `{text}`: must be NAME=YYYYMMDD-YYYYMMDD")
        ranges[name] = (first, last)
    nodes = [(address, ranges) for address in parsed.nodes.split(",")]
    for text in parsed.team:
        name, equals, address = text.partition("=")
        if not equals or name not in ranges:
            parser.error(f"--team `{text}`: must be NAME=HOST:PORT, NAME one of {', '.join(ranges)}")
        nodes.append((address, {name: ranges[name]}))
    if not Path(parsed.dataset_root).is_dir():
        parser.error(f"dataset root `{parsed.dataset_root}` is no folder")
    return parsed, nodes


def main():
    options, nodes = arguments()
    dataset = Dataset(options.dataset_root)
    if not dataset.row_count:
        sys.exit(f"error: no rows below `{options.dataset_root}`")
    print(f"{dataset.row_count} rows of {len(dataset.days)} days; seed {options.seed}", flush=True)
    report = Report()
    for number, (address, ranges) in enumerate(nodes):
        node = Node(address)
        try:
            metrics = node.wait_until_ready(options.wait)
        except grpc.RpcError as error:
            report.fail(f"{address} becomes ready", f"gRPC {error.code().name}: {error.details()}")
            continue
        print(f"{address}: {metrics.role} {metrics.process_id}, {' and '.join(ranges)}", flush=True)
        # All teams may be named in a filter, also those that the node does not answer for.
        filters = Filters(dataset, dict(nodes[0][1]), options.seed + number)
        check_filters(report, node, dataset, filters, ranges, options.filters)
        check_statuses(report, node, dataset, ranges)
    report.skip("rejected", "needs a full queue")
    report.skip("unavailable, data_loss", "need nodes that are down")
    report.skip("Shutdown", "would stop the node")
    print(f"{report.passed} passed, {report.failed} failed")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
