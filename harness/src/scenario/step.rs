//! The steps of a run: what they are, how they read, and how drafts become them.

use std::fmt;
use std::time::Duration;

use super::LEASE_MS;
use super::draw::{Draft, Kind};
use crate::fault::{Fault, Lie};
use crate::oracle::{GroupKey, Measure, Oracle, OracleQuery, random_query};
use crate::topology::Topology;

/// Faults that go on at once, at most: more, and nothing is left to be right about.
const FAULTS: usize = 2;

/// One thing that is done to an overlay.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Asks these at once, each by a client of its own, and reads every chunk.
    Ask(Vec<Question>),
    /// Asks, and keeps the result for later steps.
    Open(Box<Question>),
    /// Reads chunks of the result that an earlier step kept, or the one after the last, which is none. An index beyond
    /// that counts on from the first.
    Read {
        /// That step, from 1.
        opened_at: usize,
        /// How.
        way: Way,
        /// Which chunks, in this order; a stream begins at the first of them.
        indices: Vec<u32>,
    },
    /// Gives a kept result back.
    Cancel {
        /// The step that kept it, from 1.
        opened_at: usize,
    },
    /// Begins a fault.
    Inject(Fault),
    /// Asks these at once, while a node takes other data: begins [`Fault::Replace`].
    Replace {
        /// The node.
        node: String,
        /// When, since they were asked.
        after: Duration,
        /// Each by a client of its own, which reads every chunk.
        questions: Vec<Question>,
    },
    /// Ends a fault. When none is left, the overlay has to get well.
    Heal(Fault),
    /// Lets time pass.
    Wait(Duration),
    /// Asks, and goes away while the answer is on its way.
    Vanish(Box<Question>, Duration),
    /// Reads a kept result from its beginning, by another connection, and goes away meanwhile.
    VanishReading {
        /// The step that kept it, from 1.
        opened_at: usize,
        /// How.
        way: Way,
        /// When.
        after: Duration,
    },
    /// Tells a node to stop, waits until it is gone, and starts it again.
    Restart {
        /// The node.
        node: String,
    },
    /// Asks everything of every node, and looks whether anything is still held that nobody reads.
    Rest,
}

/// How chunks are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One at a time.
    Chunks,
    /// All from one on, in a stream.
    Stream,
    /// One at a time; the query is asked again where the node has lost the result.
    Resume,
}

/// A query, where it is asked and how.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// The node asked.
    pub node: String,
    /// In which contract and encoding.
    pub form: Form,
    /// Which rows. A node other than the leader answers for its own team, which stands here then.
    pub query: OracleQuery,
    /// Groups instead of rows.
    pub aggregate: Option<(Measure, Vec<GroupKey>)>,
    /// Rows of a chunk, if the question says so.
    pub chunk_rows: Option<u32>,
    /// Whether days may be missing.
    pub allow_partial: bool,
}

/// The contract and the encoding of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Ours, record batches.
    Arrow,
    /// Ours, JSON.
    Json,
    /// The old contract.
    Old,
}

/// Makes steps of drafts, and what every run ends with: all is healed, and the overlay comes to rest.
pub(super) fn resolve(drafts: &[Draft], topology: &Topology, oracle: &Oracle) -> Vec<Step> {
    let mut resolving = Resolving {
        topology,
        oracle,
        steps: Vec::new(),
        asked: Vec::new(),
        opened: Vec::new(),
        faults: Vec::new(),
    };
    for draft in drafts {
        resolving.add(draft);
    }
    let Resolving { mut steps, faults, .. } = resolving;
    steps.extend(faults.into_iter().map(Step::Heal));
    steps.push(Step::Rest);
    steps
}

struct Resolving<'a> {
    topology: &'a Topology,
    oracle: &'a Oracle,
    steps: Vec<Step>,
    /// Numbers of the steps that ask.
    asked: Vec<usize>,
    /// Numbers of the steps that keep a result.
    opened: Vec<usize>,
    /// What goes on, the oldest first.
    faults: Vec<Fault>,
}

