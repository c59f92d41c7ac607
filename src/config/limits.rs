//! The bounds of every queue, buffer, cache and wait: declared once with default and true bounds.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

/// A whole number in the file, as the field's type.
trait FromWhole {
    fn from_whole(value: u64) -> Self;
}

impl FromWhole for u32 {
    fn from_whole(value: u64) -> Self {
        value as u32
    }
}

impl FromWhole for u64 {
    fn from_whole(value: u64) -> Self {
        value
    }
}

impl FromWhole for usize {
    fn from_whole(value: u64) -> Self {
        value as usize
    }
}

impl FromWhole for Option<usize> {
    fn from_whole(value: u64) -> Self {
        Some(value as usize)
    }
}

/// A key with the least and the largest value it takes, both inclusive.
pub(super) struct Bound {
    pub(super) key: &'static str,
    pub(super) least: u64,
    pub(super) most: u64,
}

/// Declares a struct of whole numbers: `field: type = default, least..=most`. Every bound fits the type on
/// every platform.
macro_rules! bounded {
    (
        $(#[$meta:meta])*
        $name:ident {
            $($(#[$doc:meta])* $field:ident: $type:ty = $default:expr, $least:literal..=$most:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
        #[schemars(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[$doc])*
                #[doc = concat!("From ", stringify!($least), " to ", stringify!($most), ".")]
                #[schemars(range(min = $least, max = $most))]
                pub $field: $type,
            )*
        }

        impl $name {
            pub(super) const BOUNDS: &[Bound] = &[$(
                Bound { key: stringify!($field), least: $least, most: $most },
            )*];

            /// Sets the field `key` to a value inside its bounds.
            pub(super) fn set(&mut self, key: &str, value: u64) {
                match key {
                    $(stringify!($field) => self.$field = FromWhole::from_whole(value),)*
                    _ => {}
                }
            }
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)* }
            }
        }
    };
}

