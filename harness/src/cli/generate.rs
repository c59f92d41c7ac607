//! `overlay-harness generate`: writes a dataset.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use crate::dataset::{DatasetError, DatasetSpec, evenly_spaced_hours};

/// Every option left out has the value that the fixtures were made with.
#[derive(Args)]
pub(super) struct Generate {
    /// Directory to write to; must be empty or not exist
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Decides every value; equal seeds write equal bytes
    #[arg(long, default_value_t = DatasetSpec::default().seed)]
    seed: u64,
    /// Stations; about 2.4 rows each in a file
    #[arg(long, default_value_t = DatasetSpec::default().sites)]
    sites: u32,
    /// First day
    #[arg(long, value_name = "YYYYMMDD", default_value_t = DatasetSpec::default().first_day)]
    from: u32,
    /// Last day, inclusive
    #[arg(long, value_name = "YYYYMMDD", default_value_t = DatasetSpec::default().last_day)]
    to: u32,
    /// Files for each day, at equal distances
    #[arg(long, value_name = "N", default_value_t = DatasetSpec::default().hours.len() as u8, value_parser = clap::value_parser!(u8).range(1..=24))]
    hours: u8,
    /// Days without files; `--skip ''` skips none [default: 20200811,20200812,20200813]
    #[arg(long, value_name = "YYYYMMDD,...")]
    skip: Option<String>,
    /// Write .csv.gz files
    #[arg(long)]
    gzip: bool,
}

impl Generate {
    /// Writes the dataset and prints what was written.
    pub(super) fn run(self) -> Result<(), Failure> {
        let output = self.output.clone();
        let spec = self.into_spec()?;
        let summary = spec.write(&output).map_err(|error| match error {
            DatasetError::InvalidSpec(_) | DatasetError::NotEmpty(_) => Failure::usage(error),
            _ => Failure::from(error),
        })?;
        println!(
            "{} files, {} rows, {} bytes in {} (seed {})",
            summary.files,
            summary.rows,
            summary.bytes,
            output.display(),
            spec.seed
        );
        Ok(())
    }

    fn into_spec(self) -> Result<DatasetSpec, Failure> {
        let default = DatasetSpec::default();
        let skipped_days = match &self.skip {
            None => default.skipped_days,
            Some(days) => days
                .split(',')
                .map(str::trim)
                .filter(|day| !day.is_empty())
                .map(|day| {
                    let wrong = |_| Failure::usage(format!("--skip: `{day}` is not a day YYYYMMDD"));
                    day.parse().map_err(wrong)
                })
                .collect::<Result<_, _>>()?,
        };
        Ok(DatasetSpec {
            seed: self.seed,
            first_day: self.from,
            last_day: self.to,
            skipped_days,
            sites: self.sites,
            hours: evenly_spaced_hours(self.hours),
            gzip: self.gzip,
            ..default
        })
    }
}
