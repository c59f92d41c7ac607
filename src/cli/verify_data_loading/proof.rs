//! What every process would load, team by team and day by day. Whether that tells of a fault stands in `checks`.

use std::collections::BTreeSet;

use super::disk::{Disk, DiskDay, LoadedDay};
use super::{Check, checks};
use crate::config::{NodeId, Overlay, Process, Team};
use crate::day::Day;
use crate::placement::Placement;

/// What processes load of a dataset, and what was found.
pub(super) struct Proof {
    pub(super) processes: Vec<ProcessLoads>,
    pub(super) teams: Vec<TeamLoads>,
    pub(super) days: Vec<DayLoads>,
    /// On the disk.
    pub(super) disk: Sum,
    /// Loaded, each row counted once.
    pub(super) loaded: Sum,
    /// Planned days without a folder or without a file in it.
    pub(super) missing_days: Vec<Day>,
    /// Names that are no part of the dataset.
    pub(super) ignored: Vec<String>,
    pub(super) checks: Vec<Check>,
}

/// One day folder and who loads it.
pub(super) struct DayLoads {
    pub(super) day: Day,
    pub(super) team: Option<String>,
    pub(super) loaded_by: Vec<NodeId>,
    pub(super) disk: Sum,
    pub(super) rejected_rows: u64,
    pub(super) version: Option<String>,
}

/// What one process loads.
pub(super) struct ProcessLoads {
    pub(super) process: Process,
    pub(super) days: Vec<Day>,
    pub(super) missing_days: Vec<Day>,
    pub(super) sum: Sum,
    pub(super) rejected_rows: u64,
    pub(super) sample_rows: u64,
}

/// What a team's members load together, each row counted once.
pub(super) struct TeamLoads {
    pub(super) team: Team,
    pub(super) members: Vec<NodeId>,
    /// Members that are to hold each day.
    pub(super) holders: usize,
    pub(super) days: Vec<Day>,
    pub(super) sum: Sum,
}

/// Files and rows.
#[derive(Clone, Copy, Default)]
pub(super) struct Sum {
    pub(super) files: u64,
    pub(super) rows: u64,
}

impl Sum {
    fn add(&mut self, other: Sum) {
        self.files += other.files;
        self.rows += other.rows;
    }
}

/// Says what each process loads and checks that every row is loaded by the holders of one team.
pub(super) fn prove(overlay: &Overlay, disk: &Disk) -> Proof {
    let placement = Placement::new(overlay);
    let processes: Vec<ProcessLoads> =
        overlay.processes.values().map(|process| loads(process, &placement, disk)).collect();
    let teams: Vec<TeamLoads> = overlay.teams.iter().map(|team| team_loads(team, overlay, disk)).collect();
    let mut proof = Proof {
        missing_days: processes
            .iter()
            .flat_map(|loads| loads.missing_days.iter().copied())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        days: disk.days.iter().map(|day| day_loads(day, overlay, &processes)).collect(),
        disk: Sum::default(),
        loaded: Sum::default(),
        ignored: disk.ignored.clone(),
        checks: Vec::new(),
        processes,
        teams,
    };
    for (day, on_disk) in proof.days.iter().zip(&disk.days) {
        proof.disk.add(day.disk);
        if let (false, Ok(loaded)) = (day.loaded_by.is_empty(), &on_disk.loaded) {
            proof.loaded.add(loaded.sum());
        }
    }
    proof.checks = checks::check(&proof, disk);
    proof
}

impl LoadedDay {
    fn sum(&self) -> Sum {
        Sum { files: self.files, rows: self.rows }
    }
}

/// The loadable days of `days` that have a file.
fn loaded_days(disk: &Disk, days: impl Fn(Day) -> bool) -> Vec<(Day, &LoadedDay)> {
    let loaded = disk.days.iter().filter(|on_disk| days(on_disk.day));
    loaded
        .filter_map(|on_disk| Some((on_disk.day, on_disk.loaded.as_ref().ok()?)))
        .filter(|(_, loaded)| loaded.files > 0)
        .collect()
}

fn loads(process: &Process, placement: &Placement, disk: &Disk) -> ProcessLoads {
    let placed = placement.days_of(&process.id);
    let has_files: BTreeSet<Day> = disk.days.iter().filter(|day| day.files > 0).map(|day| day.day).collect();
    let mut loads = ProcessLoads {
        process: process.clone(),
        days: Vec::new(),
        missing_days: placed.difference(&has_files).copied().collect(),
        sum: Sum::default(),
        rejected_rows: 0,
        sample_rows: 0,
    };
    for (day, loaded) in loaded_days(disk, |day| placed.contains(&day)) {
        loads.days.push(day);
        loads.sum.add(loaded.sum());
        loads.rejected_rows += loaded.rejected_rows;
        loads.sample_rows += loaded.sample_rows;
    }
    loads
}

fn team_loads(team: &Team, overlay: &Overlay, disk: &Disk) -> TeamLoads {
    let members: Vec<NodeId> = overlay.members(&team.name).map(|process| process.id.clone()).collect();
    let mut loads = TeamLoads {
        team: team.clone(),
        holders: overlay.replicas.map_or(members.len(), |replicas| replicas as usize),
        members,
        days: Vec::new(),
        sum: Sum::default(),
    };
    for (day, loaded) in loaded_days(disk, |day| team.days.contains(day)) {
        loads.days.push(day);
        loads.sum.add(loaded.sum());
    }
    loads
}

fn day_loads(on_disk: &DiskDay, overlay: &Overlay, processes: &[ProcessLoads]) -> DayLoads {
    let loads = processes.iter().filter(|loads| loads.days.contains(&on_disk.day));
    let loaded = on_disk.loaded.as_ref().ok();
    DayLoads {
        day: on_disk.day,
        team: overlay.team_of_day(on_disk.day).map(|team| team.name.clone()),
        loaded_by: loads.map(|loads| loads.process.id.clone()).collect(),
        disk: Sum { files: on_disk.files, rows: on_disk.rows },
        rejected_rows: loaded.map_or(0, |loaded| loaded.rejected_rows),
        version: loaded.and_then(|loaded| loaded.version).map(|version| version.to_string()),
    }
}
