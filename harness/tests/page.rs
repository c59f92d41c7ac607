//! The page that a node serves: its files and what browsers are told of them, the pictures, and what nodes say of their load.
//!
//! What a browser makes of it is checked in one: `scripts/check_page`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use overlay::inventory::NodeState;
use overlay::plot::{CATEGORIES, category};
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster, fixtures, wait_until};
use serde_json::{Value, json};
use tokio::net::TcpStream;

const WITHIN: Duration = Duration::from_secs(60);
/// A day of team pink.
const CHANGED: &str = "20200910";
const HOSTILE: &str = "<script>alert(1)</script>\"'&]]> \u{1}";

struct Answer {
    status: u16,
    headers: hyper::HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

async fn get(address: &str, path: &str) -> Answer {
    let stream = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = http1::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("http://{address}{path}");
    let request = Request::get(uri).header("host", address).body(Empty::<Bytes>::new()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: head.status.as_u16(), headers: head.headers, text: String::from_utf8(body).unwrap() }
}

async fn cluster() -> InProcessCluster {
    InProcessCluster::start(ClusterSpec::fixtures()).await.unwrap()
}

/// An element of a picture: its name, its attributes, and the text in it.
#[derive(Clone, Debug, Default)]
struct Element {
    name: String,
    attributes: BTreeMap<String, String>,
    text: String,
}

/// The elements of a picture, in order of their ends.
///
/// # Panics
/// If the markup is not well-formed: tags that do not pair, `<` or `&` that start nothing, letters that XML does not have.
fn elements(svg: &str) -> Vec<Element> {
    assert!(
        svg.chars().all(|letter| !letter.is_control() || letter == '\n'),
        "a letter that XML does not have"
    );
    let (mut open, mut done): (Vec<Element>, Vec<Element>) = (Vec::new(), Vec::new());
    let mut rest = svg;
    while let Some(start) = rest.find('<') {
        let text = unescaped(&rest[..start]);
        if let Some(parent) = open.last_mut() {
            parent.text += &text;
        }
        let end = start + rest[start..].find('>').expect("a tag ends");
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let element = open.pop().expect("what ends has begun");
            assert_eq!(element.name, name);
            done.push(element);
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut element = Element { name: name.to_owned(), ..Element::default() };
        while let Some((key, value)) = attributes.trim_start().split_once("=\"") {
            let (value, after) = value.split_once('"').expect("a value ends");
            let twice = element.attributes.insert(key.to_owned(), unescaped(value));
            assert!(twice.is_none() && !value.contains('<'), "{tag}");
            attributes = after;
        }
        assert!(attributes.trim().is_empty(), "{tag}");
        if is_empty { done.push(element) } else { open.push(element) }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "everything ends");
    done
}

fn unescaped(text: &str) -> String {
    let mut parts = text.split('&');
    let mut plain = parts.next().unwrap().to_owned();
    for part in parts {
        let (name, after) = part.split_once(';').expect("a reference ends");
        plain += match name {
            "lt" => "<",
            "gt" => ">",
            "amp" => "&",
            "quot" => "\"",
            "apos" => "'",
            other => panic!("&{other};"),
        };
        plain += after;
    }
    plain
}

fn named<'a>(elements: &'a [Element], name: &str) -> Vec<&'a Element> {
    elements.iter().filter(|element| element.name == name).collect()
}

/// The rows of PM2.5 in the files of some days: day, hour, site (place, name, agency and id), and AQI.
fn rows(root: &Path, days: std::ops::RangeInclusive<&str>) -> Vec<(String, u8, Vec<String>, Option<i16>)> {
    let mut rows = Vec::new();
    for day in std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap()) {
        let name = day.file_name().into_string().unwrap();
        if !days.contains(&name.as_str()) {
            continue;
        }
        for file in std::fs::read_dir(day.path()).unwrap().map(|entry| entry.unwrap().path()) {
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_path(file).unwrap();
            for row in reader.records().map(|row| row.unwrap()).filter(|row| &row[3] == "PM2.5") {
                let site = [0, 1, 9, 10, 12].map(|field| row[field].to_owned()).to_vec();
                let aqi = row[7].parse().ok().filter(|aqi| *aqi != -999);
                rows.push((name.clone(), row[2][11..13].parse().unwrap(), site, aqi));
            }
        }
    }
    rows
}

