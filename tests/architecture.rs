//! What the crate doc says about who sees whom, held against every path in `src/`.
//!
//! The order of files is read from the map in `src/lib.rs`, so that the map cannot fall behind. Tests inside
//! files may use anything.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files that see generated messages: the edges of the node, and `node`, which registers the services.
const SEES_PROTO: [&str; 7] = ["service", "legacy", "flight", "peer", "client", "wire", "node"];

/// Files that see OpenTelemetry: what a span is, and who sends it.
const SEES_EXPORT: [&str; 2] = ["trace", "cli"];

/// Files whose answers follow from their arguments alone: beside those that the map calls pure.
const SEES_NO_RUNTIME: [&str; 5] = ["store", "load", "predicate", "decimal", "day"];

/// Crates and modules that a pure file has no use for.
const RUNTIME: [&str; 12] = [
    "tokio",
    "tokio_util",
    "tokio_stream",
    "tonic",
    "futures",
    "hyper_util",
    "tower",
    "prost",
    "fastrand",
    "crate::trace",
    "std::net",
    "std::time",
];

/// Usable by every file, wherever they stand.
const USED_BY_ALL: [&str; 3] = ["config", "error", "metrics"];

/// It translates the causes of every layer to gRPC, so it names them all.
const USES_ALL: &str = "error";

#[test]
fn map_lists_every_module_once() {
    let declared: Vec<String> = lib()
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';').map(str::to_owned))
        .collect();
    let mut mapped = map();
    mapped.sort();
    assert_eq!(mapped, declared, "the map in the crate doc against the modules of src/lib.rs");
}

#[test]
fn only_the_edges_see_proto_types() {
    let strangers: Vec<String> = uses()
        .into_iter()
        .filter(|used| used.path.starts_with("crate::proto") && !SEES_PROTO.contains(&used.module.as_str()))
        .map(|used| used.to_string())
        .collect();
    assert!(strangers.is_empty(), "only {SEES_PROTO:?} see proto types\n{}", strangers.join("\n"));
}

#[test]
fn only_the_command_and_trace_see_what_exports_traces() {
    let exports = |path: &str| path.starts_with("opentelemetry") || path.starts_with("tracing_opentelemetry");
    let strangers: Vec<String> = uses()
        .into_iter()
        .filter(|used| exports(&used.path) && !SEES_EXPORT.contains(&used.module.as_str()))
        .map(|used| used.to_string())
        .collect();
    assert!(strangers.is_empty(), "only {SEES_EXPORT:?} see OpenTelemetry\n{}", strangers.join("\n"));
}

#[test]
fn pure_files_see_no_network_no_clock_and_no_runtime() {
    let mut pure: BTreeSet<String> = SEES_NO_RUNTIME.map(str::to_owned).into();
    pure.extend(map_rows().filter(|row| row.contains("(pure)")).flat_map(names));
    assert!(pure.contains("scan") && pure.contains("plan"), "the map marks pure files: {pure:?}");
    let forbidden = |path: &str| {
        let is = |name: &str| path == name || path.starts_with(&format!("{name}::"));
        is("crate::proto") || is("crate::outside") || RUNTIME.into_iter().any(is)
    };
    let offences: Vec<String> = uses()
        .into_iter()
        .filter(|used| pure.contains(&used.module) && forbidden(&used.path))
        .map(|used| used.to_string())
        .collect();
    assert!(offences.is_empty(), "these files see no network and no clock\n{}", offences.join("\n"));
}

#[test]
fn files_use_only_files_below_them_on_the_map() {
    let rank: BTreeMap<String, usize> = map_rows()
        .enumerate()
        .flat_map(|(rank, row)| names(row).into_iter().map(move |name| (name, rank)))
        .collect();
    let upward = |used: &Use| {
        let target = used.path.strip_prefix("crate::")?.split("::").next()?;
        let free = USED_BY_ALL.contains(&target) || used.module == USES_ALL;
        let (from, to) = (rank.get(&used.module)?, rank.get(target)?);
        // Values in one row of the map may use each other.
        (!free && target != used.module && to < from).then(|| used.to_string())
    };
    let upward: Vec<String> = uses().iter().filter_map(upward).collect();
    assert!(upward.is_empty(), "a file uses only files below it\n{}", upward.join("\n"));
}

