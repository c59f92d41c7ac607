//! The frames that holders of one version give, compared by their digests.
//!
//! They must be the same bytes for the same rows, or an answer would depend on who gave it.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::join_all;

use super::Finding;
use super::live::{Holders, Live, LiveNode, call};
use crate::config::{NodeId, Overlay};
use crate::frame::{Encoding, frame_overhead_bytes};
use crate::predicate::Predicate;
use crate::store::Digest;
use crate::verb::{Read, ReadItem, Selection};

/// Bytes that a frame may have: what a node sends by default.
const FRAME_BYTES: u32 = 1 << 20;

/// Reads a day from all its holders at once, range by range; one that fails is left out from then on.
pub(super) async fn compare_frames(
    holders: &Holders<'_>,
    overlay: &Overlay,
    live: &mut Live,
    findings: &mut Vec<Finding>,
) {
    let statistics = &holders.held.statistics;
    let worst = Encoding::Arrow.of(&statistics.worst_row_bytes).max(1);
    let step = ((FRAME_BYTES - frame_overhead_bytes(Encoding::Arrow)) / worst).max(1);
    let selection = Selection { predicate: Arc::new(Predicate::default()), encoding: Encoding::Arrow };
    let spec = Read { selection };
    let mut nodes = holders.nodes.clone();
    for first_row in (0..statistics.rows).step_by(step as usize) {
        let rows = u64::from(step).min(statistics.rows - first_row) as u32;
        let item = |node: &LiveNode| ReadItem {
            day: holders.day,
            version: holders.version,
            node: node.process.id.clone(),
            team: Arc::from(holders.team),
            first_row,
            frame_rows: vec![rows],
        };
        let reads = nodes.iter().map(|node| read(node, &spec, item(node), overlay));
        let mut digests: BTreeMap<Digest, Vec<NodeId>> = BTreeMap::new();
        let mut failed = Vec::new();
        for (node, digest) in nodes.iter().zip(join_all(reads).await) {
            let id = &node.process.id;
            match digest {
                Ok(digest) => {
                    live.frames_compared += 1;
                    live.rows_compared += u64::from(rows);
                    digests.entry(digest).or_default().push(id.clone());
                }
                Err(why) => {
                    failed.push(id.clone());
                    findings.push(
                        holders.finding(format!("day {} cannot be read from `{id}`: {why}", holders.day)),
                    );
                }
            }
        }
        if digests.len() > 1 {
            let range = format!("rows {first_row} to {}", first_row + u64::from(rows));
            let message = format!("day {}, {range}: the frames differ: {digests:?}", holders.day);
            findings.push(holders.finding(message));
            return;
        }
        nodes.retain(|node| !failed.contains(&node.process.id));
    }
}

async fn read(node: &LiveNode, spec: &Read, item: ReadItem, overlay: &Overlay) -> Result<Digest, String> {
    let mut answers =
        node.neighbour.read(spec, &[item], &call(overlay)).await.map_err(|error| error.to_string())?;
    match (answers.answers.pop().and_then(|(_, mut frames)| frames.pop()), answers.failures.pop()) {
        (Some(frame), _) => Ok(frame.digest),
        (None, failure) => Err(failure.map(|failure| failure.why).unwrap_or_default()),
    }
}
