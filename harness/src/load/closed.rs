//! The closed loop, driven by goose: so many users, each asking again when it has its answer.
//!
//! goose starts and stops the users, keeps its own metrics of every RPC and writes its own report of them. A
//! closed loop slows down with the node that it measures; `open` does not.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use goose::config::GooseConfiguration;
use goose::goose::{GooseUser, Scenario, Transaction as GooseTransaction};
use goose::{GooseAttack, GooseError};
use tokio::sync::Mutex;
use tonic::Code;

use super::mix::Mix;
use super::outcome::{Call, Failure, Outcome};
use super::recorder::Recorder;
use super::user::User;

/// goose keeps the state of a run for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// Most that a rejected user waits, whatever the node asks for, so that a run ends in time.
const MAX_BACK_OFF: Duration = Duration::from_secs(5);

/// How long a user waits when a node that is full does not say when to come back.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The users of a run, and what is counted of them.
pub(super) struct Crowd {
    /// Each with its connection.
    pub(super) users: Vec<User>,
    /// Of everything they do.
    pub(super) recorder: Recorder,
}

/// What ends the loop.
pub(super) enum Loop {
    /// So many requests of the benchmark, whoever makes them.
    Benchmark {
        /// Of all users together.
        requests: u64,
        /// The filter.
        query_params: String,
        /// Whether to read every chunk.
        all_chunks: bool,
    },
    /// A mix, until the time is up.
    Mix(Mix, Duration),
}

/// Runs the loop and writes goose's reports, each in the format of its file's ending.
pub(super) async fn run(
    crowd: Arc<Crowd>,
    host: &str,
    work: Loop,
    reports: &[PathBuf],
) -> Result<(), GooseError> {
    let _alone = ONE_AT_A_TIME.lock().await;
    let users = crowd.users.len();
    // Everybody starts within a twentieth of a second.
    let mut arguments =
        [format!("--host={host}"), format!("--users={users}"), format!("--increase-rate={}", users * 20)]
            .to_vec();
    // No port is opened to steer the run, nothing is printed: the report is ours.
    arguments.extend(["--no-telnet", "--no-print-metrics", "-qq"].map(String::from));
    arguments.extend(reports.iter().map(|path| format!("--report-file={}", path.display())));
    match &work {
        Loop::Benchmark { .. } => arguments.push("--iterations=1".to_owned()),
        Loop::Mix(_, run_time) => {
            arguments
                .extend([format!("--run-time={}s", run_time.as_secs()), "--no-reset-metrics".to_owned()]);
        }
    }
    let configuration = GooseConfiguration::parse_args_default(&arguments)?;
    let attack = GooseAttack::initialize_with_config(configuration)?.register_scenario(scenario(crowd, work));
    attack.execute().await?;
    Ok(())
}

/// goose knows one transaction, which decides itself what to do: goose's own order would be the same for all users.
fn scenario(crowd: Arc<Crowd>, work: Loop) -> Scenario {
    let (name, transaction) = match work {
        Loop::Benchmark { requests, query_params, all_chunks } => {
            ("benchmark", benchmark(crowd, requests, query_params, all_chunks))
        }
        Loop::Mix(mix, _) => ("mix", turn(crowd, mix)),
    };
    Scenario::new(name).register_transaction(transaction.set_name(name))
}

/// Does the next transaction of the user whose turn it is.
fn turn(crowd: Arc<Crowd>, mix: Mix) -> GooseTransaction {
    let done_before: Arc<[AtomicUsize]> = crowd.users.iter().map(|_| AtomicUsize::new(0)).collect();
    GooseTransaction::new(Arc::new(move |goose| {
        let (crowd, done_before) = (crowd.clone(), done_before.clone());
        Box::pin(async move {
            let number = goose.weighted_users_index;
            let transaction = mix.turn(number, done_before[number].fetch_add(1, Ordering::Relaxed));
            let user = &crowd.users[number];
            let outcome = user.perform(transaction).await;
            done(&crowd, user, outcome, goose).await;
            Ok(())
        })
    }))
}

/// Takes requests from those that are left until none is.
fn benchmark(crowd: Arc<Crowd>, requests: u64, query_params: String, all_chunks: bool) -> GooseTransaction {
    let made = Arc::new(AtomicU64::new(0));
    let query_params: Arc<str> = query_params.into();
    GooseTransaction::new(Arc::new(move |goose| {
        let (crowd, made, query_params) = (crowd.clone(), made.clone(), query_params.clone());
        Box::pin(async move {
            let user = &crowd.users[goose.weighted_users_index];
            while made.fetch_add(1, Ordering::Relaxed) < requests {
                let outcome = user.benchmark(&query_params, all_chunks).await;
                done(&crowd, user, outcome, goose).await;
            }
            Ok(())
        })
    }))
}

/// Counts an outcome, tells goose of its calls, and backs off if the node was full.
async fn done(crowd: &Crowd, user: &User, outcome: Outcome, goose: &mut GooseUser) {
    let back_off = match &outcome.result {
        Err(Failure::Rejected { retry_after, .. }) => Some(retry_after.unwrap_or(BACK_OFF).min(MAX_BACK_OFF)),
        _ => None,
    };
    for Call { name, took, code, good } in &outcome.calls {
        let error = (!good).then(|| match code {
            Code::Ok => "refused by status".to_owned(),
            code => format!("{code:?}"),
        });
        // goose fails here only when its run has ended, and then nobody asks.
        let _ = goose
            .record_custom_request_duration("GRPC", name, *took, *good, Some(*code as u16), error.as_deref())
            .await;
    }
    crowd.recorder.record(user.id(), outcome);
    if let Some(back_off) = back_off {
        tokio::time::sleep(back_off).await;
    }
}
