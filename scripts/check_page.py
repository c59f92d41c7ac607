"""Opens the page of a node in Chromium and uses it as people do: mouse, keys, a telephone, the dark, a screen reader's tree.

What is expected of the data comes from the CSV files, read here and nowhere else. `scripts/check_page` installs what it needs.

Usage: check_page.py OVERLAY DATASET_ROOT PICTURES
Exit codes: 0 all passed, 1 something failed.
"""

import base64
import collections
import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

PORTS, PORTS_SECURED = 20850, 20860
# Names of which one is part of another, or that two sites share: latitude, longitude, name, hours.
ALIKE = ((39.123456, -117.654321, "Alike", 2), (39.5, -117.1, "Alike", 3), (38.7, -116.9, "Alike Too", 5))
# Two at one place.
NEIGHBOURS = ((38.2, -116.2, "Upstairs", 1), (38.2, -116.2, "Next Door", 4))
HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"&"
FIRST, LAST = "20200901", "20200924"
MOST_BYTES = 500_000
SEEN_WITHIN = 2.0
# What hangs fails only when the page has lost its patience.
HANG_SEEN_WITHIN = 3.0
CATEGORIES = (50, 100, 150, 200, 300, 32767)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--window-size=1360,900",
)

passed = failed = 0


def expect(what, found, expected=True):
    global passed, failed
    if found == expected:
        passed += 1
        print(f"ok      {what}" if expected is True else f"ok      {what}: {found}", flush=True)
    else:
        failed += 1
        print(f"FAILED  {what}: found {found}, expected {expected}", flush=True)


def expect_at_most(what, found, most, unit):
    global passed, failed
    ok = found <= most
    passed, failed = passed + ok, failed + (not ok)
    print(f"{'ok     ' if ok else 'FAILED '} {what}: {found:,.6g} {unit}, at most {most:,.6g}", flush=True)


SCREEN = """
const [width, dark] = arguments;
return (width === null ? innerWidth > 1000 : innerWidth === width) && matchMedia('(prefers-color-scheme: dark)').matches === dark"""
# The graph is drawn anew with the next look.
DRAWN = """
const [graph, view] = [document.getElementById('graph'), document.getElementById(arguments[0])];
if (view.hidden || view.hasAttribute('aria-busy')) return false;
return arguments[0] !== 'overlay' || Number(graph.firstElementChild?.dataset.room) === graph.clientWidth"""


