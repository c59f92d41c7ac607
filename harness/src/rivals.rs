//! Clients that share a node: light ones that ask for little at their own times, and one that asks for everything.
//!
//! Light clients are timed from when they meant to ask, however long the answer before took. No question is asked twice, so
//! that no cache helps. They run in whatever time their runtime has: tests use them in virtual time, [`crate::fairness`]
//! and [`crate::abandon`] against processes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use overlay::client::{Client, ClientError};
use overlay::day::Day;
use overlay::plan::Query;
use overlay::predicate::{Predicate, Words};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt;

/// What matches nearly everything, and never the same twice.
pub(crate) fn never_asked_before(parameter: Option<&str>) -> Predicate {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let min = format!("0.{:09}", NEXT.fetch_add(1, Ordering::Relaxed) % 1_000_000_000);
    Words { parameter, min: Some(&min), ..Words::default() }.resolve().expect("a number below one")
}

/// A few rows from the days where one team ends and the other begins.
pub fn light() -> Query {
    Query {
        predicate: never_asked_before(Some("PM2.5")),
        date_start: Day::from_number(20200820).ok(),
        date_end: Day::from_number(20200821).ok(),
        limit: Some(16),
        ..Query::default()
    }
}

/// All rows of all days.
pub fn heaviest() -> Query {
    Query { predicate: never_asked_before(None), ..Query::default() }
}

/// When light clients ask.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// Between two questions of one client.
    pub every: Duration,
    /// From the first question to the last.
    pub lasts: Duration,
}

impl Schedule {
    /// Questions of one client.
    pub fn questions(&self) -> u64 {
        self.lasts.div_duration_f64(self.every).ceil() as u64
    }
}

/// What light clients saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of right answers and failures alike, from when they meant to ask.
    pub latencies: Vec<Duration>,
    /// Questions that were answered, by client.
    pub answered: BTreeMap<usize, u64>,
    /// Questions that failed, by what was said.
    pub failed: BTreeMap<String, u64>,
}

impl Seen {
    /// Of a hundred questions this many were answered sooner.
    ///
    /// # Panics
    /// If nothing was asked.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        sorted[sorted.len() * percent / 100]
    }
}

/// Light clients, each on the connection that it is given, for as long as the schedule lasts.
pub async fn light_clients(clients: Vec<Client>, schedule: Schedule) -> Seen {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (start, count) = (Instant::now(), clients.len() as u32);
    let mut asking = JoinSet::new();
    for (number, client) in clients.into_iter().enumerate() {
        let first = start + schedule.every * number as u32 / count;
        asking.spawn(light_client(client, number, first, schedule, seen.clone()));
    }
    asking.join_all().await;
    std::mem::take(&mut lock(&seen))
}

async fn light_client(
    client: Client,
    number: usize,
    first: Instant,
    schedule: Schedule,
    seen: Arc<Mutex<Seen>>,
) {
    for question in 0..schedule.questions() {
        let due = first + schedule.every * question as u32;
        tokio::time::sleep_until(due).await;
        let answer = client.query(&light()).await;
        let mut seen = lock(&seen);
        seen.latencies.push(due.elapsed());
        match answer {
            Ok(_) => *seen.answered.entry(number).or_default() += 1,
            Err(error) => *seen.failed.entry(error.to_string()).or_default() += 1,
        }
    }
}

/// What the connections of a flood saw.
#[derive(Clone, Debug, Default)]
pub struct Flooded {
    /// Answers.
    pub answered: u64,
    /// Refusals for overload.
    pub refused: u64,
    /// Of these, those that did not say when to come back.
    pub without_retry_info: u64,
    /// First retries, each at the time that the refusal named.
    pub retried: u64,
    /// Of these, those that were answered.
    pub in_at_first_retry: u64,
    /// Whatever else failed.
    pub failed: u64,
}

/// Connections of one client of which each asks anew when it has its answer. Dropping it hangs up.
#[must_use = "dropping a flood ends it"]
pub struct Flood {
    seen: Arc<Mutex<Flooded>>,
    _asking: JoinSet<()>,
}

impl Flood {
    /// Begins to ask on every connection. Whoever is refused comes back at the time that it is told.
    pub fn start<A>(connections: Vec<Client>, ask: impl Fn(Client) -> A + Clone + Send + 'static) -> Self
    where
        A: Future<Output = Result<(), ClientError>> + Send,
    {
        let seen = Arc::new(Mutex::new(Flooded::default()));
        let mut asking = JoinSet::new();
        for client in connections {
            let (seen, ask) = (seen.clone(), ask.clone());
            asking.spawn(async move {
                let mut retries = 0_u32;
                loop {
                    let answer = ask(client.clone()).await;
                    let wait = lock(&seen).note(&answer, retries);
                    retries = if answer.is_ok() { 0 } else { retries + 1 };
                    if let Some(wait) = wait {
                        tokio::time::sleep(wait).await;
                    }
                }
            });
        }
        Flood { seen, _asking: asking }
    }

    /// What it has seen since it began, or since it was last taken.
    pub fn take_seen(&self) -> Flooded {
        std::mem::take(&mut lock(&self.seen))
    }
}

impl Flooded {
    /// Counts an answer; when to ask again if it was none.
    fn note(&mut self, answer: &Result<(), ClientError>, retries: u32) -> Option<Duration> {
        self.retried += u64::from(retries == 1);
        let Err(error) = answer else {
            self.answered += 1;
            self.in_at_first_retry += u64::from(retries == 1);
            return None;
        };
        let status = match error {
            ClientError::Status { status, .. } if status.code() == Code::ResourceExhausted => status,
            _ => {
                self.failed += 1;
                return Some(Duration::from_secs(1));
            }
        };
        self.refused += 1;
        let wait = status.get_details_retry_info().and_then(|info| info.retry_delay);
        self.without_retry_info += u64::from(wait.is_none());
        Some(wait.unwrap_or(Duration::from_secs(1)))
    }
}

/// A client that asks and goes away without a word, its connection with it: from the heaviest query while it runs, with a
/// result that it never reads, after a chunk, or in the middle of one, by turns.
pub async fn vanish(client: Client, number: u64) {
    /// It is asked, and not yet answered.
    const SOON: Duration = Duration::from_millis(5);
    if number.is_multiple_of(4) {
        // What the node says concerns nobody any more, here and below.
        drop(tokio::time::timeout(SOON, client.query(&heaviest())).await);
        return;
    }
    let Ok(result) = client.query(&Query { limit: None, ..light() }).await else {
        return;
    };
    match number % 4 {
        1 => {}
        2 => drop(client.chunk(&result, 0).await),
        _ => drop(tokio::time::timeout(SOON, client.chunk(&result, 0)).await),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
