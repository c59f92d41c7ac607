//! Every message that a user can get when something goes wrong.
//!
//! Check that each says what, which one, found against allowed, and the choices or the next step; and, for a
//! query, that the codes of both contracts tell its causes apart. A variant that has no example here does not
//! compile: `messages!` matches on all of them.

use std::error::Error;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use goose::GooseError;
use insta::assert_snapshot;
use overlay::admission::{AdmissionError, Overloaded};
use overlay::aggregate;
use overlay::client::ClientError;
use overlay::config::{NodeId, Overlay};
use overlay::coverage::Gap;
use overlay::day::Day;
use overlay::decimal::{Decimal, InvalidDecimal};
use overlay::error::{MissingDay, QueryError};
use overlay::frame::{self, FrameError};
use overlay::legacy;
use overlay::load::{LoadError, RejectedRow};
use overlay::node::NodeError;
use overlay::peer::PeerError;
use overlay::plan::InvalidQuery;
use overlay::result_set::{LeaseError, ResultSetLimit, TooManyResultSets};
use overlay::security::SecurityError;
use overlay::store::{TooManyMeasures, Version};
use overlay::wire::Malformed;
use overlay_harness::cluster::ClusterError;
use overlay_harness::dataset::{DatasetError, DatasetSpec};
use overlay_harness::fault::Fault;
use overlay_harness::load::{Threshold, Work};
use overlay_harness::oracle::OracleError;
use overlay_harness::policies::{Workload, WorkloadError};
use overlay_harness::snapshot::Redactions;
use tonic::Status;
use tonic::transport::Endpoint;
use tonic_types::StatusExt;

/// A table of one enum: each variant with the messages of its examples. An enum with a variant that the table
/// lacks does not compile, and neither does a variant without an example.
macro_rules! messages {
    ($type:ident as $shown:expr; $($variant:ident: [$($example:expr),+ $(,)?];)*) => {{
        let variant_of = |error: &$type| match error {
            $($type::$variant { .. } => stringify!($variant),)*
        };
        let mut table = String::new();
        $($({
            let example: $type = $example;
            assert_eq!(variant_of(&example), stringify!($variant), "stands under its variant");
            let shown: fn(&$type) -> String = $shown;
            writeln!(table, "{}::{}\n{}", stringify!($type), stringify!($variant), shown(&example)).unwrap();
        })+)*
        table
    }};
}

/// The message and its causes, as the command line prints them.
fn message<E: Error>(error: &E) -> String {
    let mut text = format!("  {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        writeln!(text, "  caused by: {error}").unwrap();
        cause = error.source();
    }
    text
}

fn day(number: u64) -> Day {
    Day::from_number(number).unwrap()
}

fn node(id: &str) -> NodeId {
    NodeId::from(id)
}