class Overlay:
    """Six processes, ended with this."""

    def __init__(self, command, scratch, root, port, more=None, certificates=None):
        self.origin = f"{'https' if certificates else 'http'}://127.0.0.1:{port + 1}"
        config = json.loads(Path("configs/one_host_config.json").read_text())
        for index, process in enumerate(config["processes"].values()):
            process["port"] = port + 1 + index
        config |= more or {}
        path = scratch / f"overlay-{port}.json"
        path.write_text(json.dumps(config))
        if certificates:
            subprocess.run([command, "certs", "--config", path, "--output", certificates], check=True, stdout=subprocess.DEVNULL)
            path = certificates / "overlay.json"
        self.node = [command, "node", "--config", path, "--dataset-root", root]
        self.alone = []
        words = [command, "up", "--watch", "--config", path, "--dataset-root", root, "--log-dir", scratch / f"logs-{port}"]
        # It says that nodes ended badly, which they are made to.
        self.said = scratch / f"up-{port}.txt"
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=self.said.open("w"), text=True)
        line = self.process.stdout.readline()
        if not line.startswith("ready: "):
            raise SystemExit(f"the overlay does not come up: {self.said.read_text()}")

    def pid(self, node):
        """Of a child that runs this node."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if parent == self.process.pid and words[words.index(b"--id") + 1 if b"--id" in words else 0] == node.encode():
                return int(folder.name)
        raise SystemExit(f"no process runs node {node}")

    def start_again(self, node):
        """A node that has died."""
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.alone.append(subprocess.Popen([*self.node, "--id", node], **quiet))

    def stop(self):
        for process in self.alone:
            process.terminate()
            process.wait(timeout=30)
        self.process.terminate()
        self.process.wait(timeout=30)


class Page:
    """A browser with one page."""

    def __init__(self, scratch, pictures, origin, *more):
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for flag in (*FLAGS, *more, f"--user-data-dir={tempfile.mkdtemp(dir=scratch)}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        self.driver.set_page_load_timeout(30)
        self.driver.execute_cdp_cmd("Network.enable", {})
        # What Chromium opens by itself is no concern of the page.
        self.driver.get("about:blank")
        for log in ("browser", "performance"):
            self.driver.get_log(log)
        self.origin, self.pictures, self.console, self.requests = origin, pictures, [], {}

    def open(self, view="overlay"):
        self.driver.get(f"{self.origin}/#{view}")

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, what, script, *arguments, within=20):
        """Waits until a script returns something true, and gives it."""
        try:
            return WebDriverWait(self.driver, within, poll_frequency=0.05).until(lambda _: self.run(script, *arguments))
        except Exception:
            self.picture("failure")
            expect(f"{what} within {within} s", False)
            return None

    def text(self, id):
        return self.run("return document.getElementById(arguments[0]).innerText", id)

    def find(self, id):
        return self.driver.find_element(By.ID, id)

    def focused(self):
        return self.run("return document.activeElement.id || document.activeElement.localName")

    def press(self, *keys):
        for key in keys:
            self.driver.switch_to.active_element.send_keys(key)

    def picture(self, name):
        """Of the whole page."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}
        made = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
        (self.pictures / f"{name}.png").write_bytes(base64.b64decode(made["data"]))

    def emulate(self, width=None, dark=False):
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        if width is None:
            self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        else:
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 2, "mobile": True}
            self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.until("the screen as it is to be", SCREEN, width, dark)

    def read_logs(self):
        """Takes in what the browser has logged since."""
        self.console += [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            said = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                self.requests[said["requestId"]] = {"url": said["request"]["url"], "bytes": 0}
            elif message["method"] == "Network.loadingFinished" and said["requestId"] in self.requests:
                self.requests[said["requestId"]]["bytes"] = said["encodedDataLength"]

    def bytes(self):
        self.read_logs()
        return sum(request["bytes"] for request in self.requests.values())


class Data:
    """The rows of PM2.5 in the days that the form starts with."""

    def __init__(self, root):
        self.sites, self.hours, self.rows = set(), collections.defaultdict(dict), 0
        for path in sorted(root.glob("[0-9]*/*.csv")):
            if not FIRST <= path.parent.name <= LAST:
                continue
            with path.open(newline="", encoding="utf-8") as lines:
                for row in csv.reader(lines):
                    if row and row[3] == "PM2.5":
                        self.take(row)

    def take(self, row):
        site = (row[0], row[1], row[9], row[10], row[12])
        self.rows += 1
        self.sites.add(site)
        aqi = int(row[7]) if row[7] not in ("", "-999") else None
        self.hours[row[2].replace("-", "").replace("T", " ")[:11]][site] = aqi

    def legend(self, hour):
        """Sites in each category, and those without one."""
        counts = [0] * 7
        for site in self.sites:
            aqi = self.hours[hour].get(site)
            counts[6 if aqi is None else next(index for index, last in enumerate(CATEGORIES) if aqi <= last)] += 1
        return counts


def dataset(scratch, root):
    """The bundled data, a site with a name that is no name, and sites with names alike."""
    copied = scratch / "data"
    shutil.copytree(root, copied)
    row = ["40.5", "-118.5", "2020-09-01T01:00", "PM2.5", "300.1", "UG/M3", "300.1", "350", "6", HOSTILE, HOSTILE, "999", "840999"]
    with (copied / FIRST / f"{FIRST}-01.csv").open("a", newline="", encoding="utf-8") as lines:
        csv.writer(lines, quoting=csv.QUOTE_ALL).writerow(row)
    for lat, lon, name, hours in (*ALIKE, *NEIGHBOURS):
        for hour in range(1, 1 + hours):
            time_ = f"2020-09-01T{hour:02}:00"
            row = [lat, lon, time_, "PM2.5", "12.1", "UG/M3", "12.1", "50", "1", name, "Same Agency", "998", "840998"]
            with (copied / FIRST / f"{FIRST}-01.csv").open("a", newline="", encoding="utf-8") as lines:
                csv.writer(lines, quoting=csv.QUOTE_ALL).writerow(row)
    return copied


TILE = """
const tile = [...document.querySelectorAll('#tiles .tile')].find(tile => tile.querySelector('dt').textContent === arguments[0]);
return tile?.querySelector('dd').textContent"""
OVERLAPS = """
const labels = [...document.querySelectorAll('.edge-label rect, .node text')].map(label => label.getBoundingClientRect());
const meet = (a, b) => a !== b && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
return labels.filter(label => labels.some(other => meet(label, other))).length"""
SAID = "return [...document.querySelectorAll('#events li')].some(line => line.textContent.includes(arguments[0]))"
ALL_UP = "return document.querySelectorAll('[data-node][data-health=up]').length === 6"
ANSWERED = """
const [answer, view] = [document.getElementById('answer'), document.getElementById('explore')];
return answer.dataset.state === arguments[0] && !view.hasAttribute('aria-busy')"""


def check_overlay(page):
    page.open()
    page.until("six nodes up", ALL_UP)
    expect("headings", page.run("return [...document.querySelectorAll('h1')].filter(h => h.offsetParent).map(h => h.innerText)"), ["Overlay"])
    expect("landmarks", page.run("return ['header', 'nav', 'main', 'footer'].every(name => document.querySelectorAll(name).length === 1)"))
    expect("the graph has a title", "A: up" in page.run("return document.querySelector('#graph svg title').textContent"))
    expect("edges drawn", page.run("return document.querySelectorAll('#graph .edge').length"), 6)
    expect("rows of the table of nodes", page.run("return document.querySelectorAll('#nodes tbody tr').length"), 6)
    expect("versions of the data", page.run(TILE, "Versions of the data"), "equal")
    page.picture("overlay-light")


def check_said(page):
    """What a node may say that these do not."""
    page.run("location.hash = 'overlay'")
    page.run("""
const ask = window.fetch;
window.fetch = async (...words) => {
  const answer = await ask(...words);
  if (!words[0].includes('topology')) return answer;
  const said = await answer.json();
  said.nodes.find(node => node.id === 'B').load = null;
  said.nodes.find(node => node.id === 'C').health = 'unknown';
  return new Response(JSON.stringify({...said, version_conflicts: 3}));
}""")
    page.emulate(390)
    page.until("a node that does not say what it does", "return document.querySelector('[data-node=B]').textContent.includes('load unknown')")
    expect("versions that differ", page.run(TILE, "Versions of the data"), "3 days differ")
    expect("words of the smallest cards that hide others", page.run(OVERLAPS), 0)
    page.emulate()
    page.driver.refresh()
    page.until("six nodes up again", ALL_UP)


def check_new_data(page, root):
    """Data that change are no start of a node."""
    with (root / "20200825" / "20200825-01.csv").open("a", newline="", encoding="utf-8") as lines:
        row = ["40.5", "-118.5", "2020-08-25T01:00", "PM2.5", "1.1", "UG/M3", "1.1", "5", "1", "New", "New", "997", "840997"]
        csv.writer(lines, quoting=csv.QUOTE_ALL).writerow(row)
    for node in "DEF":
        page.until(f"new data of {node}", SAID, f"Node {node} has new data")
    (root / "20300101").mkdir()
    shutil.copy(root / FIRST / f"{FIRST}-01.csv", root / "20300101" / "20300101-01.csv")
    page.until("a day that nobody owns", SAID, "found other files")
    expect("no node was started again", not page.run(SAID, "was started again"))
    expect("no node was thought to be gone", not page.run(SAID, " is "))
    page.until("all have the same", f"{TILE} === arguments[1]", "Versions of the data", "equal")


def check_explore(page, data):
    page.find("to-explore").send_keys(Keys.ENTER)
    page.until("an answer", ANSWERED, "done")
    expect("the answer's rows", page.text("answer").startswith(f"{data.rows:,} rows"))
    expect("sites on the map", page.run("return document.querySelectorAll('#map circle[data-site]').length"), len(data.sites))
    first = page.text("moment")
    expect("the first moment", first, "2020-09-01 01:00 UTC · PM2.5")
    legend = "return [...document.querySelectorAll('#legend b')].map(b => Number(b.textContent.replace(',', '')))"
    expect("sites by category", page.run(legend), data.legend(f"{FIRST} 01"))
    expect("series drawn", page.run("return document.querySelectorAll('#series polyline').length > 0"))
    expect("coverage drawn", page.run("return document.querySelectorAll('#coverage rect').length > 24"))
    expect("days in the table", page.run("return document.querySelectorAll('#coverage-table tbody tr').length"), 24)
    expect("rows in the table", page.run("return document.querySelectorAll('#rows tbody tr').length"), 50)
    page.until("formats", "return document.querySelectorAll('#downloads a').length > 3")
    expect("it says what the data are", "preliminary" in page.text("explore"))
    return legend


def check_player(page, data, legend):
    day = page.find("day")
    day.send_keys(Keys.END)
    page.until("the last day", "return document.getElementById('moment').innerText.startsWith('2020-09-24')")
    hours = sorted(hour for hour in data.hours if hour.startswith(LAST))
    page.find("hour").send_keys(Keys.END)
    page.until("the last hour", f"return document.getElementById('moment').innerText.includes('{hours[-1][9:]}:00')")
    expect("sites by category at the last hour", page.run(legend), data.legend(hours[-1]))
    expect("the slider says its hour", page.run("return document.getElementById('hour').getAttribute('aria-valuetext')"), f"{hours[-1][9:]}:00 UTC")
    day.send_keys(Keys.HOME)
    page.until("the first day", "return document.getElementById('moment').innerText.startsWith('2020-09-01')")
    page.find("play").click()
    page.until("playing", "return document.getElementById('moment').innerText.startsWith('2020-09-04')", within=20)
    expect("play can be paused", page.text("play"), "Pause")
    page.find("play").click()
    stopped = page.text("moment")
    time.sleep(0.6)
    expect("it stays where it was paused", page.text("moment"), stopped)
    # Play, pause, play at once is one play: frames come no faster than one does.
    page.run("""
window.frames_ = 0;
new MutationObserver(() => window.frames_ += 1).observe(document.getElementById('moment'), {childList: true});
const play = document.getElementById('play');
for (let click = 0; click < 3; click += 1) play.click();
setTimeout(() => { play.click(); window.framesEnded = true; }, 1500)""")
    page.until("a second and a half of play", "return window.framesEnded")
    expect_at_most("frames of it", page.run("return window.frames_"), 8, "frames")
    page.run("document.getElementById('map-details').open = true")
    page.until("the table of sites", "return document.querySelectorAll('#map-table tbody tr').length === arguments[0]", len(data.sites))


def check_keyboard(page):
    """From the top to the form without a mouse, then from site to site."""
    page.driver.refresh()
    page.until("an answer", ANSWERED, "done")
    page.press(Keys.TAB)
    reached = []
    for _ in range(4):
        reached.append(page.focused())
        page.press(Keys.TAB)
    expect("focus goes from the top down", reached, ["a", "to-overlay", "to-explore", "parameter"])
    page.run("document.getElementById('map').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    said = page.until("a site is said", "const said = document.getElementById('site-said').innerText; return said.includes('AQI') && said")
    page.press(Keys.ENTER)
    page.until("the site's series", "return !document.getElementById('series-site').hidden")
    name = page.text("series-site")
    expect("the series is of the site that was said", (said or "").startswith(name))
    page.until("its picture", "return document.querySelector('#series title')?.textContent.includes('site with')")
    unlabelled = """
return [...document.querySelectorAll('input, select, button, [role=application], [role=group], [role=region], nav, svg[role=img]')].filter(element => {
  const label = element.labels?.length || element.ariaLabel || element.getAttribute('aria-labelledby') || element.querySelector('title')
    || element.innerText?.trim();
  return element.offsetParent && !label;
}).map(element => element.outerHTML.slice(0, 80))"""
    expect("controls without a label", page.run(unlabelled), [])


def check_sites_alike(page):
    """The series of a site is its own, whatever others are called."""
    page.run("document.getElementById('series-details').open = true")
    counted = """
const numbers = [...document.querySelectorAll('#series-table tbody tr td:nth-child(2)')].map(cell => Number(cell.textContent.replaceAll(',', '')));
return document.getElementById('series-site').textContent === arguments[0] && numbers.reduce((sum, number) => sum + number, 0) === arguments[1]"""
    for lat, lon, name, hours in ALIKE:
        page.run("""
const [lat, lon] = arguments;
document.querySelector(`#map circle[data-lat="${lat}"][data-lon="${lon}"]`).dispatchEvent(new MouseEvent('click', {bubbles: true}))""", str(lat), str(lon))
        expect(f"rows of the one {name} at {lat}", page.until("the rows of one site", counted, name, hours) is not None)
    # The first picture comes later than the second: the second click counts, whatever the form says meanwhile.
    page.run("""
const [slow, fast] = arguments;
const ask = window.fetch;
let delay = 700;
window.fetch = async (...words) => {
  if (!words[0].includes('series.svg')) return ask(...words);
  const mine = delay;
  delay = 0;
  const answer = await ask(words[0], {...words[1], signal: undefined});
  await new Promise(done => setTimeout(done, mine));
  if (mine > 0) window.fetch = ask;
  if (mine > 0) setTimeout(() => window.lateCame = true, 200);
  return answer;
};
document.getElementById('parameter').value = 'OZONE';
for (const lat of [slow, fast]) document.querySelector(`#map circle[data-lat="${lat}"]`).dispatchEvent(new MouseEvent('click', {bubbles: true}));
""", str(ALIKE[2][0]), str(ALIKE[0][0]))
    page.until("the late answer has come", "return window.lateCame")
    title = page.run("return document.querySelector('#series title').textContent")
    expect("the last click's series is shown", "PM2.5" in title and "Alike Too" not in title)
    expect("its table, too", page.run(counted, ALIKE[0][2], ALIKE[0][3]))
    page.run("document.getElementById('parameter').value = 'PM2.5'")
    both_reached(page)
    page.run("document.getElementById('map-details').open = true")
    page.until("a button for each site", "return document.querySelectorAll('#map-table button').length === document.querySelectorAll('#map circle[data-site]').length")
    page.run("document.querySelector(`#map-table button[aria-label$=\"${arguments[0]}\"]`).click()", NEIGHBOURS[1][2])
    expect("a button's series", page.until("the rows of the button's site", counted, *NEIGHBOURS[1][2:]) is not None)
    page.run("document.getElementById('map-details').open = false")
    page.run("document.getElementById('series-details').open = false; document.getElementById('series-all').click()")
    page.until("all sites again", "return document.getElementById('series-site').hidden")


def both_reached(page):
    """Two sites at one place, with arrow keys from one to the other and back."""
    page.run("document.getElementById('map').focus()")
    page.run("""
const at = [...document.querySelectorAll(`#map circle[data-lat="${arguments[0]}"]`)].sort((a, b) => a.dataset.site < b.dataset.site ? -1 : 1);
at[0].dispatchEvent(new MouseEvent('pointerover', {bubbles: true}))""", str(NEIGHBOURS[0][0]))
    said = []
    for key in (Keys.ARROW_RIGHT, Keys.ARROW_LEFT):
        page.press(key)
        said.append(page.text("site-said").split(" (")[0])
    expect("both sites of one place are reached", sorted(said), sorted(name for _, _, name, _ in NEIGHBOURS))


def check_names(page):
    """A name that is markup stays text wherever it is shown."""
    page.run("document.getElementById('site').value = '<script>'; document.getElementById('query').requestSubmit()")
    page.until("an answer", "return document.getElementById('answer').innerText.startsWith('1 rows')")
    page.until("its end", ANSWERED, "done")
    expect("the name is text in the rows", page.run("return document.querySelector('#rows tbody td').textContent"), HOSTILE)
    expect("and on the map", page.run("return document.querySelector('#map circle title').textContent.split('\\n')[0]"), HOSTILE)
    expect("no element was made of it", page.run("return document.querySelectorAll('main script, main img').length"), 0)
    expect("nothing of it ran", page.run("return window.hacked === undefined"))
    page.run("document.getElementById('site').value = ''; document.getElementById('query').requestSubmit()")
    page.until("an answer", ANSWERED, "done")


def check_refusal(page):
    """Nothing of the last answer stays beside the commands of a query that failed; one card that fails leaves the others."""
    page.run("document.getElementById('parameter').value = 'PM25'; document.getElementById('query').requestSubmit()")
    page.until("an empty answer", "return document.getElementById('rows-said').innerText.startsWith('Note: ')")
    expect("a name that no file has is said", "has a row of parameter" in page.text("rows-said"))
    page.run("document.getElementById('parameter').value = 'PM2.5'; document.getElementById('min').value = 'many'; document.getElementById('query').requestSubmit()")
    page.until("a refusal", ANSWERED, "failed")
    left = "return document.querySelectorAll('#map circle, #series polyline, #coverage rect, #rows td, #coverage-table td').length"
    expect("what is left of the last answer", page.run(left), 0)
    why = page.text("answer")
    expect("it is offered nowhere else", page.run("return document.getElementById('shell').offsetParent === null && document.querySelector('#downloads a').offsetParent === null"))
    expect("each card says why", page.run("return ['map', 'series', 'coverage', 'rows-said'].map(id => document.getElementById(id).innerText)"), [why] * 4)
    page.run("""
const ask = window.fetch;
window.fetch = async (...words) => {
  if (!words[0].includes('coverage.svg')) return ask(...words);
  window.fetch = ask;
  return new Response(JSON.stringify({detail: 'too many days'}), {status: 400});
};
document.getElementById('min').value = ''; document.getElementById('query').requestSubmit()""")
    page.until("an answer", ANSWERED, "done")
    expect("the card that failed says why", page.text("coverage"), "too many days")
    expect("the others are there", page.run(left.replace("#coverage rect, ", "")) > 100)
    expect("it is offered elsewhere again", page.run("return document.getElementById('shell').offsetParent !== null"))


def check_commands(page, command, data):
    words = shlex.split(page.text("shell"))
    expect("the command line is one of overlay", words[:2], ["overlay", "query"])
    done = subprocess.run([command, *words[1:]], capture_output=True, text=True, check=True)
    expect("rows of the command line", done.stdout.count("\n"), data.rows)
    curl = shlex.split(page.text("curl"))
    if shutil.which(curl[0]):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(curl, cwd=folder, check=True)
            expect("rows of curl", (Path(folder) / "observations.csv").read_text().count("\n") - 1, data.rows)
    made = page.driver.execute_async_script("""
const [done] = arguments;
import('/page/commands.js').then(({shell, python}) => {
  const asked = {parameter: 'PM2.5', min: '5', max: '1e400', site: '-18 West', bbox: '-120,30,-110,40'};
  const location = {protocol: 'https:', host: '[2001:db8::1]', port: '', origin: 'https://[2001:db8::1]'};
  done([shell(asked, location, false), python(asked, location, false)]);
})""")
    expect("words with a hyphen in front", [word for word in shlex.split(made[0]) if "West" in word or "bbox" in word], ["--bbox=-120,30,-110,40", "--site=-18 West"])
    expect("the port that an address leaves out", "--leader=[2001:db8::1]:443" in shlex.split(made[0]) and "[2001:db8::1]:443\"" in made[1])
    expect("numbers as they were typed", '"min_value":"5","max_value":"1e400"' in made[1] and '"lon_min":"-120"' in made[1])
    link = page.run("return document.querySelector('#downloads a[data-format=csv]').href")
    with urllib.request.urlopen(link) as answer:
        expect("rows of the download", answer.read().decode().count("\n") - 1, data.rows)
    script = page.text("python")
    compile(script, "python", "exec")
    expect("python asks the same node", page.origin.replace("http", "grpc") in script)


def check_looks(page):
    for name, width, dark in (("dark", None, True), ("phone", 390, False), ("phone-dark", 390, True)):
        page.emulate(width, dark)
        for view in ("overlay", "explore"):
            page.run("location.hash = arguments[0]", view)
            page.until(f"{view}, {name}: it is drawn for this screen", DRAWN, view)
            if width:
                expect(f"{view}, {name}: nothing beside the screen", page.run("return document.documentElement.scrollWidth"), width)
                expect(f"{view}, {name}: words and labels that hide others", page.run(OVERLAPS), 0)
            page.picture(f"{view}-{name}")
        contrast(page, name)
    page.emulate()
    contrast(page, "light")


def contrast(page, name):
    """Words are readable on what they stand on: WCAG 2.2, 1.4.3."""
    colours = page.run("""
const style = getComputedStyle(document.documentElement);
return Object.fromEntries(['paper', 'card', 'ink', 'muted', 'accent', 'accent-ink', 'alarm', 'warn', 'good'].map(name => [name, style.getPropertyValue(`--${name}`).trim()]))""")

    def luminance(colour):
        parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def ratio(a, b):
        bright, dim = sorted((luminance(colours[a]), luminance(colours[b])), reverse=True)
        return (bright + 0.05) / (dim + 0.05)

    pairs = [(words, on) for words in ("ink", "muted", "accent", "alarm", "warn", "good") for on in ("card", "paper")]
    weak = [f"{a} on {b} {ratio(a, b):.2f}" for a, b in (*pairs, ("accent-ink", "accent")) if ratio(a, b) < 4.5]
    expect(f"{name}: words without contrast", weak, [])


def check_death(page, overlay):
    page.run("location.hash = 'overlay'")
    page.until("six nodes up", ALL_UP)
    page.run("""
window.seen = {};
new MutationObserver(() => {
  for (const node of document.querySelectorAll('[data-node][data-health=down]')) window.seen[node.dataset.node] ??= Date.now();
}).observe(document.getElementById('graph'), {childList: true, subtree: true, attributes: true})""")
    waits = []
    for node in ("C", "F"):
        os.kill(overlay.pid(node), signal.SIGKILL)
        died = time.time()
        seen = page.until(f"{node} is down", "return window.seen[arguments[0]]", node, within=10)
        if seen:
            waits.append(seen / 1000 - died)
            expect_at_most(f"death of {node} is seen after", waits[-1], SEEN_WITHIN, "s")
    expect("it is said", "is down" in page.run("return document.getElementById('status').textContent"))
    expect("the table says so", page.run("return document.querySelectorAll('#nodes [data-health=down]').length"), 2)
    page.picture("overlay-death")
    overlay.start_again("C")
    page.until("C is there again", SAID, "Node C is up")
    expect("that it was started is said", page.run(SAID, "Node C was started again"))
    page.run("location.hash = 'explore'; document.getElementById('min').value = '1'; document.getElementById('query').requestSubmit()")
    page.until("an answer without them", ANSWERED, "done")
    expect("every day is answered", "24 of 24 days answered by" in page.text("answer"))


def check_own_death(page, overlay):
    """The node that serves the page hangs, goes on, and is killed."""
    page.run("location.hash = 'overlay'")
    page.until("A is up", "return document.querySelector('[data-node=A][data-health=up]') !== null")
    for what, sent, most in (("hang", signal.SIGSTOP, HANG_SEEN_WITHIN), ("death", signal.SIGKILL, SEEN_WITHIN)):
        page.run("delete window.seen.A")
        pid = overlay.pid("A")
        os.kill(pid, sent)
        began = time.time()
        seen = page.until(f"A's {what} is seen", "return window.seen.A", within=10)
        if seen:
            expect_at_most(f"{what} of A, which serves the page, is seen after", seen / 1000 - began, most, "s")
        expect("of the others nothing is known", page.run("return document.querySelectorAll('[data-node][data-health=unknown]').length"), 5)
        expect("the tiles say so", page.run("return document.querySelector('#tiles dd').textContent"), "unknown")
        expect("and the line of events", page.run("return document.querySelector('#events li').textContent.includes('Node A is down')"))
        if sent == signal.SIGSTOP:
            page.picture("overlay-hang")
            os.kill(pid, signal.SIGCONT)
            page.until("A is up again", "return document.querySelector('[data-node=A][data-health=up]') !== null")


def check_direct(page):
    """Whichever view is opened first."""
    page.driver.get("about:blank")
    page.open("explore")
    page.until("an answer, explore opened first", ANSWERED, "done")
    page.run("location.hash = 'overlay'")
    page.until("six nodes up, overlay opened second", ALL_UP)
    for name in ("nothing", "constructor"):
        page.run("location.hash = arguments[0]", name)
        expect(f"a view that is none: {name}", page.run("return !document.getElementById('overlay').hidden"))
    page.run("location.hash = 'explore'")


def check_secured(scratch, command, root, pictures, data):
    """Over TLS, with tokens; each day at one node."""
    certificates = scratch / "certificates"
    overlay = Overlay(command, scratch, root, PORTS_SECURED, {"replicas": 1}, certificates)
    token = {role: (certificates / f"{role}.token").read_text().strip() for role in ("client", "peer")}
    # Chromium knows nothing of the authority that was made for this.
    page = Page(scratch, pictures, overlay.origin, "--ignore-certificate-errors")
    try:
        page.open()
        page.until("the page asks for a token", "return document.activeElement.id === 'token'")
        page.press("a-token-of-nobody", Keys.ENTER)
        page.until("a wrong one is named", "return document.getElementById('token-problem').innerText.includes('unknown')")
        page.find("token").send_keys(token["peer"], Keys.ENTER)
        page.until("one of another role is named", "return document.getElementById('token-problem').innerText.includes('another role')")
        page.picture("token")
        expect("another one can be entered", page.focused(), "token")
        page.find("token").send_keys(token["client"], Keys.ENTER)
        page.until("six nodes up, over TLS", ALL_UP)
        expect("the form is gone", page.run("return document.getElementById('token-form').hidden"))
        expect("nodes with other days do not differ", page.run(TILE, "Versions of the data"), "equal")
        page.find("to-explore").click()
        page.until("an answer", ANSWERED, "done")
        expect("no token in an address", token["client"] not in page.run("return document.documentElement.outerHTML"))
        words = shlex.split(page.text("shell"))
        done = subprocess.run([command, *words[1:]], capture_output=True, text=True, check=True, cwd=certificates)
        expect("rows of the command line, over TLS", done.stdout.count("\n"), data.rows)
        curl = shlex.split(page.text("curl").replace("TOKEN", token["client"]))
        if shutil.which(curl[0]):
            subprocess.run(curl, cwd=certificates, check=True)
            expect("rows of curl, over TLS", (certificates / "observations.csv").read_text().count("\n") - 1, data.rows)
        expect("python trusts the authority", 'grpc+tls://' in page.text("python") and "ca.pem" in page.text("python"))
    finally:
        page.driver.quit()
        overlay.stop()


def main():
    command, root, pictures = os.path.abspath(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    scratch = Path(tempfile.mkdtemp())
    began = time.monotonic()
    overlay = page = None
    try:
        root = dataset(scratch, root)
        data = Data(root)
        overlay = Overlay(command, scratch, root, PORTS)
        page = Page(scratch, pictures, overlay.origin)
        check_overlay(page)
        expect_at_most("bytes of the page", page.bytes(), MOST_BYTES, "bytes")
        legend = check_explore(page, data)
        expect_at_most("bytes with the map and all pictures", page.bytes(), MOST_BYTES, "bytes")
        page.picture("explore-light")
        check_player(page, data, legend)
        check_keyboard(page)
        check_direct(page)
        check_sites_alike(page)
        check_names(page)
        check_commands(page, command, data)
        check_looks(page)
        check_said(page)
        check_new_data(page, root)
        check_death(page, overlay)
        page.read_logs()
        expect("lines on the console", page.console, [])
        # A browser's own signs in date fields are data in its address.
        own = (f"{page.origin}/", "data:image/svg+xml;base64,")
        strangers = {request["url"] for request in page.requests.values() if not request["url"].startswith(own)}
        expect("requests to others", sorted(strangers), [])
        # Last of all, for what is refused comes to the console.
        check_refusal(page)
        check_own_death(page, overlay)
        check_secured(scratch, command, root, pictures, data)
    finally:
        if page:
            page.driver.quit()
        if overlay:
            overlay.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{passed} passed, {failed} failed, in {time.monotonic() - began:.0f} s; pictures in {pictures}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
