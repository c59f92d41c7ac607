//! Rows added up by group where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::groups::{Groups, KeyColumn, is_text};
use super::{AggregateOf, AggregateSpec, GroupKey, Partial};
use crate::day::Day;
use crate::decimal::{Decimal, ONE};
use crate::store::{DayBatch, Store};

/// The most cells whose places stand in a table, which then has 1 MB; those of more are hashed.
const TABLE_CELLS: usize = 1 << 18;

/// Rows of a store's days, added up by group.
///
/// A group is a number until all rows are in; it gets its names once, in [`into_groups`](Self::into_groups). Groups of
/// one day and team are a block; within it a group is a *cell*: its site, measure and hour as one number.
pub struct Tally {
    spec: AggregateSpec,
    /// By site code, the smallest code of a site in the same group; empty if places don't matter.
    places: Vec<u32>,
    /// By measure code, the smallest code of a measure in the same group; empty if parameters don't matter.
    measures: Vec<u32>,
    /// Hours that are told apart: 24, or one.
    hours: usize,
    teams: Vec<Arc<str>>,
    blocks: BTreeMap<BlockKey, Block>,
    /// The block that rows were added to last, whose cells `slots` has.
    open: BlockKey,
    slots: Slots,
    /// Groups of all blocks.
    len: usize,
}

/// The day's number and the team's code; one that is not asked for is 0.
type BlockKey = (u32, usize);

#[derive(Default)]
struct Block {
    cells: Vec<usize>,
    partials: Vec<Partial>,
}

impl Tally {
    /// Without rows. Rows that are added later are of `store`.
    pub fn new(store: &Store, spec: &AggregateSpec) -> Self {
        let (places, measures) = (place_groups(store, spec), measure_groups(store, spec));
        let hours = if spec.group_by.contains(&GroupKey::Hour) { 24 } else { 1 };
        let slots = Slots::new(places.len().max(1) * measures.len().max(1) * hours);
        let (spec, teams, blocks) = (spec.clone(), Vec::new(), BTreeMap::new());
        Tally { spec, places, measures, hours, teams, blocks, open: BlockKey::default(), slots, len: 0 }
    }

    /// Adds `rows` of one day, which `team` owns.
    pub fn add(&mut self, batch: &DayBatch, rows: &[u32], team: &Arc<str>) {
        self.open(batch.day, team);
        match self.spec.of {
            AggregateOf::Value => self.add_values(batch, rows, |row| batch.value.get(row)),
            AggregateOf::RawConcentration => {
                self.add_values(batch, rows, |row| batch.raw_concentration.get(row));
            }
            AggregateOf::Aqi => {
                self.add_values(batch, rows, |row| batch.aqi(row).map(|aqi| Decimal(i64::from(aqi) * ONE)));
            }
        }
    }

    fn add_values(&mut self, batch: &DayBatch, rows: &[u32], value: impl Fn(u32) -> Option<Decimal>) {
        let Tally { places, measures, hours, blocks, open, slots, len, .. } = self;
        let (places, measures, hours) = (&places[..], &measures[..], *hours);
        let Block { cells, partials } = blocks.entry(*open).or_default();
        let before = cells.len();
        for row in rows {
            let Some(value) = value(*row) else { continue };
            let row = *row as usize;
            let mut cell = if places.is_empty() { 0 } else { places[batch.site[row] as usize] as usize };
            if !measures.is_empty() {
                cell = cell * measures.len() + measures[usize::from(batch.measure[row])] as usize;
            }
            if hours > 1 {
                cell = cell * hours + usize::from(batch.minute[row] / 60);
            }
            let slot = slots.of(cell);
            if *slot == 0 {
                cells.push(cell);
                partials.push(Partial::of(value));
                *slot = cells.len() as u32;
            } else {
                partials[*slot as usize - 1].add(value);
            }
        }
        *len += cells.len() - before;
    }

