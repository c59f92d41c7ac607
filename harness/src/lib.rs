//! What proves the overlay: generated data, a naive oracle, topologies, faults, drivers and load.
//!
//! It is used from inside this workspace: for an overlay of yours, bring a configuration and a dataset.
//!
//! Read [`dataset`] for the data that tests run on, [`oracle`] for what the answers should be, [`answer`] for
//! how an answer is compared with it, [`for_all`] for how a property is tried on random inputs, [`fuzz`] for what decoders are tried on, [`topology`] for who
//! is there, [`cluster`] for what is asked, [`fault`] for what goes wrong meanwhile, [`load`] for how fast answers
//! come, [`policies`] for what different ways of sharing a node do to a workload, [`fluid`] being the fairest that
//! there could be, [`rivals`] for clients that share a node, which [`fairness`] and [`abandon`] measure over processes, [`mod@bench`] for how near all of it comes to what is possible, [`scaling`] for how costs grow with rows and with nodes, [`scenario`] for random runs of whole overlays, [`property`] for what must hold in them, [`report`]
//! for what is shown afterwards, [`snapshot`] for what snapshots leave out, [`skip`] for what a machine
//! cannot offer, [`proc`] for what the system says of processes, [`scratch`] for where files go that nobody keeps, and [`mutants`] for what the tests are worth.
//!
//! # Which driver proves what
//!
//! A test body takes `&mut dyn `[`Cluster`](cluster::Cluster) and runs on every [`Driver`](cluster::Driver).
//!
//! | driver | proves | cannot show | faults |
//! |---|---|---|---|
//! | in-process | what is answered: contracts, rows, limits; a node's inner state is at hand | signals, crashes of a process | crash |
//! | processes | the command itself: kill -9, SIGTERM, hanging processes, restarts, memory, logs | networks that fail | crash, hang |
//! | namespaces | processes on two hosts, the two-host file as it stands, what real TCP makes of a bad wire; Linux, as root | faults inside a host; the same run twice | crash, hang; partition, delay, loss and slow by host |
//! | simulated | what faults between nodes do, at any moment, repeatably; hours of leases in a second | threads, signals, sockets, memory | all |
//!
//! `tests/conformance.rs` holds them to the same answers, `tests/determinism.rs` the simulated one to the
//! same bytes for the same seed, in one process and over two. `tests/full_topology` walks every RPC of every service
//! over six processes, on the fixtures and on the real data.
//!
//! # What stays behind
//!
//! No process and no namespace; on Linux no temporary file either (`target/mutants` and `.snap.new` stay on purpose). What a test starts ends on drop; when the test is killed, or interrupted, its processes end as their standard
//! input does, namespaces go with their last process, and its files, which have no owner any more, are removed by the next
//! run: see [`scratch`], which tests have their folders from.
//!
//! # Mutants
//!
//! [`mutants`] lists faults of one line, each with the tests that notice it. `scripts/mutants` puts them into a copy of the
//! node, one after the other, and fails if a test passes nevertheless. Who changes a line that a mutant names
//! changes the list with it: `tests/mutants.rs` says so at once. Who finds a fault that no test notices writes the test,
//! and lists both.
//!
//! # Another test
//!
//! Tests stand in `harness/tests/`, where the binary is known that the process drivers start. In `conformance.rs`
//! one body runs on every driver and topology:
//!
//! ```text
//! #[test]
//! fn leader_answers() {
//!     on_every_driver(&topologies(), json!({}), async |cluster| {
//!         let result = client_of_leader(cluster).query(&Query::default()).await.unwrap();
//!         // ... compare with oracle_of(cluster)
//!     });
//! }
//! ```
//!
//! For one driver, `Driver::InProcess.run(ClusterSpec::of(&topology, &fixtures()), async |cluster| ...)`.
//!
//! # Another topology
//!
//! ```
//! use overlay_harness::topology::{Shape, TopologyBuilder};
//!
//! // Three teams of four, two and two members, chains below their team leaders, D also below B;
//! // each day lies on two members.
//! let topology = TopologyBuilder::teams(&[4, 2, 2])
//!     .shape(Shape::Trees { fan_out: 1 })
//!     .edge(1, 3)
//!     .replicas(2)
//!     .build();
//! assert_eq!(topology.to_string(), "A -> B(C(D), D(E)), F(G), H(I)");
//! ```
//!
//! [`TopologyBuilder`](topology::TopologyBuilder) is plain data: set its fields for teams with other days or
//! weights; `edge` counts nodes from the leader, which is 0. A configuration file is read by
//! [`Topology::read`](topology::Topology::read). What is no part of the graph (limits, strategies, caches) is set by
//! [`ClusterSpec::with`](cluster::ClusterSpec::with), or stays if the file's JSON is given to
//! [`ClusterSpec::new`](cluster::ClusterSpec::new). For all checks, add it to `topologies()` of `conformance.rs`.
//!
//! # Random runs, and what to do when one fails
//!
//! ```text
//! scripts/simulate --seeds 1000
//! ```
//!
//! draws topologies, data of one or two versions, settings, questions and faults, and holds every answer against the oracle in virtual time;
//! `tests/scenarios.rs` does so for a few seeds. What fails is shrunk, and printed with the nodes' state and a `replay`
//! command, which repeats the run step by step. In a debugger, or with another line in the code, that is
//! the same run again: on the simulated driver equal seeds give equal bytes. `--steps` stops early, and `--driver` has to be
//! the one that failed: another one draws another run from the same seed. A property that only
//! needs random inputs, and no overlay, stands in a test of its own, see [`for_all`].
//!
//! # Another property
//!
//! Add a function to [`property`] that judges what was asked against what came, and call it in `scenario/run.rs` where
//! a run sees that. What has to happen for it to be tried at all is a [`Step`](scenario::step::Step), drawn in
//! `scenario/draw.rs` and `scenario/step.rs`; what is drawn anew there changes what every seed means. Then break the node on
//! purpose, see it fail, and list the fault as a mutant, killed by `scenarios`.
//!
//! # Another driver
//!
//! Implement [`Cluster`](cluster::Cluster) in a file of `cluster/`, add a variant to
//! [`Driver`](cluster::Driver) with the reason why a machine may lack it, and list it in `drivers()` of
//! `tests/conformance.rs`. It must end everything on drop, wait for readiness by observing it, and
//! answer [`Unsupported`](cluster::ClusterError::Unsupported) for a fault that it has no means for.
//!
//! # Another load transaction
//!
//! Add a variant to `Transaction` in `load/mix.rs` with its name, and its weight in the mixes that shall have it; say what
//! it does and what a right answer is in `load/user.rs`.
//!
//! # Another fault
//!
//! Add a variant to [`Fault`](fault::Fault) with its words for reports. The simulated network asks
//! `cluster/sim/conditions.rs` what faults mean for a connection: that is the place for its effect. What a node says
//! wrongly is put into its answers by a proxy before it, in `cluster/sim/forge.rs`. Whether answers depend on it is decided in
//! `scenario/reach.rs`. Real drivers refuse it until they can do it. Then let `tests/determinism.rs` inject it.

pub mod abandon;
pub mod answer;
pub mod bench;
pub mod calendar;
pub mod cli;
pub mod cluster;
pub mod dataset;
pub mod drain;
pub mod failover;
pub mod fairness;
pub mod fault;
pub mod fluid;
pub mod for_all;
pub mod fuzz;
pub mod load;
pub mod mutants;
pub mod oracle;
pub mod policies;
pub mod proc;
pub mod property;
pub mod report;
pub mod rivals;
pub mod scaling;
pub mod scenario;
pub mod scratch;
pub mod skip;
pub mod snapshot;
pub mod soak;
pub mod topology;
