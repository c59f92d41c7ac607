//! The hot functions of a node, one at a time, on data made for it: what they cost without network, queues and threads.
//!
//! ```text
//! cargo bench --bench kernels              time of each kernel: medians, which a busy machine spoils
//! kernels --list                           their names
//! kernels NAME                             runs one a few times, for a tool that counts instructions
//! ```
//!
//! `scripts/instructions` does the latter under callgrind, which counts while [`counted`] runs and not while data are
//! prepared. The data are one day as the real ones have it: some 29,000 rows of 1,000 sites in twelve files.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay::aggregate::{AggregateOf, AggregateSpec, GroupKey, Groups, Tally};
use overlay::chunking::ChunkBounds;
use overlay::config::Chunking;
use overlay::coverage::{self, Entry, Outcome, Served};
use overlay::day::Day;
use overlay::frame::{self, Encoding};
use overlay::load::{self, LoadOptions};
use overlay::plan::QueryPlan;
use overlay::predicate::{Predicate, Words};
use overlay::result_set::ResultSet;
use overlay::scan::{self, BoundPredicate};
use overlay::store::{DayBatch, Store, Version};
use overlay_harness::dataset::{DatasetSpec, evenly_spaced_hours};
use overlay_harness::scratch;
use serde_json::json;

/// The day that all kernels but `merge-manifest` work on.
const DAY: u32 = 20200821;

/// Planned days of `merge-manifest`: so many that a cost for each outweighs what comes once.
const PLANNED_DAYS: u64 = 1000;

/// Runs of each kernel that are counted: hash tables with random seeds make each a little different.
const COUNTED_RUNS: u64 = 8;

/// Runs of each kernel that are timed.
const ROUNDS: usize = 101;

/// A hot function with its arguments.
struct Kernel {
    name: &'static str,
    /// What its cost grows with.
    unit: &'static str,
    prepare: for<'a> fn(&'a Data) -> Work<'a>,
}

/// A kernel that is ready to run, as often as wanted.
struct Work<'a> {
    /// Units of one run.
    units: u64,
    run: Box<dyn FnMut() + 'a>,
}

impl<'a> Work<'a> {
    /// What `run` makes is dropped inside.
    fn new<T>(units: u64, mut run: impl FnMut() -> T + 'a) -> Self {
        Work { units, run: Box::new(move || drop(black_box(run()))) }
    }
}

const KERNELS: [Kernel; 10] = [
    Kernel { name: "load-file", unit: "row", prepare: load_file },
    Kernel { name: "scan-day", unit: "row", prepare: scan_day },
    Kernel {
        name: "gather-encode-chunk-arrow",
        unit: "row",
        prepare: |data| encode(data, Encoding::Arrow, usize::MAX),
    },
    Kernel {
        name: "gather-encode-chunk-json",
        unit: "row",
        prepare: |data| encode(data, Encoding::Json, usize::MAX),
    },
    Kernel {
        name: "encode-hundred-rows-arrow",
        unit: "row",
        prepare: |data| encode(data, Encoding::Arrow, 100),
    },
    Kernel {
        name: "encode-hundred-rows-json",
        unit: "row",
        prepare: |data| encode(data, Encoding::Json, 100),
    },
    Kernel { name: "merge-manifest", unit: "day", prepare: merge_manifest },
    Kernel { name: "aggregate-day", unit: "row", prepare: aggregate_day },
    Kernel { name: "merge-groups", unit: "group", prepare: merge_groups },
    Kernel { name: "encode-groups-arrow", unit: "group", prepare: encode_groups },
];