impl Resolving<'_> {
    /// A draft that can be about nothing here becomes no step.
    fn add(&mut self, draft: &Draft) {
        let rng = &mut fastrand::Rng::with_seed(draft.seed);
        let step = match draft.kind {
            Kind::Ask => Some(Step::Ask(match rng.choice(&self.asked).filter(|_| rng.u8(..4) == 0) {
                Some(&asked_at) => self.asked_again(asked_at),
                None => self.new_questions(draft, rng),
            })),
            // Only while nothing is wrong: what a fault costs one of them, it costs all that wait.
            Kind::Flood => self.faults.is_empty().then(|| {
                let questions = (0..rng.usize(8..24)).map(|_| self.question(draft, rng));
                Step::Ask(questions.collect())
            }),
            Kind::Open => {
                let question = self.question(draft, rng);
                self.opened.push(self.steps.len() + 1);
                let form = ours(question.form);
                Some(Step::Open(Box::new(Question { form, ..question })))
            }
            Kind::Read => rng.choice(&self.opened).copied().map(|opened_at| {
                let indices = (0..rng.usize(1..6)).map(|_| rng.u32(..64)).collect();
                Step::Read { opened_at, way: way(rng), indices }
            }),
            Kind::Cancel => rng.choice(&self.opened).map(|&opened_at| Step::Cancel { opened_at }),
            Kind::Fault => self.begin_or_heal(|topology| fault(rng, topology)),
            Kind::Replace => {
                match self.begin_or_heal(|topology| Some(Fault::replace(any_node(rng, topology)))) {
                    Some(Step::Inject(Fault::Replace { node })) => {
                        self.replace(node, draft, rng);
                        None
                    }
                    step => step,
                }
            }
            Kind::Crash => self.begin_or_heal(|topology| Some(Fault::crash(any_node(rng, topology)))),
            Kind::Heal => self.heal(),
            Kind::Vanish => {
                let after = on_the_way(rng);
                match rng.choice(&self.opened).filter(|_| rng.bool()) {
                    Some(&opened_at) => Some(Step::VanishReading { opened_at, way: way(rng), after }),
                    None => Some(Step::Vanish(Box::new(self.question(draft, rng)), after)),
                }
            }
            Kind::Restart => self.restart(rng),
            Kind::Wait => Some(Step::Wait(Duration::from_millis(rng.u64(1..LEASE_MS * 3 / 2)))),
        };
        self.steps.extend(step);
    }

    fn begin_or_heal(&mut self, fault: impl FnOnce(&Topology) -> Option<Fault>) -> Option<Step> {
        if self.faults.len() == FAULTS {
            return self.heal();
        }
        let fault = fault(self.topology)?;
        if self.faults.iter().any(|other| *other == fault || exclude_each_other(other, &fault)) {
            return None;
        }
        self.faults.push(fault.clone());
        Some(Step::Inject(fault))
    }

    /// Has a node take other data while somebody asks, and then all of a result read that was opened before.
    fn replace(&mut self, node: String, draft: &Draft, rng: &mut fastrand::Rng) {
        let everything = Question {
            node: self.topology.leader().to_owned(),
            form: Form::Json,
            query: OracleQuery::default(),
            aggregate: None,
            chunk_rows: None,
            allow_partial: false,
        };
        self.steps.push(Step::Open(Box::new(everything)));
        let opened_at = self.steps.len();
        self.opened.push(opened_at);
        let (after, questions) = (on_the_way(rng), self.questions(draft, rng));
        self.steps.push(Step::Replace { node, after, questions });
        self.steps.push(Step::Read { opened_at, way: Way::Stream, indices: vec![0] });
    }

    /// Only while nothing is wrong, so that it is seen whether all find it again.
    fn restart(&self, rng: &mut fastrand::Rng) -> Option<Step> {
        let node = any_node(rng, self.topology).to_owned();
        self.faults.is_empty().then_some(Step::Restart { node })
    }

    fn heal(&mut self) -> Option<Step> {
        (!self.faults.is_empty()).then(|| Step::Heal(self.faults.remove(0)))
    }

    /// What an earlier step asked, of which caches may know something.
    fn asked_again(&self, asked_at: usize) -> Vec<Question> {
        match &self.steps[asked_at - 1] {
            Step::Ask(questions) => questions.clone(),
            _ => Vec::new(),
        }
    }

    /// Questions that later steps may ask again.
    fn new_questions(&mut self, draft: &Draft, rng: &mut fastrand::Rng) -> Vec<Question> {
        self.asked.push(self.steps.len() + 1);
        self.questions(draft, rng)
    }

    /// One question; sometimes several at once, some of them equal.
    fn questions(&self, draft: &Draft, rng: &mut fastrand::Rng) -> Vec<Question> {
        let mut questions = vec![self.question(draft, rng)];
        if draft.extras.several {
            for _ in 0..rng.usize(1..4) {
                let again = rng.choice(&questions).filter(|_| rng.bool()).cloned();
                questions.push(again.unwrap_or_else(|| self.question(draft, rng)));
            }
        }
        questions
    }

    fn question(&self, draft: &Draft, rng: &mut fastrand::Rng) -> Question {
        let extras = draft.extras;
        let any = any_node(rng, self.topology);
        let node = if extras.elsewhere { any } else { self.topology.leader() };
        let mut query = without_parts(random_query(rng, self.oracle), &draft.parts);
        let own = self.topology.nodes.iter().find(|other| other.id == node && node != self.topology.leader());
        if let Some(own) = own {
            query.team = Some(own.team.clone());
        }
        let form = [Form::Arrow, Form::Json, Form::Old][rng.usize(..3)];
        let aggregate = extras.aggregate.then(|| groups(rng));
        Question {
            node: node.to_owned(),
            // The old contract has no chunks of one's own, and nothing partial.
            chunk_rows: (form != Form::Old && extras.chunked).then(|| rng.u32(1..400)),
            allow_partial: form != Form::Old && extras.partial,
            form: if aggregate.is_some() { ours(form) } else { form },
            query,
            aggregate,
        }
    }
}