    /// Adds all groups of `other`, which is of the same store and the same aggregate.
    pub fn merge(&mut self, other: Tally) {
        for ((day, team), added) in other.blocks {
            let team = if self.spec.group_by.contains(&GroupKey::Team) {
                code_of(&mut self.teams, &other.teams[team])
            } else {
                0
            };
            self.open_block((day, team));
            let Block { cells, partials } = self.blocks.entry(self.open).or_default();
            for (cell, partial) in added.cells.iter().zip(&added.partials) {
                let slot = self.slots.of(*cell);
                if *slot == 0 {
                    cells.push(*cell);
                    partials.push(*partial);
                    *slot = cells.len() as u32;
                    self.len += 1;
                } else {
                    partials[*slot as usize - 1].merge(partial);
                }
            }
        }
    }

    /// Makes the slots those of the block of a day and a team.
    fn open(&mut self, day: Day, team: &Arc<str>) {
        let has = |key| self.spec.group_by.contains(&key);
        let day = if has(GroupKey::Day) { day.number() } else { 0 };
        let team = if has(GroupKey::Team) { code_of(&mut self.teams, team) } else { 0 };
        self.open_block((day, team));
    }

    fn open_block(&mut self, key: BlockKey) {
        if self.open == key {
            return;
        }
        // Only what was used is cleared: a block may have few cells, and there may be many blocks.
        if let Some(block) = self.blocks.get(&self.open) {
            self.slots.clear(&block.cells);
        }
        self.open = key;
        if let Some(block) = self.blocks.get(&self.open) {
            block.cells.iter().zip(1..).for_each(|(cell, slot)| *self.slots.of(*cell) = slot);
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The groups with their names, in order. `store` is the one that the rows were of.
    pub fn into_groups(self, store: &Store) -> Groups {
        let (days, columns): (Vec<u32>, Vec<Vec<u32>>) =
            (self.days(), self.spec.group_by.iter().map(|key| self.numbers(*key)).collect());
        let (texts, ranks) = self.rank_names(store, &columns);
        let in_order = |((key, mut numbers), ranks): ((&GroupKey, Vec<u32>), Vec<u32>)| match key {
            GroupKey::Day => KeyColumn { numbers, codes: days.clone() },
            GroupKey::Hour => KeyColumn { numbers, codes: (0..24).collect() },
            _ => {
                numbers.iter_mut().for_each(|number| *number = ranks[*number as usize]);
                KeyColumn { numbers, codes: (0..texts.len() as u32).collect() }
            }
        };
        let columns: Vec<KeyColumn> =
            self.spec.group_by.iter().zip(columns).zip(ranks).map(in_order).collect();
        let mut partials = Vec::with_capacity(self.len);
        self.blocks.into_values().for_each(|block| partials.extend(block.partials));
        Groups::in_order(&self.spec.group_by, texts, &columns, &partials)
    }

    /// The days of all blocks, in order.
    fn days(&self) -> Vec<u32> {
        let mut days: Vec<u32> = self.blocks.keys().map(|(day, _)| *day).collect();
        days.dedup();
        days
    }

    /// What the groups have as one key, block by block: the place of a day among the [`days`](Self::days), an hour, or
    /// the code of what is named.
    fn numbers(&self, key: GroupKey) -> Vec<u32> {
        let (hours, measures) = (self.hours, self.measures.len().max(1));
        let mut numbers = Vec::with_capacity(self.len);
        let (mut day_index, mut day_before) = (0, None);
        for ((day, team), block) in &self.blocks {
            day_index += u32::from(day_before.replace(day).is_some_and(|before| before != day));
            let cells = block.cells.iter();
            match key {
                GroupKey::Day => numbers.extend(cells.map(|_| day_index)),
                GroupKey::Team => numbers.extend(cells.map(|_| *team as u32)),
                GroupKey::Hour => numbers.extend(cells.map(|cell| (cell % hours) as u32)),
                GroupKey::Parameter => numbers.extend(cells.map(|cell| (cell / hours % measures) as u32)),
                GroupKey::Site | GroupKey::Agency => {
                    numbers.extend(cells.map(|cell| (cell / hours / measures) as u32));
                }
            }
        }
        numbers
    }

    /// All names in order, each once; and for each column of `numbers`, the places of the names by what the numbers stand for.
    fn rank_names(&self, store: &Store, columns: &[Vec<u32>]) -> (Vec<Box<str>>, Vec<Vec<u32>>) {
        let mut ranks = Vec::with_capacity(columns.len());
        let mut names: Vec<(&str, usize, u32)> = Vec::new();
        for (column, (key, numbers)) in self.spec.group_by.iter().zip(columns).enumerate() {
            let name = |number: u32| match key {
                GroupKey::Parameter => &*store.measures()[number as usize].parameter,
                GroupKey::Team => &*self.teams[number as usize],
                GroupKey::Agency => &*store.sites()[number as usize].agency_name,
                _ => &*store.sites()[number as usize].site_name,
            };
            let mut used = Vec::new();
            if is_text(*key) {
                used.resize(numbers.iter().max().map_or(0, |most| *most as usize + 1), 0);
                numbers.iter().for_each(|number| used[*number as usize] = 1);
                let used = used.iter().zip(0..).filter(|(used, _)| **used == 1);
                names.extend(used.map(|(_, number)| (name(number), column, number)));
            }
            ranks.push(used);
        }
        names.sort_unstable();
        let mut texts: Vec<Box<str>> = Vec::new();
        for (name, column, number) in names {
            if texts.last().is_none_or(|last| **last != *name) {
                texts.push(name.into());
            }
            ranks[column][number as usize] = texts.len() as u32 - 1;
        }
        (texts, ranks)
    }
}

/// By cell, one more than its place in the open block; 0 for none.
enum Slots {
    Table(Vec<u32>),
    Hashed(FxHashMap<usize, u32>),
}

impl Slots {
    fn new(cell_count: usize) -> Self {
        match cell_count <= TABLE_CELLS {
            true => Slots::Table(vec![0; cell_count]),
            false => Slots::Hashed(FxHashMap::default()),
        }
    }

    #[inline]
    fn of(&mut self, cell: usize) -> &mut u32 {
        match self {
            Slots::Table(slots) => &mut slots[cell],
            Slots::Hashed(slots) => hashed(slots, cell),
        }
    }

    fn clear(&mut self, cells: &[usize]) {
        match self {
            Slots::Table(slots) => cells.iter().for_each(|cell| slots[*cell] = 0),
            Slots::Hashed(slots) => slots.clear(),
        }
    }
}

/// Apart, so that the short way to a table's slot needs no call.
#[inline(never)]
fn hashed(slots: &mut FxHashMap<usize, u32>, cell: usize) -> &mut u32 {
    slots.entry(cell).or_default()
}

fn code_of(teams: &mut Vec<Arc<str>>, team: &Arc<str>) -> usize {
    teams.iter().position(|known| known == team).unwrap_or_else(|| {
        teams.push(team.clone());
        teams.len() - 1
    })
}

/// Which sites are one group: those that share the names asked for.
fn place_groups(store: &Store, spec: &AggregateSpec) -> Vec<u32> {
    let equal = store.equal_texts().sites.iter();
    match [GroupKey::Site, GroupKey::Agency].map(|key| spec.group_by.contains(&key)) {
        [false, false] => Vec::new(),
        [true, false] => equal.map(|[site_name, ..]| *site_name).collect(),
        [false, true] => equal.map(|[_, agency_name, ..]| *agency_name).collect(),
        [true, true] => {
            let mut firsts: FxHashMap<[u32; 2], u32> = FxHashMap::default();
            let names = equal.map(|[site_name, agency_name, ..]| [*site_name, *agency_name]);
            names.zip(0..).map(|(names, code)| *firsts.entry(names).or_insert(code)).collect()
        }
    }
}

/// Which measures are one group: those that share a parameter.
fn measure_groups(store: &Store, spec: &AggregateSpec) -> Vec<u32> {
    match spec.group_by.contains(&GroupKey::Parameter) {
        true => store.equal_texts().measures.iter().map(|[parameter, _]| *parameter).collect(),
        false => Vec::new(),
    }
}
