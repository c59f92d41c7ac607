//! What proves the overlay: generated data, a naive oracle, topologies, drivers and load.
//!
//! Read [`dataset`] for the data that tests run on, [`oracle`] for what the answers should be, and
//! [`load`] for how fast they come.

pub mod calendar;
pub mod cli;
pub mod dataset;
pub mod load;
pub mod oracle;
