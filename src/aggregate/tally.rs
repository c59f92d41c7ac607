//! Rows added up by group where they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::groups::{Groups, is_text};
use super::{AggregateOf, AggregateSpec, GroupKey, Partial};
use crate::decimal::{Decimal, ONE};
use crate::store::{DayBatch, Store};

/// Rows of a store's days, added up by group.
///
/// A group is a few small numbers until all rows are in; it gets its names once, in [`into_groups`](Self::into_groups).
pub struct Tally {
    spec: AggregateSpec,
    places: PlaceGroups,
    /// By measure code, the smallest code of a measure in the same group; empty if parameters don't matter.
    measures: Vec<u16>,
    teams: Vec<Arc<str>>,
    partials: FxHashMap<Cell, Partial>,
}

/// The keys of a group, as codes of the store. One that is not asked for is 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Cell {
    place: u32,
    day: u32,
    measure: u16,
    team: u16,
    hour: u16,
}

impl Tally {
    /// Without rows. Rows that are added later are of `store`.
    pub fn new(store: &Store, spec: &AggregateSpec) -> Self {
        Tally {
            spec: spec.clone(),
            places: PlaceGroups::new(store, spec),
            measures: measure_groups(store, spec),
            teams: Vec::new(),
            partials: FxHashMap::default(),
        }
    }

    /// Adds `rows` of one day, which `team` owns.
    pub fn add(&mut self, batch: &DayBatch, rows: &[u32], team: &Arc<str>) {
        let has = |key| self.spec.group_by.contains(&key);
        let by_hour = has(GroupKey::Hour);
        let day = if has(GroupKey::Day) { batch.day.number() } else { 0 };
        let team = if has(GroupKey::Team) { self.code_of(team) } else { 0 };
        let (places, measures) = (&self.places, &self.measures);
        let cell_of = |row: usize| Cell {
            place: places.of(batch.site[row]),
            day,
            measure: measures.get(usize::from(batch.measure[row])).copied().unwrap_or(0),
            team,
            hour: if by_hour { batch.minute[row] / 60 } else { 0 },
        };
        // Rows of a group often follow each other.
        let mut last: Option<(Cell, Partial)> = None;
        for row in rows {
            let value = match self.spec.of {
                AggregateOf::Value => batch.value.get(*row),
                AggregateOf::RawConcentration => batch.raw_concentration.get(*row),
                AggregateOf::Aqi => batch.aqi(*row).map(|aqi| Decimal(i64::from(aqi) * ONE)),
            };
            let Some(value) = value else { continue };
            let (cell, partial) = (cell_of(*row as usize), Partial::of(value));
            match &mut last {
                Some((current, sum)) if *current == cell => sum.merge(&partial),
                _ => {
                    if let Some((cell, sum)) = last.replace((cell, partial)) {
                        merge_into(&mut self.partials, cell, &sum);
                    }
                }
            }
        }
        if let Some((cell, sum)) = last {
            merge_into(&mut self.partials, cell, &sum);
        }
    }

    /// Number of groups.
    pub fn len(&self) -> usize {
        self.partials.len()
    }

    /// Whether there is no group.
    pub fn is_empty(&self) -> bool {
        self.partials.is_empty()
    }

    /// The groups with their names, in order. `store` is the one that the rows were of.
    pub fn into_groups(self, store: &Store) -> Groups {
        let Tally { spec, teams, partials, .. } = self;
        let partials: Vec<(Cell, Partial)> = partials.into_iter().collect();
        let text_of = |key: GroupKey, cell: &Cell| match key {
            GroupKey::Parameter => (key, usize::from(cell.measure)),
            GroupKey::Team => (key, usize::from(cell.team)),
            _ => (key, cell.place as usize),
        };
        let name = |(key, code): (GroupKey, usize)| match key {
            GroupKey::Parameter => &*store.measures()[code].parameter,
            GroupKey::Team => &*teams[code],
            GroupKey::Agency => &*store.sites()[code].agency_name,
            _ => &*store.sites()[code].site_name,
        };
        let text_keys: Vec<GroupKey> = spec.group_by.iter().copied().filter(|key| is_text(*key)).collect();
        let mut codes_of_names: BTreeMap<&str, u32> = BTreeMap::new();
        let mut names: FxHashMap<(GroupKey, usize), &str> = FxHashMap::default();
        for (cell, _) in &partials {
            for key in &text_keys {
                let text = text_of(*key, cell);
                names.entry(text).or_insert_with(|| name(text));
            }
        }
        codes_of_names.extend(names.values().map(|name| (*name, 0)));
        codes_of_names.values_mut().zip(0..).for_each(|(code, place)| *code = place);
        let codes_of_texts: FxHashMap<(GroupKey, usize), u32> =
            names.into_iter().map(|(text, name)| (text, codes_of_names[name])).collect();
        let mut codes = Vec::with_capacity(partials.len() * spec.group_by.len());
        for (cell, _) in &partials {
            codes.extend(spec.group_by.iter().map(|key| match key {
                GroupKey::Day => cell.day,
                GroupKey::Hour => u32::from(cell.hour),
                _ => codes_of_texts[&text_of(*key, cell)],
            }));
        }
        let texts = codes_of_names.into_keys().map(Box::from).collect();
        let partials: Vec<Partial> = partials.into_iter().map(|(_, partial)| partial).collect();
        Groups::in_order(&spec.group_by, texts, &codes, &partials)
    }

    fn code_of(&mut self, team: &Arc<str>) -> u16 {
        let code = self.teams.iter().position(|known| known == team).unwrap_or_else(|| {
            self.teams.push(team.clone());
            self.teams.len() - 1
        });
        u16::try_from(code).expect("an overlay has at most 65,536 teams")
    }
}

fn merge_into(partials: &mut FxHashMap<Cell, Partial>, cell: Cell, partial: &Partial) {
    partials.entry(cell).and_modify(|sum| sum.merge(partial)).or_insert(*partial);
}

/// Which sites are one group: those that share the names asked for.
struct PlaceGroups {
    /// By site code, the smallest code of a site in the same group; empty if places don't matter.
    groups: Vec<u32>,
}

impl PlaceGroups {
    fn new(store: &Store, spec: &AggregateSpec) -> Self {
        let by_site = spec.group_by.contains(&GroupKey::Site);
        let by_agency = spec.group_by.contains(&GroupKey::Agency);
        if !by_site && !by_agency {
            return PlaceGroups { groups: Vec::new() };
        }
        let mut firsts = HashMap::new();
        let groups = store.sites().iter().zip(0..).map(|(site, code)| {
            let site_name = by_site.then_some(&*site.site_name);
            let agency_name = by_agency.then_some(&*site.agency_name);
            *firsts.entry((site_name, agency_name)).or_insert(code)
        });
        PlaceGroups { groups: groups.collect() }
    }

    fn of(&self, site: u32) -> u32 {
        self.groups.get(site as usize).copied().unwrap_or(0)
    }
}

/// By measure code, the smallest code of a measure in the same group: those that share a parameter. Empty if
/// parameters don't matter.
fn measure_groups(store: &Store, spec: &AggregateSpec) -> Vec<u16> {
    if !spec.group_by.contains(&GroupKey::Parameter) {
        return Vec::new();
    }
    let mut firsts = HashMap::new();
    let measures = store.measures().iter().zip(0..=u16::MAX);
    measures.map(|(measure, code)| *firsts.entry(&*measure.parameter).or_insert(code)).collect()
}
