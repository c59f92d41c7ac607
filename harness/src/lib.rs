//! What proves the overlay: generated data, a naive oracle, topologies, drivers and load.
//!
//! Read [`dataset`] for the data that tests run on and [`oracle`] for what the answers should be.

pub mod calendar;
pub mod cli;
pub mod dataset;
pub mod oracle;
