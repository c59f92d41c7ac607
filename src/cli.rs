//! The command line: one file a command; what they share stands here.
//!
//! Exit codes: 0 done; 1 failed; 2 the arguments or the configuration are wrong; 3 a check found something
//! wrong (`verify-data-loading`, `check-proof`, `system-test`).

// A macro that prints panics where nobody reads any more, and a node would die of its log's reader.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod certs;
mod check_config;
mod check_proof;
mod completions;
mod credentials;
mod demo;
mod embedded;
mod explain;
mod man;
mod metrics;
mod node;
mod output;
mod proof;
mod query;
mod query_args;
mod shutdown;
mod system_test;
mod table;
mod telemetry;
mod tell;
mod top;
mod unanswered;
mod up;
mod verify_data_loading;

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use self::telemetry::{Telemetry, TraceLayer};
pub(crate) use self::tell::tell;
use self::tell::tell_with_help;
pub use check_proof::check_proof;

use crate::config::{Overlay, Problems, Profile};
use crate::load::{LoadError, days_on_disk};

/// Where the leader of the bundled one-host configuration listens.
const DEFAULT_LEADER: &str = "127.0.0.1:60051";

/// A distributed overlay network that answers queries over hourly air-quality observations.
#[derive(Debug, Parser)]
#[command(
    name = "overlay",
    version = crate::VERSION,
    max_term_width = 100,
    after_help = "\
Examples:
  overlay demo
  overlay up --dataset-root DIR
  overlay query PM2.5 5 35 --format csv --output pm25.csv

Exit codes: 0 done; 1 failed; 2 wrong arguments or configuration; 3 a check found something wrong.
Log level: OVERLAY_LOG, such as OVERLAY_LOG=debug (default: warn), or debug,h2=debug for a library too; \
OVERLAY_LOG_FORMAT=json writes an object a line.
Node to ask: OVERLAY_LEADER, where --leader is not given; OVERLAY_CA and OVERLAY_TOKEN_FILE for --ca and --token-file.
Traces: OTEL_EXPORTER_OTLP_ENDPOINT, such as http://127.0.0.1:4317, and the other variables of OpenTelemetry."
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run six nodes inside this process on the bundled data and ask them a query
    Demo(demo::Demo),
    /// Start every process of a configuration that belongs to this host
    Up(up::Up),
    /// Run one process of a configuration
    Node(node::NodeArguments),
    /// Ask a query and write its rows
    Query(query::QueryCommand),
    /// Show what a query would do, without running it
    Explain(explain::Explain),
    /// Verify a saved proof against the files, offline
    CheckProof(check_proof::CheckProof),
    /// Show the metrics of a node, or of all
    Metrics(metrics::MetricsCommand),
    /// Show what every node does, live
    Top(top::Top),
    /// Tell a node to stop
    Shutdown(shutdown::Shutdown),
    /// Make certificates and tokens for development
    Certs(certs::Certs),
    /// Check a configuration, or print its JSON schema
    CheckConfig(check_config::CheckConfig),
    /// Check that the processes of a configuration load every row of a dataset, each where it belongs
    VerifyDataLoading(verify_data_loading::VerifyDataLoading),
    /// Check a running overlay from outside
    SystemTest(system_test::SystemTest),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Write the manual pages of all commands into a folder
    Man(man::Man),
}

/// Why a command ends without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cause, and what to do about it.
    Failed { error: AnyError, help: Option<String> },
    /// The arguments or the configuration are wrong.
    Usage { error: AnyError, help: Option<String> },
    /// A check found something wrong and has said so.
    CheckFailed,
}

/// Any error, kept with its causes.
type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl<E: Into<AnyError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Failed { error: error.into(), help: None }
    }
}

impl Failure {
    /// A failure with the next step.
    pub(crate) fn with_help(error: impl Into<AnyError>, help: impl Into<String>) -> Self {
        Failure::Failed { error: error.into(), help: Some(help.into()) }
    }