/// Goal: a browser shows the page, and nothing else. Method: every file that the page or one of its scripts names is there, with
/// its type, and all of them name no other host.
#[tokio::test(flavor = "multi_thread")]
async fn page_is_all_there_and_asks_nobody_else() {
    let cluster = cluster().await;
    let mut total = 0;
    for node in ["A", "D"] {
        let address = cluster.address(node);
        let (mut left, mut seen) = (vec!["/".to_owned()], BTreeSet::new());
        while let Some(path) = left.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let answer = get(&address, &path).await;
            assert_eq!(answer.status, 200, "{path}");
            let expected = match path.rsplit('.').next().unwrap() {
                "css" => "text/css; charset=utf-8",
                "js" => "text/javascript; charset=utf-8",
                "svg" => "image/svg+xml; charset=utf-8",
                _ => "text/html; charset=utf-8",
            };
            assert_eq!(answer.header("content-type"), expected, "{path}");
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
            let policy = answer.header("content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'; script-src 'self';") && !policy.contains("unsafe"),
                "{policy}"
            );
            let elsewhere =
                answer.text.match_indices("//").filter(|(at, _)| answer.text[..*at].ends_with("http:"));
            for (at, _) in elsewhere {
                assert!(
                    answer.text[at..].starts_with("//www.w3.org/2000/svg"),
                    "{path}: {}",
                    &answer.text[at..at + 40]
                );
            }
            assert!(!answer.text.contains("https://"), "{path}");
            total += answer.text.len();
            let quoted = answer.text.split(['"', '\'']).filter(|text| text.starts_with("/page/"));
            left.extend(quoted.map(str::to_owned));
            let imported = answer.text.split('"').filter_map(|text| text.strip_prefix("./"));
            left.extend(imported.map(|file| format!("/page/{file}")));
        }
        assert_eq!(seen.len(), 10, "{seen:?}");
    }
    assert!(total / 2 < 100_000, "{} bytes", total / 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn page_is_for_everybody_and_its_answers_are_not() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let tokens = json!([
        {"name": "nodes", "role": "peer", "token": "a-token-of-the-nodes"},
        {"name": "operator", "role": "admin", "token": "a-token-of-the-admin"},
    ]);
    let file = folder.path().join("tokens.json");
    std::fs::write(&file, tokens.to_string()).unwrap();
    let spec = ClusterSpec::fixtures().with(json!({"security": {"tokens": file}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let address = cluster.address("A");
    for path in ["/", "/page/page.js", "/page/style.css"] {
        assert_eq!(get(&address, path).await.status, 200, "{path}");
    }
    for path in ["map.svg", "hours", "series.svg", "coverage", "coverage.svg", "topology"] {
        assert_eq!(get(&address, &format!("/api/v1/{path}")).await.status, 401, "{path}");
    }
    assert_eq!(get(&address, "/page/nothing").await.status, 404);
    assert_eq!(get(&address, "/pages").await.status, 401);
}

/// Goal: a map shows every site once, where and how bad it is. Method: the files, read here.
#[tokio::test(flavor = "multi_thread")]
async fn map_has_a_circle_for_each_site_with_rows() {
    let cluster = cluster().await;
    let address = cluster.address("A");
    let svg = get(&address, "/api/v1/map.svg?from=20200818&to=20200823").await;
    assert_eq!((svg.status, svg.header("content-type")), (200, "image/svg+xml; charset=utf-8"));
    let mut expected: BTreeMap<Vec<String>, Option<i16>> = BTreeMap::new();
    for (.., site, aqi) in rows(&fixtures(), "20200818"..="20200823") {
        let highest = expected.entry(site).or_default();
        *highest = (*highest).max(aqi);
    }
    let shown = circles(&svg.text);
    assert_eq!(shown.len(), expected.len());
    let mut said: Vec<(String, String)> =
        shown.values().map(|circle| (circle.said.clone(), circle.colour.clone())).collect();
    let mut expected: Vec<(String, String)> = expected
        .into_iter()
        .map(|(site, aqi)| {
            let aqi = aqi.map(|aqi| (aqi, category(aqi)));
            let index =
                aqi.map_or("no AQI".to_owned(), |(aqi, category)| format!("AQI {aqi}, {}", category.name));
            let colour = aqi.map_or("#9AA7B2".to_owned(), |(_, category)| {
                let (r, g, b) = category.colour;
                format!("#{r:02X}{g:02X}{b:02X}")
            });
            (format!("{}\n{}\n{index}", site[2], site[3]), colour)
        })
        .collect();
    said.sort();
    expected.sort();
    assert_eq!(said, expected);
    let places: BTreeSet<_> = shown.values().map(|circle| circle.place.clone()).collect();
    assert!(places.len() > expected.len() / 2, "they are apart");
}

struct Circle {
    said: String,
    colour: String,
    place: (String, String),
}

/// The sites of a map, by id. A title ends just before its circle does.
fn circles(svg: &str) -> BTreeMap<String, Circle> {
    let elements = elements(svg);
    let mut circles = BTreeMap::new();
    for pair in elements.windows(2) {
        if let Some(id) = pair[1].attributes.get("data-site") {
            let attribute = |name: &str| pair[1].attributes[name].clone();
            let circle = Circle {
                said: pair[0].text.clone(),
                colour: attribute("fill"),
                place: (attribute("cx"), attribute("cy")),
            };
            assert!(circles.insert(id.clone(), circle).is_none(), "{id} comes twice");
        }
    }
    circles
}

/// Goal: who colours the map himself gets what the map of an hour shows. Method: both, for every hour of a day.
#[tokio::test(flavor = "multi_thread")]
async fn hours_are_those_of_the_maps() {
    let cluster = cluster().await;
    let address = cluster.address("A");
    let hours = get(&address, "/api/v1/hours?from=20200910").await.json();
    assert_eq!((&hours["day"], &hours["parameter"]), (&json!("20200910"), &json!("PM2.5")));
    let sites: Vec<&str> = hours["sites"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(hours["hours"].as_array().unwrap().len(), 4, "the files of the day");
    for hour in hours["hours"].as_array().unwrap() {
        let path = format!("/api/v1/map.svg?from=20200910&to=20200910&hour={}", hour["hour"]);
        let shown = circles(&get(&address, &path).await.text);
        assert_eq!(shown.len(), sites.len());
        for (id, aqi) in sites.iter().zip(hour["aqi"].as_array().unwrap()) {
            let expected = aqi.as_i64().map_or("\nno AQI".to_owned(), |aqi| format!("\nAQI {aqi}, "));
            assert!(shown[*id].said.contains(&expected), "{id}: {} {expected}", shown[*id].said);
        }
    }
    assert_eq!(hours["missing_days"], json!([]));
    let last = async |path: &str| get(&address, path).await.json()["day"].clone();
    let [of_all, of_green] = ["/api/v1/hours", "/api/v1/hours?team=green"];
    assert_eq!((last(of_all).await, last(of_green).await), (json!("20200924"), json!("20200820")));
}

#[tokio::test(flavor = "multi_thread")]
async fn series_and_coverage_are_pictures_of_what_is_answered() {
    let cluster = cluster().await;
    let address = cluster.address("A");
    for of in ["aqi", "value", "raw_concentration"] {
        let svg = get(&address, &format!("/api/v1/series.svg?of={of}&from=20200818&to=20200823")).await;
        let drawn = elements(&svg.text);
        assert!(named(&drawn, "polyline").len() > 1, "{of}: the mean and the axes");
        assert!(named(&drawn, "title")[0].text.contains("by hour (UTC)"), "{of}");
    }
    let nothing = get(&address, "/api/v1/series.svg?site=nowhere").await;
    assert!(named(&elements(&nothing.text), "text")[0].text.contains("nothing to show"));

    let covered = get(&address, "/api/v1/coverage?parameter=PM2.5&min=5&max=35").await.json();
    let total: u64 = covered["days"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|day| day["outcome"]["rows_taken"].as_u64())
        .sum();
    assert_eq!((covered["total_rows"].as_u64(), covered["missing_days"].clone()), (Some(total), json!([])));
    assert!(total > 1000);
    let kinds: BTreeSet<&str> = covered["days"]
        .as_array()
        .unwrap()
        .iter()
        .map(|day| day["outcome"]["kind"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, BTreeSet::from(["served", "no_data"]));
    let picture = get(&address, "/api/v1/coverage.svg?parameter=PM2.5&min=5&max=35").await;
    let drawn = elements(&picture.text);
    assert!(
        named(&drawn, "title")[0].text.ends_with(&format!("0 missing, {total} rows")),
        "{:?}",
        named(&drawn, "title")
    );
    assert!(named(&drawn, "rect").len() > 46);
    let result_sets = cluster.node("A").state().gauges().open_result_sets;
    assert_eq!(result_sets, 0, "nothing is left under a lease");
}

/// Goal: a day that nobody can answer for is seen. Method: the nodes of one team are gone.
#[tokio::test(flavor = "multi_thread")]
async fn missing_days_are_in_the_picture() {
    let mut cluster = cluster().await;
    for node in ["D", "E", "F"] {
        cluster.crash(node).await.unwrap();
    }
    let address = cluster.address("A");
    for path in ["coverage.svg", "map.svg", "series.svg", "hours?from=20200910"] {
        let path = format!("/api/v1/{path}");
        assert_eq!(get(&address, &path).await.status, 503, "{path}");
    }
    let picture = get(&address, "/api/v1/coverage.svg?partial=true").await;
    let drawn = elements(&picture.text);
    assert!(named(&drawn, "title")[0].text.contains("35 missing"), "{:?}", named(&drawn, "title"));
    let crosses = named(&drawn, "text").iter().filter(|text| text.text.trim() == "×").count();
    assert_eq!(crosses, 35 + 1, "each day, and what the sign means");
    for path in ["coverage", "coverage.svg", "map.svg", "series.svg", "hours"] {
        let partial = get(&address, &format!("/api/v1/{path}?partial=true")).await;
        let expected = if path == "hours" { "20200924" } else { "20200821-20200924" };
        assert_eq!((partial.status, partial.header("overlay-missing-days")), (200, expected), "{path}");
        match path {
            "map.svg" | "series.svg" => {
                let title = named(&elements(&partial.text), "title")[0].text.clone();
                assert!(title.ends_with(", without 35 days"), "{path}: {title}");
            }
            "hours" => assert_eq!(partial.json()["missing_days"], json!(["20200924"])),
            _ => (),
        }
        let whole = get(&address, &format!("/api/v1/{path}?partial=true&team=green")).await;
        assert_eq!((whole.status, whole.header("overlay-missing-days")), (200, ""), "{path}");
        assert!(!whole.text.contains("without"), "{path}");
    }
}

/// Goal: names from files are text. Method: a name that is markup, in every picture that names sites.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_markup_stay_text() {
    let folder = overlay_harness::scratch::folder().unwrap();
    let day = folder.path().join("20200901");
    std::fs::create_dir(&day).unwrap();
    let name = HOSTILE.replace('"', "\"\"");
    let row = format!(
        "\"40.5\",\"-118.5\",\"2020-09-01T01:00\",\"PM2.5\",\"30.1\",\"UG/M3\",\"30.1\",\"90\",\"2\",\"{name}\",\"{name}\",\"1\",\"8401\"\n"
    );
    std::fs::write(day.join("20200901-01.csv"), row).unwrap();
    let cluster = InProcessCluster::start(ClusterSpec::six_nodes(folder.path())).await.unwrap();
    let address = cluster.address("A");
    let asked = form_urlencoded::byte_serialize(HOSTILE.trim_end_matches(['\u{1}', ' ']).as_bytes())
        .collect::<String>();
    let map = get(&address, &format!("/api/v1/map.svg?site={asked}")).await;
    let shown = circles(&map.text);
    let shown: Vec<&Circle> = shown.values().collect();
    let expected = HOSTILE.replace('\u{1}', "\u{fffd}");
    assert_eq!(shown[0].said, format!("{expected}\n{expected}\nAQI 90, Moderate"));
    let series = get(&address, &format!("/api/v1/series.svg?site={asked}")).await;
    for svg in [&map.text, &series.text] {
        let drawn = elements(svg);
        assert!(named(&drawn, "script").is_empty());
        assert!(named(&drawn, "title").iter().any(|title| title.text.contains("<script>")), "{svg}");
    }
}

/// Goal: the leader knows what every node does. Method: a query that the farthest nodes answer, then what the leader says of
/// them, whose inventories have not changed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn leader_knows_load_and_traffic_of_every_node() {
    // All holders of a team answer, so that those at the end of the overlay do too.
    let everybody = json!({"strategies": {"forwarding": "parallel"}, "limits": {"short_rows": 0}});
    let cluster = InProcessCluster::start(ClusterSpec::fixtures().with(everybody)).await.unwrap();
    let address = cluster.address("A");
    let look = async || get(&address, "/api/v1/topology?brief=true").await.json();
    let idle = wait_until(WITHIN, async || {
        let topology = look().await;
        let nodes = topology["nodes"].as_array().unwrap().clone();
        nodes.iter().all(|node| node["load"].is_object() && node["health"] == "up").then_some(nodes)
    });
    let idle = idle.await.expect("every node is heard of");
    assert!(idle.iter().all(|node| node.get("days").is_none()), "brief");
    let requests = |nodes: &[Value]| -> u64 {
        let traffic = nodes.iter().flat_map(|node| node["load"]["traffic"].as_array().unwrap());
        traffic.map(|traffic| traffic["requests"].as_u64().unwrap()).sum()
    };
    assert_eq!(requests(&idle), 0, "looking after each other is no traffic for clients");
    assert_eq!(get(&address, "/api/v1/query?parameter=OZONE").await.status, 200);
    let seen = wait_until(WITHIN, async || {
        let nodes = look().await["nodes"].as_array().unwrap().clone();
        let of_b = nodes[1]["load"]["traffic"].as_array().unwrap();
        let passed_on = of_b
            .iter()
            .any(|traffic| traffic["requests"].as_u64() > Some(0) && traffic["bytes"].as_u64() > Some(0));
        passed_on.then_some(nodes)
    });
    let seen = seen.await.expect("B has asked its neighbours");
    let [c, e] = [&seen[2], &seen[4]];
    assert_eq!(c["held"]["days"], 8, "{c}");
    assert_eq!(c["held"]["version"], seen[1]["held"]["version"], "B and C hold the same");
    assert_ne!(c["held"]["version"], e["held"]["version"]);
}

/// What a node knows of the overlay, once it knows what all hold and `is_so`.
async fn topology_when(address: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let known = wait_until(WITHIN, async || {
        let topology = get(address, "/api/v1/topology?brief=true").await.json();
        let is_known = |node: &Value| node["health"] == "up" && node["ready"] == true;
        (topology["nodes"].as_array().unwrap().iter().all(is_known) && is_so(&topology)).then_some(topology)
    });
    known.await.expect("it comes to be so")
}

/// Goal: whoever only has to be asked again is not shown as unknown. Method: the node hears that another one has other data.
#[tokio::test(flavor = "multi_thread")]
async fn node_is_up_while_its_new_data_are_not_known() {
    let cluster = cluster().await;
    let address = cluster.address("A");
    topology_when(&address, |_| true).await;
    let anew = NodeState { node: "C".into(), incarnation: 1, free_compute_slots: 2, draining: false };
    cluster.node("A").state().relay.directory().heard_from(&anew);
    let topology = get(&address, "/api/v1/topology?brief=true").await.json();
    assert_eq!((&topology["nodes"][2]["id"], &topology["nodes"][2]["health"]), (&json!("C"), &json!("up")));
}

/// A day of each team, copied from the bundled data, that may be changed.
fn changeable_days() -> tempfile::TempDir {
    let folder = overlay_harness::scratch::folder().unwrap();
    for day in ["20200810", CHANGED] {
        let copy = folder.path().join(day);
        std::fs::create_dir(&copy).unwrap();
        for file in std::fs::read_dir(fixtures().join(day)).unwrap().map(|entry| entry.unwrap()) {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    folder
}

/// Takes the last row out of a file of [`CHANGED`].
fn change_a_day(root: &Path) {
    let file = root.join(format!("{CHANGED}/{CHANGED}-01.csv"));
    let text = std::fs::read_to_string(&file).unwrap();
    let (rows, _) = text.trim_end().rsplit_once('\n').unwrap();
    std::fs::write(file, format!("{rows}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_hold_different_days_do_not_disagree() {
    let spec = ClusterSpec::fixtures().with(json!({"replicas": 1}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let topology = topology_when(&cluster.address("A"), |_| true).await;
    let held = |node: usize| &topology["nodes"][node]["held"]["version"];
    assert!(held(3) != held(4) && held(4) != held(5), "each has days of its own");
    assert_eq!(topology["version_conflicts"], 0);
}

/// Goal: a holder with other data than the rest is noticed. Method: a file changes before one of three holders starts again.
#[tokio::test(flavor = "multi_thread")]
async fn days_whose_holders_disagree_are_counted() {
    let root = changeable_days();
    let mut cluster = InProcessCluster::start(ClusterSpec::six_nodes(root.path())).await.unwrap();
    let address = cluster.address("A");
    let topology = topology_when(&address, |_| true).await;
    assert_eq!(topology["version_conflicts"], 0);
    change_a_day(root.path());
    cluster.crash("F").await.unwrap();
    cluster.restart("F").await.unwrap();
    topology_when(&address, |topology| topology["version_conflicts"] == 1).await;
}

/// What the scripts repeat of the node is what the node has.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_have_the_nodes_categories() {
    let cluster = cluster().await;
    let script = get(&cluster.address("A"), "/page/map.js").await.text;
    for category in CATEGORIES {
        let (r, g, b) = category.colour;
        let line = format!(
            "last: {}, name: \"{}\", colour: \"#{r:02X}{g:02X}{b:02X}\"",
            category.last, category.name
        );
        assert!(script.contains(&line), "{line}");
    }
}
