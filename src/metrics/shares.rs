//! Who waited for what, and for whom was computed: by limiting factor, and by class of client.
//!
//! A class is a name in `clients` of the configuration; all others are one class, so that clients make no labels of their own.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Labelled, seconds};

/// The class of clients that the configuration does not name.
pub const OTHER_CLIENTS: &str = "other";

/// What did not wait, waited for this.
const NO_FACTOR: &str = "none";

/// What computing is for.
pub const STEPS: [&str; 4] = ["add", "encode", "name", "scan"];

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Factor {
    factor: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct Computed {
    step: &'static str,
    class: String,
}

/// Time by whom it was spent on. What there will be is there from the start, at 0.
pub(super) struct Shares {
    waits: Labelled<Factor, Histogram>,
    computing: Labelled<Computed, Counter<f64, AtomicU64>>,
}

impl Shares {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let shares = Shares { waits: Labelled::default(), computing: Labelled::default() };
        shares.waits.or_insert(Factor { factor: NO_FACTOR.to_owned() }, seconds);
        for step in STEPS {
            shares.computing.of(Computed { step, class: OTHER_CLIENTS.to_owned() });
        }
        registry.register_with_unit(
            "query_wait",
            "Waiting for admission, by what was waited for",
            Unit::Seconds,
            shares.waits.clone(),
        );
        registry.register_with_unit(
            "compute",
            "Scanning, adding up and encoding the days held here, by class of client",
            Unit::Seconds,
            shares.computing.clone(),
        );
        shares
    }

    pub(super) fn waited(&self, factor: Option<&str>, waited: Duration) {
        let factor = factor.unwrap_or(NO_FACTOR).to_owned();
        self.waits.or_insert(Factor { factor }, seconds).observe(waited.as_secs_f64());
    }

    pub(super) fn computed(&self, step: &'static str, class: &str, took: Duration) {
        self.computing.of(Computed { step, class: class.to_owned() }).inc_by(took.as_secs_f64());
    }
}