    /// Wrong arguments, with the next step.
    pub(crate) fn usage(error: impl Into<AnyError>, help: impl Into<String>) -> Self {
        Failure::Usage { error: error.into(), help: Some(help.into()) }
    }
}

/// Runs the command that the process's arguments name.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs the command that `arguments` name, the first of which is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let node = match &arguments.command {
        Command::Node(node) => Some(node.id()),
        _ => None,
    };
    let (telemetry, traces) = Telemetry::start(node);
    if let Err(failure) = start_logging(traces) {
        return report(failure);
    }
    let done = match arguments.command {
        Command::Demo(demo) => demo.run(),
        Command::Up(up) => up.run(),
        Command::Node(node) => node.run(),
        Command::Query(query) => query.run(),
        Command::Explain(explain) => explain.run(),
        Command::CheckProof(check) => check.run(),
        Command::Metrics(metrics) => metrics.run(),
        Command::Top(top) => top.run(),
        Command::Shutdown(shutdown) => shutdown.run(),
        Command::Certs(certs) => certs.run(),
        Command::CheckConfig(check) => check.run(),
        Command::VerifyDataLoading(verify) => verify.run(),
        Command::SystemTest(test) => test.run(),
        Command::Completions(completions) => completions.run(&mut Arguments::command()),
        Command::Man(man) => man.run(Arguments::command()),
    };
    telemetry.end();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(failure),
    }
}

fn report(failure: Failure) -> ExitCode {
    let (error, help, code) = match failure {
        Failure::Failed { error, help } => (error, help, 1),
        Failure::Usage { error, help } => (error, help, 2),
        Failure::CheckFailed => return ExitCode::from(3),
    };
    if is_broken_pipe(error.as_ref()) {
        return ExitCode::SUCCESS;
    }
    let causes = std::iter::successors(error.source(), |error| error.source()).map(ToString::to_string);
    tell_with_help("error", &error.to_string(), &causes.collect::<Vec<_>>(), help.as_deref());
    ExitCode::from(code)
}

/// The reader of our output has seen enough, as in `overlay query | head`.
fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    let broken = |error: &std::io::Error| error.kind() == std::io::ErrorKind::BrokenPipe;
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.downcast_ref::<std::io::Error>().is_some_and(broken))
}

fn start_logging(traces: Option<TraceLayer>) -> Result<(), Failure> {
    let filter = log_filter(&std::env::var("OVERLAY_LOG").unwrap_or_default())?;
    // Spans of a trace are no part of what is logged.
    let no_spans = format!("{}=off", crate::trace::TARGET).parse().expect("the directive is right");
    let filter = filter.add_directive(no_spans);
    let log = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        // It would print them, and so panic, where nobody reads standard error any more.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let log = match std::env::var("OVERLAY_LOG_FORMAT").unwrap_or_default().as_str() {
        "" | "text" => log.with_filter(filter).boxed(),
        "json" => log.json().flatten_event(true).with_filter(filter).boxed(),
        wrong => {
            let error = format!("OVERLAY_LOG_FORMAT: `{wrong}` is no format");
            return Err(Failure::usage(error, "formats are text and json"));
        }
    };
    if traces.is_some() {
        crate::trace::switch_on();
    }
    // A second command in one process, as tests run them, keeps the first one's logging.
    let _ = tracing_subscriber::registry().with(traces).with(log).try_init();
    Ok(())
}

/// What is logged. A word that is no level would be taken for the name of a module, and all others would be silent.
fn log_filter(text: &str) -> Result<EnvFilter, Failure> {
    let help = "levels are off, error, warn, info, debug and trace; MODULE=LEVEL is that of one module";
    let text = if text.is_empty() { "warn" } else { text };
    let parts = || text.split(',').map(str::trim).filter(|part| !part.is_empty());
    if let Some(wrong) = parts().find(|part| !part.contains('=') && part.parse::<LevelFilter>().is_err()) {
        return Err(Failure::usage(format!("OVERLAY_LOG: `{wrong}` is no level"), help));
    }
    let directives: Vec<String> = parts().map(directive).collect();
    EnvFilter::try_new(directives.join(","))
        .map_err(|error| Failure::usage(format!("OVERLAY_LOG: {error}"), help))
}