/// Ours, where the old contract cannot say it.
fn ours(form: Form) -> Form {
    if form == Form::Old { Form::Json } else { form }
}

fn any_node<'a>(rng: &mut fastrand::Rng, topology: &'a Topology) -> &'a str {
    &topology.nodes[rng.usize(..topology.nodes.len())].id
}

fn way(rng: &mut fastrand::Rng) -> Way {
    [Way::Chunks, Way::Stream, Way::Resume][rng.usize(..3)]
}

fn groups(rng: &mut fastrand::Rng) -> (Measure, Vec<GroupKey>) {
    let measure = [Measure::Value, Measure::RawConcentration, Measure::Aqi][rng.usize(..3)];
    let mut keys = GroupKey::ALL.to_vec();
    rng.shuffle(&mut keys);
    keys.truncate(rng.usize(..4));
    (measure, keys)
}

/// A fault between neighbours, or of one node.
fn fault(rng: &mut fastrand::Rng, topology: &Topology) -> Option<Fault> {
    let edges: Vec<_> = topology.edges.iter().collect();
    let (left, right) = rng.choice(edges)?;
    let node = any_node(rng, topology);
    Some(match rng.u8(..14) {
        0 => Fault::partition(left, right),
        1 => Fault::partition_one_way(left, right),
        2 => Fault::partition_one_way(right, left),
        3 => Fault::delay(left, right, Duration::from_millis(rng.u64(1..500))),
        // Answers come after others were asked in their stead.
        4 => Fault::delay(left, right, Duration::from_millis(rng.u64(500..8_000))),
        5 => Fault::loss(left, right, rng.u8(1..40)),
        6 => Fault::hang(node),
        7 | 8 => Fault::revise(node),
        9..=11 => Fault::lie(node, Lie::ALL[rng.usize(..Lie::ALL.len())]),
        _ => Fault::slow(node, rng.u64(20_000..1_000_000)),
    })
}

/// A node tells one lie at a time, and has its own data or the others.
fn exclude_each_other(left: &Fault, right: &Fault) -> bool {
    let with_others = |fault: &Fault| match fault {
        Fault::Revise { node } | Fault::Replace { node } => Some(node.clone()),
        _ => None,
    };
    match (left, right) {
        (Fault::Lie { node: left, .. }, Fault::Lie { node: right, .. }) => left == right,
        _ => with_others(left).is_some_and(|node| with_others(right) == Some(node)),
    }
}

/// A time from before the first hop to after the last.
fn on_the_way(rng: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(rng.u64(0..30))
}