bounded! {
    /// What each queue, buffer and wait of a node may grow to.
    Limits {
        /// Queries that run at once, default 100. One client leaves a quarter of them to others, one address an eighth.
        /// Raising it shortens the queue and lengthens each run.
        max_active: usize = 100, 1..=100_000;
        /// Slots of one team in use at once, default 60; a client leaves a quarter of them to others, an address an
        /// eighth. Raising it lets one team crowd out the others.
        per_team_limit: usize = 60, 1..=100_000;
        /// Queries that wait at once, default 1000; beyond it the last of the longest line is refused. Raising it
        /// trades refusals for waiting. 0 refuses whatever cannot run at once.
        queue_length: usize = 1000, 0..=1_000_000;
        /// Pieces of scanning and encoding that run at once, default: the cores of the machine. Raising it
        /// beyond the cores makes each piece slower.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(with = "usize")]
        compute_slots: Option<usize> = None, 1..=4096;
        /// Rows of one piece of computing, default 65,536. Raising it costs fairness and saves overhead.
        quantum_rows: u64 = 65_536, 1..=16_777_216;
        /// Rows to scan up to which a query is short, default 65,536: the nearest holder counts them, whatever the forwarding
        /// strategy, in the thread that answers. A hop, or another thread, takes longer than some 50 microseconds of
        /// computing. 0 leaves every query to the strategy.
        short_rows: u64 = 65_536, 0..=16_777_216;
        /// Pieces of computing, or chunk reads, that wait at once, default 4096; beyond it the last of the longest
        /// line is refused. A request has one piece at a time, or as many as it found free slots, so `peer_requests`
        /// and `reads_in_flight` bound them too.
        compute_queue_length: usize = 4096, 0..=1_000_000;
        /// Times that a waiting query is passed over before it reserves its slots, default 16. Raising it keeps
        /// slots busier and lets queries over many teams wait longer.
        max_bypass: u32 = 16, 0..=1_000_000;
        /// Milliseconds that a query without a client's deadline may take, default 30 seconds.
        query_ms: u64 = 30_000, 1..=3_600_000;
        /// Milliseconds that a node finishes work in after it was asked to shut down, default 10 seconds.
        grace_ms: u64 = 10_000, 0..=3_600_000;
        /// Rows of one result, default 100 million. A result costs memory by its chunks, not by its rows.
        max_rows: u64 = 100_000_000, 1..=1_000_000_000;
        /// Groups of one aggregate, at each hop, default 200,000. Raising it costs about 100 bytes a group; an answer
        /// between nodes has at most 64 MiB.
        max_groups: usize = 200_000, 1..=1_000_000;
        /// Bytes of one chunk, default 1 MiB. gRPC clients accept messages of 4 MiB unless told otherwise, so
        /// the bound leaves a quarter for the frames' own fields.
        chunk_bytes: usize = 1_048_576, 4096..=3_145_728;
        /// Milliseconds that a result set stays after its last touch, default 5 minutes.
        result_ttl_ms: u64 = 300_000, 1..=86_400_000;
        /// Milliseconds that a result set stays at most, however often it is touched, default one hour; at
        /// least `result_ttl_ms`.
        result_max_age_ms: u64 = 3_600_000, 1..=604_800_000;
        /// Bytes of result sets under a lease, default 64 MiB. One over 46 days takes some 15 KB. At the limit the
        /// address with the most bytes loses a result set: the one that its largest client has left untouched for the
        /// longest.
        result_set_bytes: usize = 67_108_864, 65_536..=1_073_741_824;
        /// Result sets under a lease of one client, default 1000. At the limit it gives up the one that it touched longest
        /// ago, if that was a second ago or more, and is refused otherwise; a client of the old contract never is.
        client_result_sets: usize = 1000, 1..=1_000_000;
        /// Bytes of result sets under a lease of one client, default 16 MiB; as `client_result_sets`.
        client_result_set_bytes: usize = 16_777_216, 65_536..=1_073_741_824;
        /// Chunk reads at once at the node that clients talk to, default 256. Each costs up to `chunk_bytes`.
        reads_in_flight: usize = 256, 1..=65_536;
        /// Requests of peers at once, default 1024: all queries and chunk reads of a leader, and as many again.
        /// Each costs up to `chunk_bytes`.
        peer_requests: usize = 1024, 1..=65_536;
        /// Streams of chunks open at once, those of `StreamChunks` and Arrow Flight together, default 128; the next one is
        /// refused. One address leaves an eighth of them to others. Each costs up to `chunk_bytes` while its client takes
        /// nothing.
        streams: usize = 128, 1..=65_536;
        /// Requests at once on one connection, default 1024; the next one waits at the client. A neighbour sends
        /// all its requests on one connection, so fewer than `peer_requests` slow queries down.
        connection_requests: u32 = 1024, 1..=65_536;
        /// Connections open at once, default 4096; the next one is told so and closed. Raising it costs some 30 KiB for each,
        /// and takes an open file of those that the system allows the process.
        connections: usize = 4096, 1..=1_000_000;
        /// Connections open at once from one address (of IPv6, its network of 64 bits), default 2048, so that one address
        /// leaves places to others. Raising it to `connections` or beyond leaves them none.
        address_connections: usize = 2048, 1..=1_000_000;
        /// Milliseconds in which a client has to begin to speak HTTP, default 10 seconds; then the connection is closed.
        handshake_ms: u64 = 10_000, 10..=600_000;
        /// Milliseconds between two pings to a client, and that it may take to answer one, default 20 seconds; then the
        /// connection is closed. HTTP/1.1 has no pings: it is the time to the end of the head of the next request. Raising it
        /// keeps what silent clients hold for longer.
        ping_ms: u64 = 20_000, 10..=600_000;
        /// Bytes of a request's headers, default 16 KiB, each with 32 more; a request with more is refused. In HTTP/1.1 they are
        /// the bytes of the whole head, at least 8192, in at most 100 headers.
        header_bytes: u32 = 16_384, 1024..=1_048_576;
        /// Milliseconds that a request's message may take to arrive after its headers, default 20 seconds; then it is
        /// answered DEADLINE_EXCEEDED.
        request_ms: u64 = 20_000, 10..=600_000;
        /// Milliseconds in which the client of a stream has to take a chunk, or a message of a flight, default one minute; then
        /// the stream ends with DEADLINE_EXCEEDED, which gives back its place among `streams` and the chunks that were read for it.
        idle_stream_ms: u64 = 60_000, 10..=3_600_000;
        /// Milliseconds in which a client has to take a message of an answer whole, such as a chunk, default two minutes; then
        /// its connection is closed, which frees what is left of all answers on it.
        untaken_ms: u64 = 120_000, 10..=3_600_000;
        /// Bytes of requests, with `header_bytes` for each, and of answers that wait to be taken, default 256 MiB; at the limit
        /// requests are refused. One address leaves an eighth to others. An answer between nodes has up to 64 MiB.
        transit_bytes: usize = 268_435_456, 134_217_728..=2_000_000_000;
        /// Nodes that a request may have passed, default 32. It must be at least the distance of the farthest
        /// node from the leader.
        max_hops: usize = 32, 1..=1024;
        /// Bytes of a filter (`query_params`, or a command of Arrow Flight), default 64 KiB; at most `message_bytes`.
        filter_bytes: usize = 65_536, 256..=1_048_576;
        /// Bytes of a client's request, default 1 MiB.
        message_bytes: usize = 1_048_576, 4096..=16_777_216;
        /// Bytes of a request of the old contract, default 16 MiB. That contract gives its answers in `status`, also
        /// to a filter beyond `filter_bytes`, which has to be read for it.
        legacy_message_bytes: usize = 16_777_216, 4096..=67_108_864;
        /// Requests beyond the first ones that one query or chunk read may send after failures, default 64. Raising it lets
        /// a query try more holders while many nodes are down.
        query_retries: u32 = 64, 0..=65_536;
        /// Retries that one neighbour is sent at once, default 1024; ten come back each second, and one with every fifth
        /// answer. Raising it spares queries when a node fails, and adds to the load of those that are left.
        neighbour_retries: u32 = 1024, 0..=65_536;
        /// Milliseconds after which a neighbour that answers no ping is taken for hanging, default one second.
        /// Raising it delays failover and spares slow neighbours.
        keepalive_ms: u64 = 1000, 10..=600_000;
        /// Milliseconds that connecting to a neighbour may take, and the TLS handshake of whoever connects, default one second.
        connect_ms: u64 = 1000, 10..=600_000;
        /// Milliseconds between two questions to a neighbour that is not up, default one second. Raising it
        /// delays the return of a neighbour and saves connections.
        probe_ms: u64 = 1000, 10..=600_000;
        /// Milliseconds between two looks at the files of a dataset that is watched, default one second. Raising it delays new
        /// data and spares the file system.
        watch_ms: u64 = 1000, 10..=3_600_000;
        /// Bytes of data that newer files have replaced and that result sets may still be read from, default 256 MiB; at the
        /// limit the oldest go, and what is left of their result sets is lost. They are kept for as long as a result set may
        /// be.
        replaced_bytes: usize = 268_435_456, 0..=2_000_000_000;
    }
}