/// A level alone is that of this program. Of the libraries below it no more than warnings are of use: HTTP/2 tells of each frame.
fn directive(part: &str) -> String {
    match part.parse::<LevelFilter>() {
        Ok(level) => format!("{},overlay={level}", level.min(LevelFilter::WARN)),
        Err(_) => part.to_owned(),
    }
}

/// The node to ask; a variable that is empty is none. Where a command has --all as well, clap's own `env` would make the
/// variable conflict with it.
pub(crate) fn leader_or_default(named: Option<String>) -> String {
    let of_variable = || std::env::var("OVERLAY_LEADER").ok().filter(|leader| !leader.is_empty());
    named.or_else(of_variable).unwrap_or_else(|| DEFAULT_LEADER.to_owned())
}

/// A runtime with a few threads: what is heavy runs under compute slots, outside of them.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Reads a configuration, prints its warnings, and applies what the command line overrides.
pub(crate) fn read_overlay(path: &Path, profile: Option<ProfileName>) -> Result<Arc<Overlay>, Failure> {
    let parsed = Overlay::read(path).map_err(|problems: Problems| {
        let help = match std::fs::File::open(path).map_err(|error| error.kind()) {
            Ok(_) => "`overlay check-config --schema` prints what a configuration may hold",
            Err(ErrorKind::PermissionDenied) => "make it readable to the user that this runs as",
            Err(_) => {
                "name a file that exists, in most commands with --config FILE; the project has configs/one_host_config.json"
            }
        };
        Failure::usage(problems, help)
    })?;
    for warning in &parsed.warnings {
        tell(format!("warning: {warning}"));
    }
    let mut overlay = parsed.overlay;
    if let Some(profile) = profile {
        overlay.strategies = Profile::from(profile).strategies(overlay.strategies.chunk_size);
    }
    Ok(Arc::new(overlay))
}

/// A named set of strategies.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum ProfileName {
    /// round_robin, fixed, strict
    Baseline,
    /// parallel, adaptive, strict
    Parallel,
    /// capacity, query_based, weighted
    Balanced,
}

impl ProfileName {
    /// As the command line writes it.
    pub(crate) fn name(self) -> &'static str {
        Profile::from(self).name()
    }
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Self {
        match name {
            ProfileName::Baseline => Profile::Baseline,
            ProfileName::Parallel => Profile::Parallel,
            ProfileName::Balanced => Profile::Balanced,
        }
    }
}

/// Refuses a dataset root that is no folder with days in it: once, and before anything starts.
pub(crate) fn check_dataset_root(root: &Path) -> Result<(), Failure> {
    days_on_disk(root).map(drop).map_err(no_dataset)
}

/// A dataset root that cannot be used is a wrong argument.
pub(crate) fn no_dataset(error: LoadError) -> Failure {
    Failure::usage(error, "its day folders are named YYYYMMDD and hold .csv or .csv.gz files")
}

/// The dataset root: the argument, or else the configuration's.
pub(crate) fn dataset_root(argument: Option<PathBuf>, overlay: &Overlay) -> Option<PathBuf> {
    argument.or_else(|| overlay.dataset_root.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_alone_is_that_of_this_program() {
        for (text, filter) in [
            ("", "overlay=warn,warn"),
            ("debug", "overlay=debug,warn"),
            ("off", "off,overlay=off"),
            ("error,", "error,overlay=error"),
            ("info, h2=debug", "h2=debug,overlay=info,warn"),
            ("h2=debug", "h2=debug"),
        ] {
            let found = log_filter(text).expect("it is right").to_string();
            let mut found: Vec<&str> = found.split(',').collect();
            found.sort_unstable();
            assert_eq!(found.join(","), filter, "{text}");
        }
    }
}
