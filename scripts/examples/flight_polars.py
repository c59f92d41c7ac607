"""Observations as a Polars DataFrame, and the worst sites of it.

Usage: flight_polars.py HOST:PORT [COMMAND]    (pip install pyarrow polars)

What follows the table is about rows. A COMMAND with `of` or `group_by` gets groups, which have other columns: put
`print(frame)` in its place.
"""
import sys
import polars as pl
import pyarrow as pa
from pyarrow import flight

client = flight.connect(f"grpc://{sys.argv[1]}")
command = (sys.argv[2:] or ['{"parameter": "PM2.5", "min_value": 5, "max_value": 35}'])[0]
info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
table = pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)
frame = pl.from_arrow(table)

sites = frame.group_by("full_aqs_id").agg(pl.len().alias("rows"), pl.mean("value"), pl.max("aqi"))
print(frame.select("timestamp", "parameter", "value", "aqi", "site_name"))
print(sites.sort("value", descending=True).head(5))
