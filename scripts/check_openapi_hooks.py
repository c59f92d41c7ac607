"""What the document cannot say, for `scripts/check_openapi`: bounds come in order, and an answer needs some time."""

import contextlib

import schemathesis

# From the smaller to the larger bound, by parameter.
BOUNDS = (("from", "to", str), ("min", "max", float))
# A queue and a scan take some of them; else 504 is the right answer.
ENOUGH_MS = 10_000


@schemathesis.hook
def before_call(context, case, kwargs):
    query = case.query
    for first, last, kind in BOUNDS:
        with contextlib.suppress(KeyError, TypeError, ValueError):
            if kind(query[first]) > kind(query[last]):
                query[first], query[last] = query[last], query[first]
    # Where it is unknown, it may be anything.
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        west, south, east, north = query["bbox"].split(",")
        if float(west) > float(east):
            west, east = east, west
        if float(south) > float(north):
            south, north = north, south
        query["bbox"] = ",".join((west, south, east, north))
    with contextlib.suppress(KeyError, TypeError, ValueError):
        if 0 < int(query["timeout_ms"]) < ENOUGH_MS:
            query["timeout_ms"] = ENOUGH_MS
