//! JSON tree to draft: one value at a time, each problem noted with its key, nothing given up early.
//!
//! A draft has `None` where a value could not be read, so that `check` does not complain about it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::json::Json;
use super::limits::Bound;
use super::reader::{Reader, join};
use super::{
    CacheLimits, DEFAULT_CHUNK_SIZE, Limits, Parsed, Problems, Profile, Role, SecurityFiles, Strategies,
    TlsFiles, check,
};
use crate::day::DayRange;
use crate::error::shown;

/// Keys of the file.
pub(super) const FILE_KEYS: &[&str] = &[
    "processes",
    "teams",
    "strategies",
    "limits",
    "cache",
    "replicas",
    "clients",
    "dataset_root",
    "security",
    "$schema",
];

/// Keys of a process; all but `weight` are required.
pub(super) const PROCESS_KEYS: &[&str] = &["id", "role", "team", "host", "port", "neighbors", "weight"];

/// Keys of a team; all but `weight` are required.
pub(super) const TEAM_KEYS: &[&str] = &["name", "first_day", "last_day", "weight"];

/// Keys of the strategies.
pub(super) const STRATEGY_KEYS: &[&str] =
    &["profile", "forwarding", "chunking", "fairness", "chunk_size", "hedging"];

/// Keys of the security; none is required.
pub(super) const SECURITY_KEYS: &[&str] = &["tls", "tokens"];

/// Keys of TLS; all are required.
pub(super) const TLS_KEYS: &[&str] = &["ca", "certificate", "key"];

const PORT: Bound = Bound { key: "port", least: 1, most: 65_535 };
const CHUNK_SIZE: Bound = Bound { key: "chunk_size", least: 1, most: 1_000_000 };
const REPLICAS: Bound = Bound { key: "replicas", least: 1, most: u32::MAX as u64 };

/// Reads and checks a configuration.
pub(super) fn parse(text: &str, file: &str) -> Result<Parsed, Problems> {
    let mut reader = Reader::new(file);
    let draft = match Json::parse(text) {
        Ok(json) => reader.draft(&json),
        Err(malformed) => {
            reader.problem("", malformed);
            None
        }
    };
    let overlay = draft.and_then(|draft| check::check(draft, &mut reader));
    match overlay {
        Some(overlay) if reader.problems.is_empty() => Ok(Parsed { overlay, warnings: reader.warnings }),
        _ => Err(Problems(reader.problems)),
    }
}

/// A file as far as it could be read.
pub(super) struct Draft {
    /// `None`: there is no object to read processes from.
    pub(super) processes: Option<Vec<DraftProcess>>,
    /// `None`: the file says nothing about teams.
    pub(super) teams: Option<Vec<DraftTeam>>,
    pub(super) strategies: Strategies,
    pub(super) limits: Limits,
    pub(super) cache: CacheLimits,
    pub(super) replicas: Option<u32>,
    pub(super) clients: BTreeMap<String, f64>,
    pub(super) dataset_root: Option<PathBuf>,
    pub(super) security: Option<SecurityFiles>,
}

/// A process as far as it could be read.
pub(super) struct DraftProcess {
    /// Its key in `processes`, which is its id.
    pub(super) id: String,
    pub(super) role: Option<Role>,
    pub(super) team: Option<String>,
    pub(super) host: Option<String>,
    pub(super) port: Option<u16>,
    /// Each with its place in the list.
    pub(super) neighbours: Option<Vec<(usize, String)>>,
    pub(super) weight: f64,
}

impl DraftProcess {
    fn unread(id: &str) -> Self {
        DraftProcess {
            id: id.to_owned(),
            role: None,
            team: None,
            host: None,
            port: None,
            neighbours: None,
            weight: 1.0,
        }
    }
}

/// A team as far as it could be read.
pub(super) struct DraftTeam {
    pub(super) name: Option<String>,
    pub(super) days: Option<DayRange>,
    pub(super) weight: f64,
}

impl DraftTeam {
    fn unread() -> Self {
        DraftTeam { name: None, days: None, weight: 1.0 }
    }
}

