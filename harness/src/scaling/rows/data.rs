//! Generated days, of which a larger step has more.

use std::fs;
use std::path::{Path, PathBuf};

use chrono::{Days, NaiveDate};
use overlay::day::Day;
use tempfile::TempDir;

use super::RowsError;
use crate::calendar;
use crate::dataset::{DatasetSpec, evenly_spaced_hours};
use crate::oracle::TeamRange;
use crate::scratch;
use crate::topology::Topology;

/// A folder of days that grows. Dropping it removes it.
pub(super) struct Data {
    folder: TempDir,
    spec: DatasetSpec,
    /// Of each day that was made.
    rows: Vec<u64>,
}

impl Data {
    /// No day yet.
    pub(super) fn new(place: Option<&Path>, sites: u32) -> Result<Self, RowsError> {
        let folder = place.map_or_else(scratch::folder, scratch::folder_below)?;
        let hours = evenly_spaced_hours(12);
        let spec = DatasetSpec { sites, hours, skipped_days: [].into(), ..DatasetSpec::default() };
        let data = Data { folder, spec, rows: Vec::new() };
        fs::create_dir(data.root())?;
        Ok(data)
    }

    /// The folder of day folders.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("days")
    }

    pub(super) fn first_day(&self) -> Day {
        Day::from_number(self.spec.first_day.into()).expect("the generator's default")
    }

    /// Makes the first day, if there is none, to learn how many rows it has.
    pub(super) fn rows_of_first_day(&mut self) -> Result<u64, RowsError> {
        self.grow_to(1)?;
        Ok(self.rows[0])
    }

    /// Makes the days that are lacking; the rows of all.
    pub(super) fn grow_to(&mut self, days: u32) -> Result<u64, RowsError> {
        while self.rows.len() < days as usize {
            let day = calendar::number(self.date(self.rows.len()));
            // The generator wants an empty folder of its own.
            let made = self.folder.path().join("made");
            let spec = DatasetSpec { first_day: day, last_day: day, ..self.spec.clone() };
            let summary = spec.write(&made)?;
            fs::rename(made.join(day.to_string()), self.root().join(day.to_string()))?;
            self.rows.push(summary.rows);
        }
        Ok(self.rows.iter().sum())
    }

    /// Six nodes whose teams divide all days, each with one holder.
    pub(super) fn topology(&self) -> Topology {
        let days = self.rows.len();
        let day = |index| calendar::number(self.date(index));
        let teams = vec![
            TeamRange::new("green", day(0), day(days / 2 - 1)),
            TeamRange::new("pink", day(days / 2), day(days - 1)),
        ];
        Topology { teams, replicas: Some(1), ..Topology::six_nodes() }
    }

    fn date(&self, index: usize) -> NaiveDate {
        let first = calendar::date(self.spec.first_day).expect("the generator's default");
        first + Days::new(index as u64)
    }
}