fn lib() -> String {
    fs::read_to_string(source_root().join("lib.rs")).unwrap()
}

fn source_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The rows of the map, from top to bottom.
fn map_rows() -> impl Iterator<Item = &'static str> {
    static LIB: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    LIB.get_or_init(lib).lines().filter(|line| line.starts_with("//! | [`"))
}

/// The modules that a row of the map is about: those in its first column.
fn names(row: &str) -> Vec<String> {
    let first_column = row.split('|').nth(1).unwrap_or_default();
    first_column.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn map() -> Vec<String> {
    map_rows().flat_map(names).collect()
}

/// One path that a file names.
struct Use {
    module: String,
    path: String,
    file: PathBuf,
    line: usize,
}

impl std::fmt::Display for Use {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "  {}:{}: {}", self.file.display(), self.line, self.path)
    }
}

/// Every path in `src/` but for comments and tests, imports in braces written out.
fn uses() -> Vec<Use> {
    let mut uses = Vec::new();
    for file in source_files(&source_root()) {
        let relative = file.strip_prefix(source_root()).unwrap().to_owned();
        let first = relative.iter().next().unwrap().to_str().unwrap();
        let module = first.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" || relative.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = without_tests_and_comments(&text);
        let used = |(line, path)| Use { module: module.clone(), path, file: relative.clone(), line };
        uses.extend(paths(&code).into_iter().map(used));
    }
    assert!(uses.len() > 200, "the reader of paths has gone blind: {} paths", uses.len());
    uses
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    let files = |path: PathBuf| match path.is_dir() {
        true => source_files(&path),
        false => vec![path],
    };
    entries
        .into_iter()
        .flat_map(files)
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

/// The code with lines kept in place; tests stand last in a file.
fn without_tests_and_comments(text: &str) -> String {
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    before_tests.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// Paths with `::` in them, each with its line, braces written out.
fn paths(code: &str) -> Vec<(usize, String)> {
    let is_name = |letter: u8| letter.is_ascii_alphanumeric() || letter == b'_';
    let bytes = code.as_bytes();
    let (mut paths, mut at, mut line) = (Vec::new(), 0, 1);
    // What stands before each open brace: the path that its members go on from, if there is one.
    let mut braces: Vec<String> = Vec::new();
    while at < bytes.len() {
        match bytes[at] {
            b'\n' => line += 1,
            b'{' => braces.push(String::new()),
            b'}' => drop(braces.pop()),
            letter if is_name(letter) => {
                let start = at;
                let mut opens = false;
                while at < bytes.len() && (is_name(bytes[at]) || code[at..].starts_with("::")) {
                    let step = if is_name(bytes[at]) { 1 } else { 2 };
                    at += step;
                    if step == 2 && bytes.get(at) == Some(&b'{') {
                        opens = true;
                        break;
                    }
                }
                let prefix = braces.last().cloned().unwrap_or_default();
                let path = format!("{prefix}{}", &code[start..at]);
                if opens {
                    braces.push(path);
                    at += 1;
                } else if path.contains("::") {
                    paths.push((line, path));
                }
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    paths
}

#[test]
fn paths_are_read_through_braces() {
    let code = "use a::{b, c::{D, e::F}};\nfn f() { let x = g::h(1); }\nuse i;";
    let read: Vec<String> = paths(code).into_iter().map(|(line, path)| format!("{line} {path}")).collect();
    assert_eq!(read, ["1 a::b", "1 a::c::D", "1 a::c::e::F", "2 g::h"]);
    let code = without_tests_and_comments("a::b // c::d\n/// e::f\n#[cfg(test)]\nmod tests { g::h }");
    assert_eq!(paths(&code), [(1, "a::b".to_owned())]);
}