fn main() -> ExitCode {
    // `cargo bench` says `--bench` to every benchmark.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let chosen = match arguments.as_slice() {
        [] => None,
        [list] if list == "--list" => {
            KERNELS.iter().for_each(|kernel| println!("{}", kernel.name));
            return ExitCode::SUCCESS;
        }
        [name] => KERNELS.iter().find(|kernel| kernel.name == name),
        _ => None,
    };
    match (arguments.is_empty(), chosen) {
        (true, _) => print_times(&Data::new()),
        (false, Some(kernel)) => print_one(kernel, &Data::new()),
        (false, None) => {
            let names = KERNELS.map(|kernel| kernel.name).join(", ");
            eprintln!("error: no kernel `{}` (kernels: {names})", arguments.join(" "));
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Has its runs counted by whoever watches; prints how many units they were as one line of JSON.
fn print_one(kernel: &Kernel, data: &Data) {
    let mut work = (kernel.prepare)(data);
    // What is made on first use is no part of a run.
    (work.run)();
    for _ in 0..COUNTED_RUNS {
        counted(&mut *work.run);
    }
    let units = work.units * COUNTED_RUNS;
    println!("{}", json!({ "kernel": kernel.name, "unit": kernel.unit, "units": units }));
}

/// The part that is counted. A function that no other name contains, in one copy.
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    run();
}

fn print_times(data: &Data) {
    println!("| kernel | unit | units | time of a run | for each |\n|---|---|--:|--:|--:|");
    for Kernel { name, unit, prepare } in &KERNELS {
        let mut work = prepare(data);
        let mut times: Vec<Duration> = (0..ROUNDS)
            .map(|_| {
                let started = Instant::now();
                counted(&mut *work.run);
                started.elapsed()
            })
            .collect();
        times.sort();
        let run = times[ROUNDS / 2];
        let each = run.as_secs_f64() * 1e9 / work.units as f64;
        println!("| {name} | {unit} | {} | {:.1} us | {each:.1} ns |", work.units, run.as_secs_f64() * 1e6);
    }
}

/// One generated day.
struct Data {
    /// All its files as one, so that rows outweigh what each site costs once, as they do in a dataset.
    file: Vec<u8>,
    store: Store,
    /// What `scan-day` finds.
    matches: Vec<u32>,
}

impl Data {
    fn new() -> Self {
        let folder = scratch::folder().expect("a folder for temporary files");
        let root = folder.path().join("data");
        let spec = DatasetSpec {
            first_day: DAY,
            last_day: DAY,
            skipped_days: BTreeSet::new(),
            sites: 1000,
            hours: evenly_spaced_hours(12),
            ..DatasetSpec::default()
        };
        spec.write(&root).expect("the day is generated");
        let loaded = load::load(&root, &BTreeSet::from([day(DAY)]), &LoadOptions::default(), &|_| {});
        let store = loaded.expect("the day loads").store;
        let batch = store.day(day(DAY)).expect("the day has files");
        let path = |stem| root.join(DAY.to_string()).join(format!("{stem}.csv"));
        let stems = batch.files.iter().map(|file| &file.stem);
        let file = stems.flat_map(|stem| std::fs::read(path(stem)).expect("the file is there")).collect();
        let mut matches = Vec::new();
        let predicate = BoundPredicate::new(&store, &pm25());
        scan::select(&store, batch, &predicate, 0..batch.row_count(), &mut matches);
        Data { file, store, matches }
    }

    /// The groups of some rows of the day.
    fn groups(&self, group_by: &[GroupKey], rows: &[u32]) -> Groups {
        let spec = AggregateSpec { of: AggregateOf::Value, group_by: group_by.to_vec() };
        let mut tally = Tally::new(&self.store, &spec);
        tally.add(self.batch(), rows, &Arc::from("pink"));
        tally.into_groups(&self.store)
    }

    fn batch(&self) -> &DayBatch {
        self.store.day(day(DAY)).expect("the day is loaded")
    }
}

fn day(number: u32) -> Day {
    Day::from_number(number.into()).expect("a day that exists")
}

/// PM2.5 from 5 to 35.
fn pm25() -> Predicate {
    let words = Words { parameter: Some("PM2.5"), min: Some("5"), max: Some("35"), ..Words::default() };
    words.resolve().expect("a predicate")
}

fn load_file(data: &Data) -> Work<'_> {
    let options = LoadOptions { strict: true, ..LoadOptions::default() };
    Work::new(data.batch().row_count().into(), move || {
        load::load_bytes(day(DAY), "20200821-01", &data.file, &options).expect("every row parses")
    })
}

