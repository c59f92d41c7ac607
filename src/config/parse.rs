//! JSON tree to draft: one value at a time, each problem noted with its key, nothing given up early.
//!
//! A draft has `None` where a value could not be read, so that `check` does not complain about it twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use super::json::{Json, cut};
use super::limits::Bound;
use super::problem::nearest;
use super::{
    CacheLimits, Chunking, DEFAULT_CHUNK_SIZE, Fairness, Forwarding, Limits, Parsed, Problem, Problems,
    Profile, Role, Strategies, WEIGHT_RANGE, check,
};
use crate::day::{Day, DayRange};

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
    "$schema",
];

/// Keys of a process; all but `weight` are required.
pub(super) const PROCESS_KEYS: &[&str] = &["id", "role", "team", "host", "port", "neighbors", "weight"];

/// Keys of a team; all but `weight` are required.
pub(super) const TEAM_KEYS: &[&str] = &["name", "first_day", "last_day", "weight"];

/// Keys of the strategies.
pub(super) const STRATEGY_KEYS: &[&str] = &["profile", "forwarding", "chunking", "fairness", "chunk_size"];

/// Characters of an id or a name.
const NAME_LENGTH: usize = 64;

/// Reads and checks a configuration.
pub(super) fn parse(text: &str, file: &str) -> Result<Parsed, Problems> {
    let mut reader = Reader { file, problems: Vec::new(), warnings: Vec::new() };
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
    pub(super) processes: Vec<DraftProcess>,
    /// `None`: the file says nothing about teams.
    pub(super) teams: Option<Vec<DraftTeam>>,
    pub(super) strategies: Strategies,
    pub(super) limits: Limits,
    pub(super) cache: CacheLimits,
    pub(super) replicas: Option<u32>,
    pub(super) clients: BTreeMap<String, f64>,
    pub(super) dataset_root: Option<PathBuf>,
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

/// A team as far as it could be read.
pub(super) struct DraftTeam {
    pub(super) name: Option<String>,
    pub(super) days: Option<DayRange>,
    pub(super) weight: f64,
}

/// Reads values of one file and collects what is wrong with them.
pub(super) struct Reader<'a> {
    file: &'a str,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
}

/// The values of an object by key.
type Fields<'j> = BTreeMap<&'j str, &'j Json>;