/// The query without the parts whose flag is off; at first all are on.
fn without_parts(query: OracleQuery, keep: &[bool; 14]) -> OracleQuery {
    let &[
        parameter,
        min,
        max,
        date_start,
        date_end,
        lat_min,
        lat_max,
        lon_min,
        lon_max,
        team,
        site,
        agency,
        text,
        limit,
    ] = keep;
    OracleQuery {
        parameter: query.parameter.filter(|_| parameter),
        min: query.min.filter(|_| min),
        max: query.max.filter(|_| max),
        date_start: query.date_start.filter(|_| date_start),
        date_end: query.date_end.filter(|_| date_end),
        lat_min: query.lat_min.filter(|_| lat_min),
        lat_max: query.lat_max.filter(|_| lat_max),
        lon_min: query.lon_min.filter(|_| lon_min),
        lon_max: query.lon_max.filter(|_| lon_max),
        team: query.team.filter(|_| team),
        site: query.site.filter(|_| site),
        agency: query.agency.filter(|_| agency),
        text: query.text.filter(|_| text),
        limit: query.limit.filter(|_| limit),
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Ask(questions) => write!(formatter, "{}", at_once(questions)),
            Step::Replace { node, after, questions } => {
                write!(formatter, "{}; after {after:?} replace the data of {node}", at_once(questions))
            }
            Step::Open(question) => write!(formatter, "open {question}"),
            Step::Read { opened_at, way, indices } => {
                write!(formatter, "read chunks {indices:?} (modulo their number) of step {opened_at} {way}")
            }
            Step::VanishReading { opened_at, way, after } => {
                write!(formatter, "vanish after {after:?} from reading step {opened_at} {way}")
            }
            Step::Cancel { opened_at } => write!(formatter, "cancel the result of step {opened_at}"),
            Step::Inject(fault) => write!(formatter, "inject {fault}"),
            Step::Heal(fault) => write!(formatter, "heal {fault}"),
            Step::Wait(duration) => write!(formatter, "wait {duration:?}"),
            Step::Vanish(question, after) => write!(formatter, "vanish after {after:?} from {question}"),
            Step::Restart { node } => write!(formatter, "stop and start {node}"),
            Step::Rest => write!(formatter, "come to rest"),
        }
    }
}

fn at_once(questions: &[Question]) -> String {
    let questions: Vec<String> = questions.iter().map(ToString::to_string).collect();
    questions.join("; at once ")
}

impl fmt::Display for Way {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Way::Chunks => "one by one",
            Way::Stream => "as a stream from the first of them on",
            Way::Resume => "one by one, resuming",
        })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question { node, form, query, aggregate, chunk_rows, allow_partial } = self;
        match aggregate {
            Some((measure, keys)) => {
                let keys: Vec<&str> = keys.iter().map(|key| key.name()).collect();
                write!(formatter, "aggregate {} by [{}] of", measure.name(), keys.join(", "))?;
            }
            None => write!(formatter, "query")?,
        }
        write!(formatter, " {}", Words(query))?;
        if let Some(rows) = chunk_rows {
            write!(formatter, " chunk_rows={rows}")?;
        }
        if *allow_partial {
            write!(formatter, " allow_partial")?;
        }
        let form = match form {
            Form::Arrow => "Arrow",
            Form::Json => "JSON",
            Form::Old => "the old contract",
        };
        write!(formatter, " at {node} in {form}")
    }
}

/// A query as people say it: `PM2.5 5..35 days=20200821..20200824`.
struct Words<'a>(&'a OracleQuery);

impl fmt::Display for Words<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OracleQuery { parameter, min, max, date_start, date_end, .. } = self.0;
        write!(formatter, "{}", parameter.as_deref().unwrap_or("everything"))?;
        range(formatter, " ", min.as_ref(), max.as_ref())?;
        range(formatter, " days=", date_start.as_ref(), date_end.as_ref())?;
        let OracleQuery { lat_min, lat_max, lon_min, lon_max, .. } = self.0;
        range(formatter, " lat=", lat_min.as_ref(), lat_max.as_ref())?;
        range(formatter, " lon=", lon_min.as_ref(), lon_max.as_ref())?;
        let OracleQuery { team, site, agency, text, limit, .. } = self.0;
        for (name, word) in [("team", team), ("site", site), ("agency", agency), ("text", text)] {
            if let Some(word) = word {
                write!(formatter, " {name}={word:?}")?;
            }
        }
        limit.iter().try_for_each(|limit| write!(formatter, " limit={limit}"))
    }
}

fn range<T: fmt::Display>(
    formatter: &mut fmt::Formatter<'_>,
    name: &str,
    first: Option<&T>,
    last: Option<&T>,
) -> fmt::Result {
    let bound = |bound: Option<&T>| bound.map(ToString::to_string).unwrap_or_default();
    match (first, last) {
        (None, None) => Ok(()),
        _ => write!(formatter, "{name}{}..{}", bound(first), bound(last)),
    }
}
