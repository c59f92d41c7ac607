//! What proves the overlay: generated data, a naive oracle, topologies, drivers and load.
//!
//! Read [`dataset`] for the data that tests run on.

pub mod calendar;
pub mod cli;
pub mod dataset;