fn overloaded(what: [&'static str; 2], limit_name: &'static str) -> Overloaded {
    Overloaded {
        what,
        limit_name,
        limit: 64,
        found: 64,
        limiting_factor: "max_active".to_owned(),
        retry_after: Duration::from_millis(250),
    }
}

fn missing(number: u64, why: &str, nodes_tried: &[&str]) -> MissingDay {
    let nodes_tried = nodes_tried.iter().map(|id| (*id).to_owned()).collect();
    MissingDay { day: day(number), why: why.to_owned(), nodes_tried }
}

fn too_many(of: ResultSetLimit, found: usize, limit: usize) -> TooManyResultSets {
    TooManyResultSets { of, found, limit, retry_after: Duration::from_millis(1500) }
}

/// Each way in which a query or a chunk can fail, as `overlay.v1` says it (code, time to come back, message) and
/// as `OverlayNode` does (`status` of Query and of GetChunk).
#[test]
fn query_errors_tell_their_causes_apart() {
    let _redacted = Redactions::new().bind();
    let refused = "neighbour `E` (192.168.1.1:60055) did not answer: connection refused";
    let many_days = (20200821..=20200827).map(|number| missing(number, "no live holder", &[])).collect();
    let table = messages! { QueryError as both_contracts;
        Invalid: [InvalidQuery::new("date_start", "date_start 20200820 is after date_end 20200810").into()];
        Loop: [QueryError::Loop("A".to_owned())];
        Overloaded: [
            QueryError::from_admission(overloaded(["query waiting", "queries waiting"], "limits.queue_length").into(), "A"),
            too_many(ResultSetLimit::Bytes, 67_100_000, 67_108_864).into(),
            too_many(ResultSetLimit::OfClient, 1000, 1000).into(),
            too_many(ResultSetLimit::BytesOfClient, 16_770_000, 16_777_216).into(),
        ];
        TooLarge: [QueryError::TooLarge {
            limit: "limits.max_groups",
            message: aggregate::too_many_groups(200_000),
        }];
        NotServing: [
            QueryError::NotServing { node: "A".to_owned(), state: "loading" },
            QueryError::from_admission(AdmissionError::Draining, "A"),
        ];
        Unavailable: [
            QueryError::Unavailable(vec![missing(20200821, refused, &["E", "D", "F"])]),
            QueryError::Unavailable(many_days),
        ];
        DataLoss: [QueryError::DataLoss(vec![missing(20200821, "no holder has version 0a1b any more", &["E"])])];
        Lease: [
            LeaseError::Unknown("A-1-1-ff".to_owned()).into(),
            LeaseError::Expired("A-1-1-ff".to_owned()).into(),
        ];
        OutOfRange: [QueryError::OutOfRange { index: 8, chunk_count: 8 }];
        NotAllowed: [
            QueryError::NotAllowed("shutdown is taken from loopback or the node's own address".to_owned()),
        ];
        DeadlineExceeded: [QueryError::DeadlineExceeded { waited: Duration::from_millis(2000) }];
        Cancelled: [QueryError::Cancelled];
    };
    assert_snapshot!("query_errors", table);
}

fn both_contracts(error: &QueryError) -> String {
    let status = error.to_status();
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let retry = retry.map_or_else(String::new, |delay| format!(", retry after {} ms", delay.as_millis()));
    format!(
        "  {}\n  overlay.v1   {:?}{retry}\n  OverlayNode  Query {}\n               GetChunk {}\n  metrics      {}\n",
        status.message(),
        status.code(),
        legacy::query_status(error),
        legacy::chunk_status(error),
        error.outcome(),
    )
}

/// What the queues of a node answer when they take nobody any more; the lease of a result set.
#[test]
fn admission_and_leases() {
    let _redacted = Redactions::new().bind();
    let admission = messages! { AdmissionError as message;
        Overloaded: [
            overloaded(["query waiting", "queries waiting"], "limits.queue_length").into(),
            Overloaded { found: 1, limit: 1, ..overloaded(["query waiting", "queries waiting"], "limits.queue_length") }.into(),
            overloaded(["piece of work waiting", "pieces of work waiting"], "limits.compute_queue_length").into(),
        ];
        Draining: [AdmissionError::Draining];
    };
    let lease = messages! { LeaseError as message;
        Unknown: [LeaseError::Unknown("A-1-1-ff".to_owned())];
        Expired: [LeaseError::Expired("A-1-1-ff".to_owned())];
    };
    assert_snapshot!("admission_errors", admission + &lease);
}

/// Between nodes: each names the neighbour and where it listens.
#[test]
fn neighbours() {
    let _redacted = Redactions::new().bind();
    let (id, address) = (node("E"), "192.168.1.1:60055".to_owned());
    let table = messages! { PeerError as message;
        Transport: [PeerError::Transport { node: id, address, why: "connection refused".to_owned() }];
        TimedOut: [PeerError::TimedOut {
            node: node("E"), address: "192.168.1.1:60055".to_owned(), waited: Duration::from_secs(2),
        }];
        Overloaded: [PeerError::Overloaded {
            node: node("E"), address: "192.168.1.1:60055".to_owned(), why: "64 requests in flight, limit 64".to_owned(),
            retry_after: Duration::from_millis(250),
        }];
        TooLarge: [PeerError::TooLarge {
            node: node("E"), address: "192.168.1.1:60055".to_owned(), why: "decoded message length too large".to_owned(),
        }];
        BadAnswer: [PeerError::BadAnswer {
            node: node("E"),
            address: "192.168.1.1:60055".to_owned(),
            what: "the first frame of day 20200821 is absent".to_owned(),
        }];
    };
    assert_snapshot!("peer_errors", table);
}

/// What the typed client says, and what is wrong with a ledger that proves nothing.
#[test]
fn clients() {
    let _redacted = Redactions::new().bind();
    let address = || "127.0.0.1:60051".to_owned();
    let client = messages! { ClientError as message;
        Address: [ClientError::Address { address: "localhost".to_owned() }];
        Status: [
            ClientError::Status {
                address: address(),
                status: Box::new(QueryError::from(LeaseError::Unknown("A-1-1-ff".to_owned())).to_status()),
            },
            ClientError::Status { address: address(), status: Box::new(Status::unimplemented("")) },
        ];
        Malformed: [ClientError::Malformed {
            address: address(),
            malformed: Malformed { field: "version", what: "3 bytes, expected 16".to_owned() },
        }];
        Unproven: [ClientError::Unproven {
            address: address(),
            gap: Gap::WrongTotal { found: 7, expected: 8 },
        }];
        Contradiction: [ClientError::Contradiction {
            address: address(),
            what: "chunk 3 came for chunk 2".to_owned(),
        }];
    };
    let gaps = messages! { Gap as message;
        NotThePlan: [
            Gap::NotThePlan { index: 1, found: "day 20200812".to_owned(), expected: "day 20200811".to_owned() },
            Gap::NotThePlan { index: 1, found: "no day".to_owned(), expected: "day 20200811".to_owned() },
        ];
        NotTheOwner: [Gap::NotTheOwner {
            day: day(20200821), found: "green".to_owned(), expected: "pink".to_owned(),
        }];
        BeyondTheLimit: [Gap::BeyondTheLimit { found: 9, limit: 8 }];
        TakenBeyondMatched: [Gap::TakenBeyondMatched { day: day(20200810), taken: 9, matched: 8 }];
        WrongTotal: [Gap::WrongTotal { found: 7, expected: 8 }];
        LeftOut: [Gap::LeftOut { day: day(20200810), left_out: 3 }];
        Undeclared: [Gap::Undeclared { day: day(20200821), why: "no live holder".to_owned() }];
    };
    assert_snapshot!("client_errors", client + &gaps);
}

/// Why a node does not start or go on, and why a dataset cannot be read at all.
#[test]
fn nodes_and_their_data() {
    let _redacted = Redactions::new().bind();
    let nodes = messages! { NodeError as message;
        UnknownProcess: [NodeError::UnknownProcess { id: "Z".to_owned(), known: "A, B, C".to_owned() }];
        NoDatasetRoot: [NodeError::NoDatasetRoot(node("B"))];
        Load: [NodeError::Load {
            node: node("B"),
            why: LoadError::NotAFolder(PathBuf::from("data")).to_string(),
        }];
        Security: [NodeError::Security(SecurityError {
            file: PathBuf::from("certs/B.pem"),
            what: "holds no certificate in PEM format".to_owned(),
        })];
        Serve: [NodeError::Serve { node: node("B"), why: "address already in use".to_owned() }];
    };
    let denied = || io::Error::new(io::ErrorKind::PermissionDenied, "permission denied");
    let load = messages! { LoadError as message;
        NotAFolder: [LoadError::NotAFolder(PathBuf::from("data"))];
        NoDays: [LoadError::NoDays(PathBuf::from("data"))];
        Unreadable: [LoadError::Unreadable { path: PathBuf::from("data/20200810"), why: denied() }];
        NotUtf8: [LoadError::NotUtf8(PathBuf::from("data/20200810/?.csv"))];
        TooManyMeasures: [LoadError::TooManyMeasures(TooManyMeasures)];
        SameStem: [LoadError::SameStem(
            PathBuf::from("data/20200810/20200810-01.csv"),
            PathBuf::from("data/20200810/20200810-01.csv.gz"),
        )];
        Rejected: [LoadError::Rejected(RejectedRow {
            file: PathBuf::from("data/20200810/20200810-01.csv"),
            line: 17,
            reason: "12 fields, expected 13".to_owned(),
        })];
    };
    assert_snapshot!("node_errors", nodes + &load);
}

/// What no value can be read from: days, hashes, numbers, frames.
#[test]
fn values_and_frames() {
    let _redacted = Redactions::new().bind();
    let mut table = String::new();
    for text in ["20200231", "2020-08-10", ""] {
        writeln!(table, "Day {text:?}\n{}", message(&text.parse::<Day>().unwrap_err())).unwrap();
    }
    for text in ["12", "0a1b2c3d4e5f60718293a4b5c6d7e8fg"] {
        writeln!(table, "Version {text:?}\n{}", message(&text.parse::<Version>().unwrap_err())).unwrap();
    }
    let decimal = |text: &str| Decimal::parse(text).unwrap_err();
    table += &messages! { InvalidDecimal as message;
        NotANumber: [decimal("1,5"), decimal("NaN"), decimal("")];
        TooManyDigits: [decimal(&"9".repeat(60))];
        OutOfRange: [decimal("1e12"), decimal("0.0000000001")];
    };
    let arrow = |payload: &[u8]| frame::decode_arrow(&frame::schema_message(), payload).unwrap_err();
    let json = |payload: &[u8]| frame::json_row_count(payload, &["a".to_owned()]).unwrap_err();
    // Their causes stand in their words.
    table += &messages! { FrameError as |error| format!("  {error}\n");
        NotArrow: [arrow(b"short"), arrow(&[0; 64])];
        Arrow: [FrameError::Arrow(arrow_schema::ArrowError::IpcError("a buffer ends early".to_owned()))];
        NotUtf8: [json(&[b'{', 0xe4, b'}'])];
        Json: [json(b"{\"a\":1}{"), json(b"1"), json(b"{\"b\":1}")];
    };
    assert_snapshot!("value_errors", table);
}

/// The harness's own commands and clusters.
#[test]
fn harness() {
    use overlay_harness::load::LoadError;
    let _redacted = Redactions::new().bind();
    let folder = overlay_harness::scratch::folder().unwrap();
    let invalid = |spec: DatasetSpec| spec.write(folder.path()).unwrap_err();
    let default = DatasetSpec::default;
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
    let mut table = messages! { DatasetError as message;
        InvalidSpec: [
            invalid(DatasetSpec { first_day: 20200230, ..default() }),
            invalid(DatasetSpec { last_day: 20200809, ..default() }),
            invalid(DatasetSpec { sites: 0, ..default() }),
            invalid(DatasetSpec { hours: [24].into(), ..default() }),
        ];
        NotEmpty: [DatasetError::NotEmpty(PathBuf::from("data"))];
        Io: [DatasetError::Io { path: PathBuf::from("data"), source: missing() }];
    };
    table += &messages! { OracleError as message;
        Io: [OracleError::Io { path: PathBuf::from("data"), source: missing() }];
        Compressed: [OracleError::Compressed(PathBuf::from("data/20200810/20200810-01.csv.gz"))];
    };
    table += &messages! { LoadError as message;
        Host: [LoadError::Host { host: "localhost".to_owned() }];
        NotReady: [LoadError::NotReady {
            host: "http://127.0.0.1:60051".to_owned(),
            waited: Duration::from_millis(10_200),
            status: Box::new(Status::unavailable("node `A` is loading")),
        }];
        Connect: [LoadError::Connect {
            user: 3,
            users: 20,
            host: "http://127.0.0.1:60051".to_owned(),
            source: Endpoint::from_shared("http://[").unwrap_err(),
        }];
        Client: [ClientError::Address { address: "localhost".to_owned() }.into()];
        Goose: [LoadError::Goose(Box::new(GooseError::Io(missing())))];
    };
    table += &messages! { WorkloadError as message;
        Malformed: [Workload::parse("{\"arrival\": []}").unwrap_err()];
        Invalid: [Workload::parse("{\"name\": \"w\", \"node\": {\"max_active\": 0}, \"arrivals\": []}").unwrap_err()];
    };
    let threshold = |rule: &str| rule.parse::<Threshold>();
    writeln!(table, "InvalidThreshold\n{}", message(&threshold("p99").unwrap_err())).unwrap();
    let unknown = threshold("p99<1s for drain").unwrap().check_name(&Work::default()).unwrap_err();
    writeln!(table, "UnknownName\n{}", message(&unknown)).unwrap();
    table += &messages! { ClusterError as message;
        Config: [Overlay::parse("{\"processes\": {}, \"teams\": []}", "cluster").unwrap_err().into()];
        Node: [NodeError::NoDatasetRoot(node("B")).into()];
        Process: [ClusterError::Process {
            id: "B".to_owned(),
            what: "ended before it was ready: exit status: 1".to_owned(),
            log: "error: cannot listen on 127.0.0.1:60052".to_owned(),
        }];
        Unsupported: [ClusterError::Unsupported {
            driver: "processes",
            fault: Fault::Hang { node: "C".to_owned() },
            why: "all processes share one loopback interface",
        }];
        Io: [ClusterError::Io { doing: "start `overlay`".to_owned(), source: missing() }];
    };
    assert_snapshot!("harness_errors", table);
}
