//! The overlay node.

pub mod admission;
pub mod aggregate;
pub mod cache;
pub mod cli;
pub mod client;
pub mod config;
pub mod coordinator;
pub mod coverage;
pub mod day;
pub mod decimal;
pub mod error;
pub mod frame;
pub mod gather;
pub mod holder;
pub mod inventory;
pub mod legacy;
pub mod load;
pub mod metrics;
pub mod node;
pub mod outside;
pub mod peer;
pub mod placement;
pub mod plan;
pub mod predicate;
pub mod result_set;
pub mod route;
pub mod scan;
pub mod service;
pub mod state;
pub mod store;
pub mod verb;
pub mod wire;

/// Messages and services generated from `proto/`.
#[expect(missing_docs, clippy::all, reason = "generated code")]
pub mod proto {
    /// `overlay.v1`: client verbs and peer verbs.
    pub mod v1 {
        tonic::include_proto!("overlay.v1");
    }
    /// The contract of the Python system, without a package.
    pub mod legacy {
        tonic::include_proto!("_");
    }
    /// The encoded descriptor set, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
