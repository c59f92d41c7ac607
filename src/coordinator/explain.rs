//! What a query would do, without doing it.

use crate::admission::ClientKey;
use crate::config::NodeId;
use crate::error::QueryError;
use crate::gather::WantedDay;
use crate::plan::{Fate, Query, QueryPlan};

use super::Coordinator;

/// A plan with the node that each day would be asked of.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The plan.
    pub plan: QueryPlan,
    /// One for each planned day, in order.
    pub days: Vec<ExplainedDay>,
    /// Rows that all scans together would read.
    pub rows_to_scan: u64,
}

/// One planned day, explained.
#[derive(Clone, Debug, Default)]
pub struct ExplainedDay {
    /// Holders of the pinned version in placement order, those that are marked last.
    pub holders: Vec<NodeId>,
    /// The holder that would be asked first.
    pub assigned: Option<NodeId>,
    /// The neighbour that the request would go to; `None`: answered here.
    pub via: Option<NodeId>,
    /// Why nobody would be asked, or which holders are marked as down.
    pub note: String,
}

impl Coordinator {
    /// Plans a query and assigns its days, as the next query of its kind would.
    ///
    /// # Errors
    /// [`QueryError::Invalid`] as for a query.
    pub async fn explain(&self, query: &Query, client: &ClientKey) -> Result<Explanation, QueryError> {
        query.check(&self.overlay)?;
        let plan = self.plan(query, client, true).await;
        let wanted: Vec<WantedDay> =
            plan.asks().map(|(planned, ask)| self.wanted(planned, ask, Vec::new())).collect();
        let assigned = self.gather.assign_next(&wanted, query.aggregate.is_some());
        let marks = self.gather.relay().directory().marks();
        let marked = |holders: &[NodeId]| {
            let down: Vec<&str> =
                holders.iter().filter(|holder| marks.contains_key(*holder)).map(|holder| &**holder).collect();
            if down.is_empty() { String::new() } else { format!("marked down: {}", down.join(", ")) }
        };
        let explained = plan
            .days
            .iter()
            .map(|planned| match &planned.fate {
                Fate::Ask(ask) => {
                    let assigned = assigned.get(&planned.day).cloned();
                    ExplainedDay {
                        holders: ask.holders.to_vec(),
                        via: assigned.as_ref().and_then(|node| self.gather.relay().via(node)),
                        assigned,
                        note: marked(&ask.holders),
                    }
                }
                Fate::Pruned { .. } => ExplainedDay::default(),
                Fate::NoData(node) => {
                    ExplainedDay { note: format!("no data, says {node}"), ..ExplainedDay::default() }
                }
                Fate::OutOfReach { .. } => {
                    ExplainedDay { note: "no live holder".to_owned(), ..ExplainedDay::default() }
                }
                Fate::NotResumed => ExplainedDay {
                    note: "missing from the result that is resumed".to_owned(),
                    ..ExplainedDay::default()
                },
                Fate::VersionGone { expected, .. } => ExplainedDay {
                    note: format!("no holder has version {expected}"),
                    ..ExplainedDay::default()
                },
            })
            .collect();
        Ok(Explanation {
            rows_to_scan: plan.asks().map(|(_, ask)| ask.rows_to_scan).sum(),
            days: explained,
            plan,
        })
    }
}
