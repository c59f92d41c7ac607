//! Who waited for what, and for whom was computed: by limiting factor, and by class of client.
//!
//! A class is a name in `clients` of the configuration; all others are one class, so that clients make no labels of their own.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Unit;

use super::{Declaring, Labelled, seconds};

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
    pub(super) fn declare(all: &mut Declaring) -> Self {
        let waits: Labelled<Factor, Histogram> = Labelled::default();
        waits.or_insert(Factor { factor: NO_FACTOR.to_owned() }, seconds);
        let computing: Labelled<Computed, _> = Labelled::default();
        for step in STEPS {
            computing.of(Computed { step, class: OTHER_CLIENTS.to_owned() });
        }
        let waits_help = "Waiting for admission, by what was waited for";
        let computing_help = "Scanning, adding up and encoding the days held here, by class of client";
        Shares {
            waits: all.with_unit("query_wait", waits_help, Unit::Seconds, waits),
            computing: all.with_unit("compute", computing_help, Unit::Seconds, computing),
        }
    }

    pub(super) fn waited(&self, factor: Option<&str>, waited: Duration) {
        let factor = factor.unwrap_or(NO_FACTOR).to_owned();
        self.waits.or_insert(Factor { factor }, seconds).observe(waited.as_secs_f64());
    }

    pub(super) fn computed(&self, step: &'static str, class: &str, took: Duration) {
        self.computing.of(Computed { step, class: class.to_owned() }).inc_by(took.as_secs_f64());
    }
}
