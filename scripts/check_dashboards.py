"""Starts six nodes and a Prometheus that scrapes them, asks queries, and then asks what dashboard and alerts ask."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT, DATA = Path(sys.argv[1]), sys.argv[2]
OVERLAY = ROOT / "target/release/overlay"
# Ports outside those that the system takes for outgoing connections.
FIRST_PORT, PROMETHEUS_PORT = 20651, 20690
WITHIN_S = 60


def get(path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PROMETHEUS_PORT}{path}", timeout=5) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        sys.exit(f"Prometheus refuses {urllib.parse.unquote(path)}: {error.read().decode()}")


def asked(expression):
    """The series that an expression has now."""
    expression = expression.replace("$__rate_interval", "10s")
    return get("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))["data"]["result"]


def wait_for(what, found):
    """Waits until `found` gives something."""
    ends = time.monotonic() + WITHIN_S
    while time.monotonic() < ends:
        try:
            if found():
                return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.2)
    sys.exit(f"not within {WITHIN_S} s: {what}")


def query(config_leader, number):
    """A query that nobody asked before, and one that is refused, since its groups are too many."""
    command = [OVERLAY, "query", "PM2.5", f"5.{number:04}", "35", "--leader", config_leader, "--format", "ndjson"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    command = [OVERLAY, "query", "--aggregate", "value", "--by", "site,day,hour", "--leader", config_leader]
    refused = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert refused.returncode == 1, f"{command} ended with {refused.returncode}, not refused"


def main(scratch):
    config = json.loads((ROOT / "configs/one_host_config.json").read_text())
    ports = {}
    for number, (name, process) in enumerate(config["processes"].items()):
        ports[process["port"]] = process["port"] = FIRST_PORT + number
    config["limits"] = {"max_groups": 10}
    (scratch / "overlay.json").write_text(json.dumps(config))
    scrape = (ROOT / "configs/prometheus/prometheus.yml").read_text().replace("scrape_interval: 5s", "scrape_interval: 1s")
    for shipped, port in ports.items():
        assert f":{shipped}" in scrape, f"prometheus.yml does not scrape port {shipped}"
        scrape = scrape.replace(f":{shipped}", f":{port}")
    (scratch / "prometheus.yml").write_text(scrape)
    rules = (ROOT / "configs/prometheus/overlay.rules.yml").read_text()
    (scratch / "overlay.rules.yml").write_text(rules)
    leader = f"127.0.0.1:{FIRST_PORT}"
    children = []
    try:
        up = [OVERLAY, "up", "--config", scratch / "overlay.json", "--dataset-root", DATA]
        children.append(subprocess.Popen(up, stdout=subprocess.DEVNULL, stderr=(scratch / "up.log").open("w")))
        prometheus = ["prometheus", f"--config.file={scratch}/prometheus.yml", f"--storage.tsdb.path={scratch}/tsdb",
                      f"--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"]
        children.append(subprocess.Popen(prometheus, stdout=subprocess.DEVNULL, stderr=(scratch / "prometheus.log").open("w")))
        wait_for("six nodes up", lambda: [series["value"][1] for series in asked('up{job="overlay"}')] == ["1"] * 6)
        for number in range(30):
            query(leader, number)
            time.sleep(0.2)
        panels = json.loads((ROOT / "configs/grafana/overlay.json").read_text())["panels"]
        empty = [(panel["title"], target["expr"])
                 for panel in panels for target in panel["targets"] if not asked(target["expr"])]
        for title, expression in empty:
            print(f"EMPTY   {title}: {expression}")
        alerts = re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE)
        firing = [alert["labels"]["alertname"] for alert in get("/api/v1/alerts")["data"]["alerts"]]
        for expression in alerts:
            asked(expression)
        print(f"{len(panels)} panels, {len(alerts)} alerts asked; of {len(ports)} nodes; pending or firing: {sorted(set(firing))}")
        return 1 if empty else 0
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


with tempfile.TemporaryDirectory(prefix="dashboards") as folder:
    sys.exit(main(Path(folder)))
