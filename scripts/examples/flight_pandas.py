"""Observations as a pandas DataFrame, missing numbers as NA.

Usage: flight_pandas.py HOST:PORT [COMMAND]    (pip install pyarrow pandas)

What follows the table is about rows. A COMMAND with `of` or `group_by` gets groups, which have other columns: put
`print(frame)` in its place.
"""
import sys
import pandas as pd
import pyarrow as pa
from pyarrow import flight

client = flight.connect(f"grpc://{sys.argv[1]}")
command = (sys.argv[2:] or ['{"parameter": "PM2.5", "min_value": 5, "max_value": 35}'])[0]
info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
table = pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)
frame = table.to_pandas(types_mapper={pa.int16(): pd.Int16Dtype(), pa.int8(): pd.Int8Dtype()}.get)

print(frame.dtypes)
print(frame[["timestamp", "parameter", "value", "aqi", "site_name"]])