impl Reader<'_> {
    fn draft(&mut self, json: &Json) -> Option<Draft> {
        let fields = self.object("", "the configuration", json, FILE_KEYS)?;
        if let Some(schema) = fields.get("$schema") {
            self.text("$schema", "$schema", schema);
        }
        let processes = self.required("", &fields, "processes");
        Some(Draft {
            processes: processes.and_then(|json| self.processes(json)),
            teams: fields.get("teams").map(|json| self.teams(json)),
            strategies: fields.get("strategies").map(|json| self.strategies(json)).unwrap_or_default(),
            limits: fields.get("limits").map(|json| self.limits(json)).unwrap_or_default(),
            cache: fields.get("cache").map(|json| self.cache(json)).unwrap_or_default(),
            replicas: fields
                .get("replicas")
                .and_then(|json| self.whole("replicas", &REPLICAS, json))
                .map(|count| count as u32),
            clients: fields.get("clients").map(|json| self.clients(json)).unwrap_or_default(),
            dataset_root: fields
                .get("dataset_root")
                .and_then(|json| self.text("dataset_root", "dataset_root", json))
                .map(PathBuf::from),
            security: fields.get("security").and_then(|json| self.security(json)),
        })
    }

    fn security(&mut self, json: &Json) -> Option<SecurityFiles> {
        let fields = self.object("security", "security", json, SECURITY_KEYS)?;
        let tls = fields.get("tls").map(|json| self.tls(json));
        let tokens = fields.get("tokens").map(|json| self.path("security.tokens", "tokens", json));
        Some(SecurityFiles { tls: tls.flatten(), tokens: tokens.flatten() })
    }

    fn tls(&mut self, json: &Json) -> Option<TlsFiles> {
        let fields = self.object("security.tls", "tls", json, TLS_KEYS)?;
        let mut path = |name: &'static str| {
            let json = self.required("security.tls", &fields, name)?;
            self.path(&join("security.tls", name), name, json)
        };
        let (ca, certificate, key) = (path("ca"), path("certificate"), path("key"));
        Some(TlsFiles { ca: ca?, certificate: certificate?, key: key? })
    }

    /// A path, from the folder of the file on if it is relative.
    fn path(&mut self, key: &str, noun: &str, json: &Json) -> Option<PathBuf> {
        let text = self.text(key, noun, json)?;
        if text.is_empty() {
            self.problem(key, format!("{noun} is empty: must be the path of a file"));
            return None;
        }
        Some(Path::new(self.file()).parent().unwrap_or(Path::new("")).join(text))
    }

    fn processes(&mut self, json: &Json) -> Option<Vec<DraftProcess>> {
        let entries = self.entries("processes", "processes", json)?;
        let processes = entries.into_iter().map(|(id, json)| self.process(id, json));
        Some(processes.collect())
    }

    fn process(&mut self, id: &str, json: &Json) -> DraftProcess {
        let key = join("processes", id);
        self.check_name(&key, "id", id);
        let Some(fields) = self.object(&key, "the process", json, PROCESS_KEYS) else {
            return DraftProcess::unread(id);
        };
        let field = |reader: &mut Self, name: &'static str| {
            let json = reader.required(&key, &fields, name);
            json.map(|json| (join(&key, name), json))
        };
        if let Some((key, json)) = field(self, "id")
            && let Some(written) = self.text(&key, "id", json)
            && written != id
        {
            self.problem(
                &key,
                format!("id `{}` differs from its key `{}` in processes", shown(written), shown(id)),
            );
        }
        DraftProcess {
            id: id.to_owned(),
            role: field(self, "role").and_then(|(key, json)| self.word(&key, json)),
            team: field(self, "team").and_then(|(key, json)| self.name(&key, "team", json)),
            host: field(self, "host").and_then(|(key, json)| self.host(&key, json)),
            port: field(self, "port")
                .and_then(|(key, json)| self.whole(&key, &PORT, json))
                .map(|port| port as u16),
            neighbours: field(self, "neighbors").and_then(|(key, json)| self.neighbours(&key, json)),
            weight: self.weight(&key, &fields),
        }
    }

    fn neighbours(&mut self, key: &str, json: &Json) -> Option<Vec<(usize, String)>> {
        let items = self.array(key, "neighbors", json)?;
        let mut seen = BTreeSet::new();
        let mut neighbours = Vec::new();
        let mut complete = true;
        for (index, item) in items.iter().enumerate() {
            let key = format!("{key}[{index}]");
            match self.text(&key, "neighbour", item) {
                Some(id) if seen.insert(id) => neighbours.push((index, id.to_owned())),
                Some(id) => self.warn(key, format!("neighbour `{}` is listed twice", shown(id))),
                None => complete = false,
            }
        }
        complete.then_some(neighbours)
    }

    fn teams(&mut self, json: &Json) -> Vec<DraftTeam> {
        let Some(items) = self.array("teams", "teams", json) else {
            return vec![DraftTeam::unread()];
        };
        let team = |(index, item)| self.team(&format!("teams[{index}]"), item);
        items.iter().enumerate().map(team).collect()
    }

    fn team(&mut self, key: &str, json: &Json) -> DraftTeam {
        let Some(fields) = self.object(key, "the team", json, TEAM_KEYS) else {
            return DraftTeam::unread();
        };
        let field = |reader: &mut Self, name: &'static str| {
            reader.required(key, &fields, name).map(|json| (join(key, name), json))
        };
        let name = field(self, "name").and_then(|(key, json)| self.name(&key, "name", json));
        let first = field(self, "first_day").and_then(|(key, json)| self.day(&key, "first_day", json));
        let last = field(self, "last_day").and_then(|(key, json)| self.day(&key, "last_day", json));
        let days = match (first, last) {
            (Some(first), Some(last)) if first > last => {
                self.problem(join(key, "first_day"), format!("first_day {first} is after last_day {last}"));
                None
            }
            (Some(first), Some(last)) => Some(DayRange::inclusive(first, last)),
            _ => None,
        };
        DraftTeam { name, days, weight: self.weight(key, &fields) }
    }

    fn strategies(&mut self, json: &Json) -> Strategies {
        let Some(fields) = self.object("strategies", "strategies", json, STRATEGY_KEYS) else {
            return Strategies::default();
        };
        let named = |name: &str| fields.get(name).map(|json| (join("strategies", name), *json));
        let profile = named("profile").and_then(|(key, json)| self.word(&key, json));
        let mut strategies = profile.unwrap_or(Profile::Baseline).strategies(DEFAULT_CHUNK_SIZE);
        if let Some(forwarding) = named("forwarding").and_then(|(key, json)| self.word(&key, json)) {
            strategies.forwarding = forwarding;
        }
        if let Some(chunking) = named("chunking").and_then(|(key, json)| self.word(&key, json)) {
            strategies.chunking = chunking;
        }
        if let Some(fairness) = named("fairness").and_then(|(key, json)| self.word(&key, json)) {
            strategies.fairness = fairness;
        }
        if let Some(rows) = named("chunk_size").and_then(|(key, json)| self.whole(&key, &CHUNK_SIZE, json)) {
            strategies.chunk_size = rows as u32;
        }
        if let Some(hedging) = named("hedging").and_then(|(key, json)| self.word(&key, json)) {
            strategies.hedging = hedging;
        }
        strategies
    }

    fn limits(&mut self, json: &Json) -> Limits {
        let mut limits = Limits::default();
        self.bounded("limits", json, Limits::BOUNDS, |key, value| {
            limits.set(key, value);
        });
        limits
    }

    fn cache(&mut self, json: &Json) -> CacheLimits {
        let mut cache = CacheLimits::default();
        self.bounded("cache", json, CacheLimits::BOUNDS, |key, value| {
            cache.set(key, value);
        });
        cache
    }

    fn bounded(&mut self, key: &str, json: &Json, bounds: &[Bound], mut set: impl FnMut(&str, u64)) {
        let known: Vec<&str> = bounds.iter().map(|bound| bound.key).collect();
        let fields = self.object(key, key, json, &known).unwrap_or_default();
        for bound in bounds {
            if let Some(json) = fields.get(bound.key)
                && let Some(value) = self.whole(&join(key, bound.key), bound, json)
            {
                set(bound.key, value);
            }
        }
    }

    fn clients(&mut self, json: &Json) -> BTreeMap<String, f64> {
        let entries = self.entries("clients", "clients", json).unwrap_or_default();
        let mut clients = BTreeMap::new();
        for (client, json) in entries {
            if let Some(weight) = self.weight_of(&join("clients", client), json) {
                clients.insert(client.to_owned(), weight);
            }
        }
        clients
    }
}
