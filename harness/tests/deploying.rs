//! What is checked in for operators: units of systemd, rules of Prometheus, the dashboard of Grafana.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey};
use overlay::plan::Query;
use overlay::predicate::Predicate;
use overlay_harness::cluster::{Cluster, ClusterSpec, InProcessCluster};
use overlay_harness::scratch;
use overlay_harness::skip::skipped;
use serde_json::{Value, json};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

/// The names of metrics in some text, each with what stands behind it in braces.
fn metrics_in(text: &str) -> BTreeSet<(&str, &str)> {
    let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    let starts = text.match_indices("overlay_").map(|(start, _)| start);
    let starts = starts.filter(|start| !text[..*start].ends_with(is_of_name));
    let name_and_labels = |start: usize| {
        let text = &text[start..];
        let (name, behind) = text.split_at(text.find(|letter| !is_of_name(letter)).unwrap_or(text.len()));
        let labels = behind.strip_prefix('{').and_then(|labels| Some(labels.split_once('}')?.0));
        (name, labels.unwrap_or_default())
    };
    starts.map(name_and_labels).collect()
}

/// Goal: no panel and no alert asks for a metric or a label that nodes do not have.
#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_ask_for_metrics_that_there_are() {
    // Groups by day are too many here, so that there is a refusal, too.
    let spec = ClusterSpec::fixtures().with(json!({"limits": {"max_groups": 1}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    let leader = cluster.client("A", "operator").unwrap();
    leader.query(&Query::default()).await.unwrap();
    let by_day = AggregateSpec { of: AggregateOf::Value, group_by: vec![GroupKey::Day] };
    leader.query(&Query { aggregate: Some(by_day), ..Query::default() }).await.unwrap_err();
    let text = leader.metrics().await.unwrap().exposition;
    let said: Vec<&str> = text.lines().filter(|line| line.starts_with("overlay_")).collect();
    let dashboard: Value =
        serde_json::from_str(&fs::read_to_string(configs().join("grafana/overlay.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut asked: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let rules = fs::read_to_string(configs().join("prometheus/overlay.rules.yml")).unwrap();
    asked.extend(rules.lines().filter_map(|line| Some(line.trim().strip_prefix("expr: ")?.to_owned())));
    assert!(asked.len() > 30, "{} queries", asked.len());
    for query in &asked {
        for (metric, labels) in metrics_in(query) {
            let of_metric = |line: &&&str| {
                line.starts_with(&format!("{metric}{{")) || line.starts_with(&format!("{metric} "))
            };
            let lines: Vec<&&str> = said.iter().filter(of_metric).collect();
            assert!(!lines.is_empty(), "no node says {metric}, which is asked for in {query}");
            let names = labels.split(',').filter_map(|label| label.split(['=', '!']).next());
            for name in names.filter(|name| !name.is_empty()) {
                let has = |line: &&&str| line.contains(&format!("{name}=\""));
                assert!(lines.iter().any(has), "{metric} has no label {name}, which is asked for in {query}");
            }
        }
    }
}

/// Goal: service can be told apart by class of client, and clients make no labels of their own.
#[tokio::test(flavor = "multi_thread")]
async fn computing_is_counted_for_the_clients_that_the_configuration_names() {
    let spec = ClusterSpec::fixtures().with(json!({"clients": {"dashboard": 2}}));
    let cluster = InProcessCluster::start(spec).await.unwrap();
    for (client_id, parameter) in [("dashboard", "PM2.5"), ("somebody", "OZONE")] {
        let predicate = Predicate { parameter: Some(parameter.to_owned()), ..Predicate::default() };
        let query = Query { predicate, ..Query::default() };
        cluster.client("B", client_id).unwrap().query(&query).await.unwrap();
    }
    let mut classes = BTreeSet::new();
    for id in ["B", "C", "D"] {
        let text = cluster.client(id, "operator").unwrap().metrics().await.unwrap().exposition;
        let scans = text.lines().filter_map(|line| {
            let of_class = line.strip_prefix("overlay_compute_seconds_total{step=\"scan\",class=\"")?;
            let (class, seconds) = of_class.split_once("\"} ")?;
            (seconds.parse::<f64>().unwrap() > 0.0).then(|| class.to_owned())
        });
        classes.extend(scans);
    }
    assert_eq!(classes, BTreeSet::from(["dashboard".to_owned(), "other".to_owned()]));
}

/// Goal: keys and tokens, which one user alone may read, can be given to the nodes that the units run.
#[test]
fn units_run_as_the_user_to_whom_the_readme_gives_keys_and_tokens() {
    let readme = fs::read_to_string(configs().join("../README.md")).unwrap();
    for step in [
        "sudo useradd --system overlay\n",
        "sudo install --owner overlay --mode 600 certs/B.key certs/tokens.json",
    ] {
        assert!(readme.contains(step), "the README does not say `{step}`");
    }
    for unit in ["overlay.service", "overlay@.service"] {
        let text = fs::read_to_string(configs().join("systemd").join(unit)).unwrap();
        assert!(text.contains("\nUser=overlay\n") && !text.contains("\nDynamicUser="), "{unit}");
    }
}

/// Goal: systemd takes the units as they are checked in, but for the path of the command.
#[test]
fn systemd_takes_the_units() {
    let folder = scratch::folder().unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]);
    for (unit, started) in [("overlay.service", "overlay.service"), ("overlay@.service", "overlay@B.service")]
    {
        let text = fs::read_to_string(configs().join("systemd").join(unit)).unwrap();
        assert!(text.contains("/usr/local/bin/overlay "), "{unit}");
        let text = text.replace("/usr/local/bin/overlay ", concat!(env!("CARGO_BIN_EXE_overlay-node"), " "));
        let path = folder.path().join(started);
        fs::write(&path, text).unwrap();
        verify.arg(path);
    }
    match verify.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{said}");
        }
        Err(error) => skipped("systemd-analyze verify", error),
    }
}