bounded! {
    /// What each cache of a node may grow to; what was used least recently makes room. 0 turns a cache off.
    CacheLimits {
        /// Bytes of manifests of finished queries, default 16 MiB. Each takes one to a few kilobytes.
        result_bytes: usize = 16_777_216, 0..=1_073_741_824;
        /// Bytes of chunks at the node that clients talk to, default 8 MiB. Raising it saves reading the same
        /// chunks again.
        chunk_bytes: usize = 8_388_608, 0..=1_073_741_824;
        /// Bytes of selections at a holder, default 8 MiB. Raising it saves scans of days read again.
        selection_bytes: usize = 8_388_608, 0..=2_000_000_000;
        /// Bytes of finished aggregates, default 32 MiB.
        aggregate_bytes: usize = 33_554_432, 0..=2_000_000_000;
    }
}

impl Limits {
    /// `query_ms`.
    pub fn query(&self) -> Duration {
        Duration::from_millis(self.query_ms)
    }

    /// `grace_ms`.
    pub fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    /// `result_ttl_ms`.
    pub fn result_ttl(&self) -> Duration {
        Duration::from_millis(self.result_ttl_ms)
    }

    /// `result_max_age_ms`.
    pub fn result_max_age(&self) -> Duration {
        Duration::from_millis(self.result_max_age_ms)
    }

    /// `handshake_ms`.
    pub fn handshake(&self) -> Duration {
        Duration::from_millis(self.handshake_ms)
    }

    /// `ping_ms`.
    pub fn ping(&self) -> Duration {
        Duration::from_millis(self.ping_ms)
    }

    /// `request_ms`.
    pub fn request(&self) -> Duration {
        Duration::from_millis(self.request_ms)
    }

    /// `idle_stream_ms`.
    pub fn idle_stream(&self) -> Duration {
        Duration::from_millis(self.idle_stream_ms)
    }

    /// `untaken_ms`.
    pub fn untaken(&self) -> Duration {
        Duration::from_millis(self.untaken_ms)
    }

    /// `keepalive_ms`.
    pub fn keepalive(&self) -> Duration {
        Duration::from_millis(self.keepalive_ms)
    }

    /// `connect_ms`.
    pub fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }

    /// `probe_ms`.
    pub fn probe(&self) -> Duration {
        Duration::from_millis(self.probe_ms)
    }

    /// `watch_ms`.
    pub fn watch(&self) -> Duration {
        Duration::from_millis(self.watch_ms)
    }

    /// How long replaced data are kept: as long as a result set may be, whose query may have begun just before they were
    /// replaced, or been answered from the cache of a node that had not heard of it, which asks at every probe.
    pub fn replaced(&self) -> Duration {
        self.result_max_age() + self.query() + 2 * self.probe()
    }
}
