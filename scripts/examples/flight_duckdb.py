"""SQL over observations, with DuckDB.

Usage: flight_duckdb.py HOST:PORT [COMMAND]    (pip install pyarrow duckdb)

What follows the table is about rows. A COMMAND with `of` or `group_by` gets groups, which have other columns: put
`print(duckdb.sql("FROM rows"))` in its place.
"""
import sys
import duckdb
import pyarrow as pa
from pyarrow import flight

client = flight.connect(f"grpc://{sys.argv[1]}")
command = (sys.argv[2:] or ['{"parameter": "PM2.5", "min_value": 5, "max_value": 35}'])[0]
info = client.get_flight_info(flight.FlightDescriptor.for_command(command))
rows = pa.concat_tables(client.do_get(endpoint.ticket).read_all() for endpoint in info.endpoints)
days = duckdb.sql("""
    SELECT strftime(timestamp AT TIME ZONE 'UTC', '%Y%m%d') AS day, count(*) AS rows, count(aqi) AS with_aqi,
           max(value) AS highest, count(DISTINCT full_aqs_id) AS sites
    FROM rows GROUP BY day ORDER BY day""")

print(days.limit(5))