fn scan_day(data: &Data) -> Work<'_> {
    let batch = data.batch();
    let predicate = BoundPredicate::new(&data.store, &pm25());
    let mut rows = Vec::with_capacity(batch.row_count() as usize);
    Work::new(batch.row_count().into(), move || {
        rows.clear();
        scan::select(&data.store, batch, &predicate, 0..batch.row_count(), &mut rows);
        rows.len()
    })
}

/// The rows that match on the day, or the first `most` of them, are one chunk.
fn encode(data: &Data, encoding: Encoding, most: usize) -> Work<'_> {
    let (batch, rows) = (data.batch(), &data.matches[..data.matches.len().min(most)]);
    Work::new(rows.len() as u64, move || frame::encode_rows(&data.store, batch, rows, encoding))
}

/// Means by site and day, of rows that are already found.
fn aggregate_day(data: &Data) -> Work<'_> {
    Work::new(data.matches.len() as u64, move || data.groups(&[GroupKey::Site, GroupKey::Day], &data.matches))
}

/// Groups of two holders, each with every other row, where they come together. Copying both is counted, too.
fn merge_groups(data: &Data) -> Work<'_> {
    let every_other = |first| data.matches.iter().skip(first).step_by(2).copied().collect::<Vec<u32>>();
    let halves = [0, 1].map(|first| data.groups(&[GroupKey::Site, GroupKey::Hour], &every_other(first)));
    let group_count: usize = halves.iter().map(Groups::len).sum();
    Work::new(group_count as u64, move || {
        let [mut left, right] = halves.clone();
        left.merge(right);
        left
    })
}

fn encode_groups(data: &Data) -> Work<'_> {
    let groups = data.groups(&[GroupKey::Site, GroupKey::Day, GroupKey::Hour], &data.matches);
    Work::new(groups.len() as u64, move || {
        frame::encode_groups(AggregateOf::Value, &groups, 0..groups.len(), Encoding::Arrow)
    })
}

/// What a leader makes of the counts that came back: ledger, boundaries, result set.
fn merge_manifest(data: &Data) -> Work<'_> {
    let days: Vec<Day> =
        std::iter::successors(Some(day(DAY)), |day| Some(day.next())).take(PLANNED_DAYS as usize).collect();
    // About as many rows as match on a real day, another number on each.
    let counts: Vec<Served> = (0..PLANNED_DAYS)
        .map(|index| Served {
            node: "D".to_owned(),
            attempt: 1,
            version: Version::of_no_data(),
            rows_matched: 5000 + index * 37 % 1000,
            rows_taken: 5000 + index * 37 % 1000,
        })
        .collect();
    let bounds = ChunkBounds {
        strategy: Chunking::Fixed,
        fixed_rows: 10_000,
        chunk_bytes: 1 << 20,
        worst_row_bytes: data.batch().statistics.worst_row_bytes.arrow,
        frame_overhead_bytes: frame::frame_overhead_bytes(Encoding::Arrow),
        ..ChunkBounds::default()
    };
    let (key, plan): (Arc<[u8]>, _) =
        (Arc::from(*b"key"), Arc::new(QueryPlan { bounds, ..QueryPlan::default() }));
    Work::new(PLANNED_DAYS, move || {
        let entry = |(day, served): (&Day, &Served)| Entry {
            day: *day,
            team: "pink".into(),
            outcome: Outcome::Served(served.clone()),
        };
        let ledger: Vec<Entry> = days.iter().zip(&counts).map(entry).collect();
        coverage::check_tiles_plan(&ledger, &days).expect("an entry for each day");
        let day_rows: Vec<u64> = coverage::rows_taken(&ledger).map(|(_, served)| served.rows_taken).collect();
        let total = day_rows.iter().sum();
        let chunk_rows = bounds.large_enough_for(total).cut(&day_rows, None);
        ResultSet::new(key.clone(), plan.clone(), ledger, total, false, &chunk_rows)
    })
}
