//! A distributed overlay network that answers queries over day-partitioned air-quality observations.
//!
//! A leader takes queries; teams own date ranges, their members hold the days; the answer is a *result
//! set* that the client reads chunk by chunk, with a *coverage ledger* that proves it whole.
//!
//! # The map
//!
//! In reading order. A file uses only files below it, plus `config`, `error` and `metrics`.
//!
//! | file | its one job |
//! |---|---|
//! | [`cli`] | arguments -> command -> exit code; one file a command |
//! | [`client`] | the typed client: asks, reads chunks, checks ledger and frames, resumes |
//! | [`node`] | a node's life: wire together, serve, load, drain, end |
//! | [`flight`] | Arrow Flight, a thin adapter over the same node: commands in, the frames as they are out |
//! | [`legacy`] | the `OverlayNode` contract, a thin adapter over the same node |
//! | [`http`] | what browsers and `curl` ask over HTTP, beside both contracts |
//! | [`service`] | `overlay.v1` over the node: messages in, messages out |
//! | [`state`] | what the services of one node share |
//! | [`access`] | who may call what; the guard before every service |
//! | [`coordinator`] | the client verbs: plan, admit, count, cut into chunks, read chunks |
//! | [`gather`] | counts and reads for the node that plans; attempts: retry, failover and hedging in one |
//! | [`relay`] | brings requests to the nodes they are addressed to, around a neighbour that fails |
//! | [`peer`] | the typed connection to a neighbour; checks every answer |
//! | [`wire`] | between values and messages |
//! | [`codec`] | messages into buffers of the right size |
//! | [`holder`] | answers for the days that this node holds, under compute slots |
//! | [`result_set`] | the value that a client reads chunk by chunk, under a lease |
//! | [`params`] | a filter as a JSON object, as the old contract and Arrow Flight take it (pure) |
//! | [`plot`] | pictures as SVG: a map, a time series, a plan and its coverage (pure) |
//! | [`notes`] | what nobody could see from the rows of an answer, in words (pure) |
//! | [`plan`] | request -> plan: days, versions, prunings (pure) |
//! | [`verb`] | the peer verbs as values |
//! | [`inventory`] | what nodes say they hold; who is thought to be alive |
//! | [`connections`] | the connections that a node accepts: how many, what is on its way over them, and for how long |
//! | [`admission`] | query slots, compute slots, the fair queue |
//! | [`chunking`] | how a result is cut into chunks (pure) |
//! | [`coverage`] | the ledger: what became of each planned day; its checks (pure) |
//! | [`route`] | which neighbour leads where; which holder answers for which day (pure) |
//! | [`placement`] | which members hold which days, in which order (pure) |
//! | [`rows`] | frames -> what users read: ndjson, csv, json, an Arrow stream, Parquet (pure) |
//! | [`frame`] | rows of one day -> encoded frame: Arrow IPC, JSON; size bounds, digest (pure) |
//! | [`aggregate`] | partial aggregates: compute, merge, finish; exact (pure) |
//! | [`scan`] | day + predicate -> selection (pure) |
//! | [`load`] | CSV files -> store; reports every row that does not parse; loads days anew when their files change |
//! | [`store`] | days as columns, the site table, statistics, data versions |
//! | [`cache`] | a map that holds at most so many bytes |
//! | [`trace`] | the spans of a query, and the context that carries one trace over all hops |
//! | [`security`] | certificates and tokens: read from files, shown and checked |
//! | [`outside`] | clock, randomness, network, computing: what a node takes from outside |
//! | [`config`] | JSON text -> checked overlay; every problem at once |
//! | [`predicate`], [`decimal`], [`day`] | the values that everything is written in |
//! | [`error`] | one typed cause for each failure, and its only translation to gRPC |
//! | [`metrics`] | every metric, declared once |
//!
//! # The life of one query
//!
//! 1. [`service`], [`legacy`] or [`flight`] turns the request into a [`plan::Query`] and a deadline.
//! 2. [`coordinator`] asks for inventories that it lacks, then [`plan::plan`] pins a version for every
//!    planned day and prunes days by date, place and statistics.
//! 3. An equal result comes from the cache; an equal run in flight is joined; else [`admission`] grants
//!    all slots at once.
//! 4. [`gather`] divides the days among live holders and [`relay`] brings the counts along the
//!    overlay's edges. Days that come back unanswered go to another holder.
//! 5. The [`coverage`] ledger gets one entry a day, [`result_set`] fixes the chunk boundaries, and the
//!    value goes under a lease. From here on nothing is open anywhere.
//! 6. A chunk is read by naming days, versions and row ranges to their holders; the frames pass through
//!    all hops as the bytes they are. [`client`] checks that they tile the ledger.
//!
//! # What is not there
//!
//! - Only `service`, `legacy`, `flight`, `peer`, `client` and `wire` see proto types; `node` registers the services.
//! - `plan`, `route`, `placement`, `coverage`, `frame`, `aggregate`, `scan`, `store` and `load` see no
//!   network and no clock.
//! - Only `trace` and `cli` see what exports traces; a node makes no ids for them, and does nothing for them unless the command has
//!   switched them on.
//! - Nothing is open between nodes: no cursor, no session. A node opens connections to its neighbours only.
//! - No queue, cache or buffer without a limit in [`config`].
//! - No permit is held while a client reads or idles.
//! - Time is the runtime's, which a simulation drives. The date, random numbers, connections, the names of hosts, the
//!   number of cores and threads to compute on come through [`outside`]. (`load` has threads of its own; it ends
//!   before the node serves.)
//!
//! `tests/architecture.rs` keeps the first three over the `use` paths.
//!
//! # Decisions that the contract leaves open
//!
//! - The node that plans chooses the holders itself and addresses each day to one; nodes between pass
//!   items on and only detour around a failing edge. So there is one place for retries, and an answer
//!   names who served.
//! - A limit above `limits.max_rows` is an error on `overlay.v1` and is lowered on the old contract.
//! - Rows whose aggregated column is missing are left out: a group of only missing values does not appear.
//!   Sites that share a name are one group.
//! - A result from the cache takes no slot.
//! - One client leaves a quarter of the slots to others, and one address an eighth, also while nobody else asks: slots are
//!   not what is scarce, and whoever comes starts at once.
//! - Of one client's pieces of work those of the query with the nearest deadline go first, so that its queries end one by one.
//! - Threads that compute have a low priority where the system has priorities for threads: a light query passes several nodes,
//!   and beside threads that scan it would wait at each of them for the processor, which no queue of ours sees.
//! - Whoever is refused by a full queue has an appointment: room is kept for it from others that come meanwhile. A client is
//!   all of its requests; which of them comes at the time does not matter.
//! - Putting a chunk of the old contract together is charged to nobody: it copies at most `chunk_bytes`.
//! - At `limits.result_set_bytes`, the address that has most gives up the result set that its client with most
//!   touched longest ago. Only if no address has two is a query refused, with the time of the next lease's end.
//! - At its own limits a client gives up the result set that it touched longest ago: most clients never say that they have
//!   read enough. One that would lose what it has touched within the last second is refused instead, and may cancel one. Clients of
//!   the old contract cannot, and have one name for all of an address: they always give one up.
//! - `chunk_bytes` is divided by the worst encoded row of the days that rows are taken from, not of all planned
//!   days: else a day beyond the limit, in reach or not, could move a boundary.
//! - A short count goes to the nearest holder, whatever the forwarding strategy (`limits.short_rows`), while that has a free
//!   compute slot: the hop to another one takes longer than the count. A query with a limit counts its days in several goes,
//!   of which each is short or not.
//! - A request that scans more is computed in as many parts as it finds free compute slots, which is one on a busy node.
//! - Who asks for chunks in order has the next ones read before it asks, for at most 80 ms at a time, into the chunk cache and
//!   with a read permit: work for a client that is gone stops within a tenth of a second. Where windows are in vain, since
//!   holders take longer or the cache has no room, there are fewer of them each time.
//! - A frame is encoded in one piece, whatever its rows: it is charged with what encoding them costs, and `chunk_bytes`
//!   keeps it to some milliseconds.
//! - A result from the cache is answered with while its days can be reached, or all chunks of those that cannot are here, as far
//!   as is known: else the query runs anew, and says what it lacks. Holders that fail later are told of by the chunks.
//! - A query that joined the run of another one, and would get less than a whole result only because that one had
//!   less time or a worse place in the queue, runs again on its own.
//! - Planning asks a node that is known to be down only if the query needs a day that nobody else holds, and then at
//!   most once between two probes for all queries together.
//! - Chunks have at most as many rows as their strategy says, and fewer where their worst encoding would
//!   exceed `chunk_bytes`; each further frame in a chunk costs its overhead.
//! - Fixed chunks whose size the client did not choose grow where there would be more than
//!   [`chunking::MAX_CHUNKS`]: a client of the old contract has no other way to what its limit allows.
//! - An answer carries the days that the node answers for, by team, and the client derives the planned days
//!   from them. That proves that nothing was lost on the way, not that the configuration is right.
//! - Data that newer files have replaced are kept where they were for as long as a result set may be, not for as long as one is:
//!   holders do not know leases. A new query is counted from them only if it was planned anew since it came: what it gets was
//!   there then.
//! - Holders tell what they keep of replaced data, and which days had none, the latest [`inventory::MAX_REPLACED_TOLD`]
//!   versions: so a result is resumed also where the node that was asked has restarted. A holder that has restarted itself
//!   knows only its files: what nobody else keeps is lost then, also that a day had no data.
//! - A node that is asked for a result it has in its cache may answer with data that another one has replaced since it was last
//!   probed.
//! - A row without a place is rejected: latitude and longitude are part of what a site is, so an empty one
//!   is no number and -999 is out of range, where other numbers would be missing.
//! - Fixed chunks of a flight, and of an answer over HTTP, have up to 10,000 rows where the client does not say: it reads all of
//!   them, one after the other.
//! - A ticket of Arrow Flight names the client, since its requests cannot: whoever has one reads as that client, from the same
//!   address or with the same token.
//! - Messages name decimals as billionths; concentrations have at most nine decimals.

/// The version; in a release build of a checkout with the commit.
pub const VERSION: &str = env!("OVERLAY_VERSION");

pub mod access;
pub mod admission;
pub mod aggregate;
pub mod cache;
pub mod chunking;
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod connections;
pub mod coordinator;
pub mod coverage;
pub mod day;
pub mod decimal;
pub mod error;
pub mod flight;
pub mod frame;
pub mod gather;
pub mod holder;
pub mod http;
pub mod inventory;
pub mod legacy;
pub mod load;
pub mod metrics;
pub mod node;
pub mod notes;
pub mod outside;
pub mod params;
pub mod peer;
pub mod placement;
pub mod plan;
pub mod plot;
pub mod predicate;
pub mod relay;
pub mod result_set;
pub mod route;
pub mod rows;
pub mod scan;
pub mod security;
pub mod service;
pub mod state;
pub mod store;
pub mod trace;
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

/// A section of the README, for tests that hold it against what there is.
#[cfg(test)]
fn readme(heading: &str) -> &'static str {
    let (_, section) = include_str!("../README.md").split_once(heading).expect("the README has the section");
    section.split("\n#").next().unwrap_or(section)
}
