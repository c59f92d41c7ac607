//! What proves the overlay: generated data, a naive oracle, topologies, drivers and load.
//!
//! Read [`dataset`] for the data that tests run on, [`oracle`] for what the answers should be, [`answer`] for
//! how an answer is compared with it, [`cluster`] for what is asked,
//! and [`load`] for how fast answers come.
//!
//! Of the drivers, [`cluster::InProcessCluster`] proves what is answered (contracts, rows, limits);
//! [`cluster::ProcessCluster`] proves what happens when processes are killed, stopped, starved or restarted.

pub mod answer;
pub mod calendar;
pub mod cli;
pub mod cluster;
pub mod dataset;
pub mod fault;
pub mod load;
pub mod oracle;
pub mod topology;
