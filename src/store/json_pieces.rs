//! What every row of a site, and of a measure, has in JSON: written once for all frames.

use std::io::Write;

use super::{Measure, Site};

/// The pieces of JSON rows between which their numbers stand.
///
/// A row is the site's first piece, a time, the measure's first piece, a concentration, the measure's second piece, and the
/// rest of its numbers, then the site's second piece and the date.
#[derive(Clone, Debug)]
pub struct JsonPieces {
    /// By site code: from the comma before the row to the quotes of its time, and all texts with a comma before.
    pub sites: PairTable,
    /// By measure code: from the quotes after the time to the concentration, and from there to the other one.
    pub measures: PairTable,
}

impl JsonPieces {
    pub(super) fn of(sites: &[Site], measures: &[Measure]) -> Self {
        JsonPieces {
            sites: PairTable::of(sites, write_site),
            measures: PairTable::of(measures, write_measure),
        }
    }
}

/// Two texts for each code, one after the other.
#[derive(Clone, Debug)]
pub struct PairTable {
    bytes: Vec<u8>,
    /// By code: where its texts begin and the first one ends.
    starts: Vec<[usize; 2]>,
}

impl PairTable {
    /// `write` returns where the second text begins.
    fn of<T>(items: &[T], write: impl Fn(&mut Vec<u8>, &T) -> usize) -> Self {
        let mut bytes = Vec::new();
        let mut starts: Vec<[usize; 2]> =
            items.iter().map(|item| [bytes.len(), write(&mut bytes, item)]).collect();
        starts.push([bytes.len(); 2]);
        PairTable { bytes, starts }
    }

    /// The two texts of a code.
    pub fn get(&self, code: usize) -> [&[u8]; 2] {
        let [start, middle] = self.starts[code];
        let [end, _] = self.starts[code + 1];
        [&self.bytes[start..middle], &self.bytes[middle..end]]
    }
}

fn write_site(out: &mut Vec<u8>, site: &Site) -> usize {
    out.extend_from_slice(b",{\"latitude\":");
    write_json(out, &site.latitude);
    out.extend_from_slice(b",\"longitude\":");
    write_json(out, &site.longitude);
    out.extend_from_slice(b",\"timestamp\":\"");
    let middle = out.len();
    for (name, text) in ["site_name", "agency_name", "aqs_id", "full_aqs_id"].iter().zip(site.texts()) {
        out.extend_from_slice(format!(",\"{name}\":").as_bytes());
        write_json(out, text);
    }
    middle
}

fn write_measure(out: &mut Vec<u8>, measure: &Measure) -> usize {
    out.extend_from_slice(b"\",\"parameter\":");
    write_json(out, &*measure.parameter);
    out.extend_from_slice(b",\"value\":");
    let middle = out.len();
    out.extend_from_slice(b",\"unit\":");
    write_json(out, &*measure.unit);
    out.extend_from_slice(b",\"raw_concentration\":");
    middle
}

fn write_json<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    let written = serde_json::to_writer(out.by_ref(), value);
    written.expect("texts and numbers are JSON, and a Vec takes every byte");
}