impl Reader<'_> {
    pub(super) fn problem(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.problems.push(Problem::new(self.file, key, what));
    }

    pub(super) fn warn(&mut self, key: impl Into<String>, what: impl Into<String>) {
        self.warnings.push(Problem::new(self.file, key, what));
    }

    fn draft(&mut self, json: &Json) -> Option<Draft> {
        let fields = self.object("", "the configuration", json, FILE_KEYS)?;
        if let Some(schema) = fields.get("$schema") {
            self.text("$schema", "$schema", schema);
        }
        let processes = self.required("", &fields, "processes");
        let replicas = Bound { key: "replicas", least: 1, most: u64::from(u32::MAX) };
        Some(Draft {
            processes: processes.map(|json| self.processes(json)).unwrap_or_default(),
            teams: fields.get("teams").map(|json| self.teams(json)),
            strategies: fields.get("strategies").map(|json| self.strategies(json)).unwrap_or_default(),
            limits: fields.get("limits").map(|json| self.limits(json)).unwrap_or_default(),
            cache: fields.get("cache").map(|json| self.cache(json)).unwrap_or_default(),
            replicas: fields
                .get("replicas")
                .and_then(|json| self.whole("replicas", &replicas, json))
                .map(|count| count as u32),
            clients: fields.get("clients").map(|json| self.clients(json)).unwrap_or_default(),
            dataset_root: fields
                .get("dataset_root")
                .and_then(|json| self.text("dataset_root", "dataset_root", json))
                .map(PathBuf::from),
        })
    }

    fn processes(&mut self, json: &Json) -> Vec<DraftProcess> {
        let entries = self.entries("processes", "processes", json).unwrap_or_default();
        entries.into_iter().map(|(id, json)| self.process(id, json)).collect()
    }

    fn process(&mut self, id: &str, json: &Json) -> DraftProcess {
        let key = join("processes", id);
        self.check_name(&key, "id", id);
        let fields = self.object(&key, "the process", json, PROCESS_KEYS);
        let complete = fields.is_some();
        let fields = fields.unwrap_or_default();
        let field = |reader: &mut Self, name: &'static str| {
            let json = if complete { reader.required(&key, &fields, name) } else { None };
            json.map(|json| (join(&key, name), json))
        };
        if let Some((key, json)) = field(self, "id")
            && let Some(written) = self.text(&key, "id", json)
            && written != id
        {
            self.problem(
                &key,
                format!("id `{}` differs from its key `{}` in processes", cut(written), cut(id)),
            );
        }
        DraftProcess {
            id: id.to_owned(),
            role: field(self, "role")
                .and_then(|(key, json)| self.word(&key, "role", json, Role::ALL, Role::name)),
            team: field(self, "team").and_then(|(key, json)| self.name(&key, "team", json)),
            host: field(self, "host").and_then(|(key, json)| self.host(&key, json)),
            port: field(self, "port")
                .and_then(|(key, json)| {
                    self.whole(&key, &Bound { key: "port", least: 1, most: 65_535 }, json)
                })
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
                Some(id) => self.warn(key, format!("neighbour `{}` is listed twice", cut(id))),
                None => complete = false,
            }
        }
        complete.then_some(neighbours)
    }

    fn teams(&mut self, json: &Json) -> Vec<DraftTeam> {
        let items = self.array("teams", "teams", json).unwrap_or_default();
        items.iter().enumerate().map(|(index, item)| self.team(&format!("teams[{index}]"), item)).collect()
    }

    fn team(&mut self, key: &str, json: &Json) -> DraftTeam {
        let Some(fields) = self.object(key, "the team", json, TEAM_KEYS) else {
            return DraftTeam { name: None, days: None, weight: 1.0 };
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
        let named = |name: &'static str| fields.get(name).map(|json| (join("strategies", name), *json));
        let profile = named("profile")
            .and_then(|(key, json)| self.word(&key, "profile", json, Profile::ALL, Profile::name));
        let mut strategies = profile.unwrap_or(Profile::Baseline).strategies(DEFAULT_CHUNK_SIZE);
        if let Some((key, json)) = named("forwarding")
            && let Some(forwarding) = self.word(&key, "forwarding", json, Forwarding::ALL, Forwarding::name)
        {
            strategies.forwarding = forwarding;
        }
        if let Some((key, json)) = named("chunking")
            && let Some(chunking) = self.word(&key, "chunking", json, Chunking::ALL, Chunking::name)
        {
            strategies.chunking = chunking;
        }
        if let Some((key, json)) = named("fairness")
            && let Some(fairness) = self.word(&key, "fairness", json, Fairness::ALL, Fairness::name)
        {
            strategies.fairness = fairness;
        }
        let bound = Bound { key: "chunk_size", least: 1, most: 1_000_000 };
        if let Some((key, json)) = named("chunk_size")
            && let Some(chunk_size) = self.whole(&key, &bound, json)
        {
            strategies.chunk_size = chunk_size as u32;
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

    fn weight(&mut self, key: &str, fields: &Fields) -> f64 {
        let weight = fields.get("weight").and_then(|json| self.weight_of(&join(key, "weight"), json));
        weight.unwrap_or(1.0)
    }

    fn weight_of(&mut self, key: &str, json: &Json) -> Option<f64> {
        let (least, most) = WEIGHT_RANGE;
        let weight = match json {
            Json::Whole(value) => Some(*value as f64),
            Json::Number(value) => Some(*value),
            _ => None,
        };
        let inside = weight.filter(|weight| (least..=most).contains(weight));
        if inside.is_none() {
            self.problem(
                key,
                format!(
                    "weight {json} out of range: must be a number between {least} and {most}, both inclusive"
                ),
            );
        }
        inside
    }

    fn day(&mut self, key: &str, noun: &str, json: &Json) -> Option<Day> {
        let day = match json {
            Json::Whole(number) => Day::from_number(*number),
            Json::Text(text) => text.parse(),
            other => {
                self.problem(key, format!("{noun} is {other}: must be a day written YYYYMMDD"));
                return None;
            }
        };
        day.map_err(|invalid| self.problem(key, format!("{noun} {invalid}"))).ok()
    }

    fn host(&mut self, key: &str, json: &Json) -> Option<String> {
        let text = self.text(key, "host", json)?;
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        let is_address = bare.parse::<Ipv6Addr>().is_ok() || text.parse::<Ipv4Addr>().is_ok();
        let is_name = !text.is_empty()
            && text.len() <= 253
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
        if is_address || is_name {
            return Some(if is_name { text } else { bare }.to_owned());
        }
        self.problem(key, format!("host `{}` is neither an IP address nor a host name", cut(text)));
        None
    }

    fn name(&mut self, key: &str, noun: &str, json: &Json) -> Option<String> {
        let text = self.text(key, noun, json)?;
        self.check_name(key, noun, text).then(|| text.to_owned())
    }

    /// Ids and names stand in hops, metrics and messages, where blanks would make them ambiguous.
    fn check_name(&mut self, key: &str, noun: &str, text: &str) -> bool {
        let length = text.chars().count();
        let usable = (1..=NAME_LENGTH).contains(&length)
            && !text.chars().any(|letter| letter.is_whitespace() || letter.is_control());
        if !usable {
            self.problem(
                key,
                format!(
                    "{noun} `{}` is unusable: must have 1 to {NAME_LENGTH} characters without blanks",
                    cut(text)
                ),
            );
        }
        usable
    }

    fn word<T: Copy>(
        &mut self,
        key: &str,
        noun: &str,
        json: &Json,
        all: &[T],
        name: fn(T) -> &'static str,
    ) -> Option<T> {
        let text = self.text(key, noun, json)?;
        let word = all.iter().copied().find(|word| name(*word) == text);
        if word.is_none() {
            let names: Vec<&str> = all.iter().copied().map(name).collect();
            self.problem(key, format!("unknown {noun} `{}`: must be one of {}", cut(text), names.join(", ")));
        }
        word
    }

    fn whole(&mut self, key: &str, bound: &Bound, json: &Json) -> Option<u64> {
        let Bound { key: noun, least, most } = bound;
        match json {
            Json::Whole(value) if (least..=most).contains(&value) => return Some(*value),
            Json::Whole(_) | Json::Negative(_) => self.problem(
                key,
                format!("{noun} {json} out of range: must be between {least} and {most}, both inclusive"),
            ),
            other => self.problem(
                key,
                format!(
                    "{noun} is {other}: must be a whole number between {least} and {most}, both inclusive"
                ),
            ),
        }
        None
    }

    fn text<'j>(&mut self, key: &str, noun: &str, json: &'j Json) -> Option<&'j str> {
        if let Json::Text(text) = json {
            return Some(text);
        }
        self.problem(key, format!("{noun} is {json}: must be a text"));
        None
    }

    fn array<'j>(&mut self, key: &str, noun: &str, json: &'j Json) -> Option<&'j [Json]> {
        if let Json::Array(items) = json {
            return Some(items);
        }
        self.problem(key, format!("{noun} is {json}: must be an array"));
        None
    }

    /// An object whose keys are known beforehand.
    fn object<'j>(&mut self, key: &str, noun: &str, json: &'j Json, known: &[&str]) -> Option<Fields<'j>> {
        let entries = self.entries(key, noun, json)?;
        for (name, _) in &entries {
            if !known.contains(name) {
                let advice = match nearest(name, known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("keys are {}", known.join(", ")),
                };
                self.problem(join(key, name), format!("unknown key `{}`: {advice}", cut(name)));
            }
        }
        Some(entries.into_iter().collect())
    }

    /// An object whose keys are names; of a key written twice the first counts.
    fn entries<'j>(&mut self, key: &str, noun: &str, json: &'j Json) -> Option<Vec<(&'j str, &'j Json)>> {
        let Json::Object(entries) = json else {
            self.problem(key, format!("{noun} is {json}: must be an object"));
            return None;
        };
        let mut seen = BTreeSet::new();
        let mut first = Vec::new();
        for (name, value) in entries {
            if seen.insert(name) {
                first.push((name.as_str(), value));
            } else {
                self.problem(join(key, name), format!("key `{}` is written twice", cut(name)));
            }
        }
        Some(first)
    }

    fn required<'j>(&mut self, key: &str, fields: &Fields<'j>, name: &'static str) -> Option<&'j Json> {
        let json = fields.get(name).copied();
        if json.is_none() {
            self.problem(join(key, name), format!("key `{name}` is missing"));
        }
        json
    }
}

fn join(key: &str, name: &str) -> String {
    let name = cut(name);
    if key.is_empty() { name } else { format!("{key}.{name}") }
}
