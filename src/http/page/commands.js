// The same query for a command line, for Python, and for curl.

/** A word as a shell takes it. */
const quoted = (text) => (/^[\w.,:\/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const isSecure = (location) => location.protocol === "https:";

/** Where the node listens: an address leaves out the port that its scheme has anyway, a client of the command line wants it. */
const hostAndPort = (location) => (location.port === "" ? `${location.host}:${isSecure(location) ? 443 : 80}` : location.host);

export function shell(asked, location, withToken) {
  const words = ["overlay", "query", quoted(asked.parameter ?? "-")];
  if (asked.min !== undefined || asked.max !== undefined) words.push(quoted(asked.min ?? "-"), quoted(asked.max ?? "-"));
  words.push(`--leader=${quoted(hostAndPort(location))}`);
  for (const name of ["from", "to", "bbox", "team", "site", "agency", "search", "limit"]) {
    // In one word, for a value may start with a hyphen, as longitudes of the west do.
    if (asked[name] !== undefined) words.push(`--${name}=${quoted(asked[name])}`);
  }
  if (asked.partial === "true") words.push("--partial");
  if (isSecure(location)) words.push("--ca", "ca.pem");
  if (withToken) words.push("--token-file", "client.token");
  return words.join(" ");
}

const KEYS = {
  parameter: "parameter", team: "team", site: "site", agency: "agency", search: "text", min: "min_value", max: "max_value",
  from: "date_start", to: "date_end", limit: "limit",
};

/** The command of a flight: other names. Numbers stay as they were typed, for a number of JavaScript may be another one, or none. */
function command(asked) {
  const made = {};
  for (const [name, key] of Object.entries(KEYS)) if (asked[name] !== undefined) made[key] = asked[name];
  if (asked.bbox !== undefined) [made.lon_min, made.lat_min, made.lon_max, made.lat_max] = asked.bbox.split(",");
  if (asked.partial === "true") made.allow_partial = true;
  return JSON.stringify(made);
}

export function python(asked, location, withToken) {
  const json = command(asked);
  // Without what single quotes would have to escape, JSON reads better in them.
  const text = /['\\]/.test(json) ? JSON.stringify(json) : `'${json}'`;
  const options = withToken ? ", options" : "";
  const [scheme, trust] = isSecure(location) ? ["grpc+tls", ', tls_root_certs=open("ca.pem", "rb").read()'] : ["grpc", ""];
  return [
    "import pyarrow as pa",
    "from pyarrow import flight  # pip install pyarrow pandas",
    "",
    ...(withToken ? ['options = flight.FlightCallOptions(headers=[(b"authorization", b"Bearer TOKEN")])'] : []),
    `client = flight.connect("${scheme}://${hostAndPort(location)}"${trust})`,
    `command = ${text}`,
    `info = client.get_flight_info(flight.FlightDescriptor.for_command(command)${options})`,
    `frame = pa.concat_tables(client.do_get(part.ticket${options}).read_all() for part in info.endpoints).to_pandas()`,
  ].join("\n");
}

export function curl(asked, location, withToken) {
  // Quiet as a script wants it, but not about failures: a problem document is no observations.
  const quiet = "--fail --silent --show-error --output observations.csv";
  const trust = isSecure(location) ? " --cacert ca.pem" : "";
  const header = withToken ? " -H 'authorization: Bearer TOKEN'" : "";
  const query = new URLSearchParams({ ...asked, format: "csv" });
  return `curl ${quiet}${trust}${header} ${quoted(`${location.origin}/api/v1/query?${query}`)}`;
}
