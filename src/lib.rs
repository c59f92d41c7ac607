//! The overlay node.

pub mod config;
pub mod day;
pub mod decimal;
pub mod placement;
pub mod predicate;
pub mod route;

/// Messages and services generated from `proto/`.
#[expect(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
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
