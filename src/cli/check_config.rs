//! `overlay check-config`: everything that is wrong with a configuration at once, or what it says.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::table::table;
use super::{Failure, read_overlay, tell};
use crate::config::{Overlay, Problem, Problems, Process, json_schema};
use crate::load::days_on_disk;
use crate::security::{self, SecurityError};

/// Check a configuration, or print its JSON schema.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  overlay check-config
  overlay check-config configs/two_hosts_config.json
  overlay check-config --schema > overlay.schema.json

Exits 0 when nothing is wrong with the file and the certificates and tokens that it names, warnings or not; 2 with \
every problem, each with its file and key. Whether dataset_root holds every row is for verify-data-loading.")]
pub(crate) struct CheckConfig {
    /// The configuration
    #[arg(value_name = "FILE", default_value = "configs/one_host_config.json")]
    config: PathBuf,
    /// Print the JSON schema of configurations, and check none
    #[arg(long)]
    schema: bool,
}

impl CheckConfig {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        if self.schema {
            return Ok(writeln!(out, "{:#}", json_schema())?);
        }
        let overlay = read_overlay(&self.config, None)?;
        self.check_security(&overlay)?;
        self.check_dataset(&overlay);
        writeln!(out, "{} describes {} processes.\n", self.config.display(), overlay.processes.len())?;
        show_processes(&mut out, &overlay)?;
        show_teams(&mut out, &overlay)?;
        show_choices(&mut out, &overlay)?;
        Ok(())
    }

    /// Warns of a dataset that is not here, which may be as it should on one of several hosts.
    fn check_dataset(&self, overlay: &Overlay) {
        if let Some(error) = overlay.dataset_root.as_deref().and_then(|root| days_on_disk(root).err()) {
            let what = format!("{error}: nodes started here need --dataset-root");
            tell(format!("warning: {}", self.problem("dataset_root", what)));
        }
    }

    fn problem(&self, key: &str, what: String) -> Problem {
        Problem { file: self.config.display().to_string(), key: key.to_owned(), what }
    }

    /// Checks the files that it names.
    fn check_security(&self, overlay: &Overlay) -> Result<(), Failure> {
        let Some(files) = &overlay.security else {
            return Ok(());
        };
        let checked = security::check(overlay, files);
        let problem = |(key, error): (&str, SecurityError)| self.problem(key, error.to_string());
        for warning in checked.warnings.into_iter().map(problem) {
            tell(format!("warning: {warning}"));
        }
        match checked.problems.is_empty() {
            true => Ok(()),
            false => {
                let problems = Problems(checked.problems.into_iter().map(problem).collect());
                let help = "they have to be readable to the user that this runs as; `overlay certs` makes some for development";
                Err(Failure::usage(problems, help))
            }
        }
    }
}

fn show_processes(out: &mut impl Write, overlay: &Overlay) -> std::io::Result<()> {
    let mut shown = table(["process", "role", "team", "address", "weight", "neighbours"], &[4]);
    for process in overlay.processes.values() {
        shown.add_row([
            process.id.to_string(),
            process.role.to_string(),
            process.team.clone(),
            process.address(),
            process.weight.to_string(),
            joined(&process.neighbours),
        ]);
    }
    writeln!(out, "{shown}\n")
}

fn show_teams(out: &mut impl Write, overlay: &Overlay) -> std::io::Result<()> {
    let mut shown = table(["team", "days", "weight", "leader", "members"], &[2]);
    for team in &overlay.teams {
        let members = overlay.members(&team.name).map(|process: &Process| &process.id);
        let last = team.days.last().unwrap_or(team.days.start);
        shown.add_row([
            team.name.clone(),
            format!("{}-{last}", team.days.start),
            team.weight.to_string(),
            overlay.team_leader(&team.name).map(|process| process.id.to_string()).unwrap_or_default(),
            joined(members),
        ]);
    }
    writeln!(out, "{shown}\n")
}

fn show_choices(out: &mut impl Write, overlay: &Overlay) -> std::io::Result<()> {
    let edges = overlay.processes.values().flat_map(|process| {
        let other = |id: &&crate::config::NodeId| **id > process.id;
        process.neighbours.iter().filter(other).map(|id| format!("{}-{id}", process.id))
    });
    let strategies = &overlay.strategies;
    let replicas = match overlay.replicas {
        None => "all members of a team hold each of its days".to_owned(),
        Some(1) => "1 member of a team holds each of its days".to_owned(),
        Some(replicas) => format!("{replicas} members of a team hold each of its days"),
    };
    writeln!(out, "edges       {}", joined(edges))?;
    writeln!(out, "forwarding  {}", strategies.forwarding)?;
    writeln!(out, "chunking    {}, chunk_size {}", strategies.chunking, strategies.chunk_size)?;
    writeln!(out, "fairness    {}", strategies.fairness)?;
    writeln!(out, "replicas    {replicas}")?;
    if let Some(root) = &overlay.dataset_root {
        writeln!(out, "dataset     {}", root.display())?;
    }
    if let Some(files) = &overlay.security {
        let used = [("TLS", files.tls.is_some()), ("tokens", files.tokens.is_some())];
        writeln!(
            out,
            "security    {}",
            joined(used.into_iter().filter(|(_, is_used)| *is_used).map(|(name, _)| name))
        )?;
    }
    Ok(())
}

fn joined(names: impl IntoIterator<Item = impl ToString>) -> String {
    names.into_iter().map(|name| name.to_string()).collect::<Vec<_>>().join(", ")
}
