//! The proof: a ledger or frames that were tampered with never pass for a result.
//!
//! A node that lies gives the true answers of a cluster, each with one thing changed. What the client cannot know it
//! cannot refuse, and these tests leave it out: days at either end of a team's range and the versions of days
//! without rows, for which only the plan and the files speak (`check_tiles_plan` here, `overlay check-proof`).

use std::path::Path;
use std::sync::{Arc, Mutex};

use overlay::client::{Client, ClientError};
use overlay::coverage::{Entry, Outcome, check_tiles_plan};
use overlay::day::Day;
use overlay::frame::Encoding;
use overlay::plan::{ChunkingChoice, Query};
use overlay::proto::v1;
use overlay::proto::v1::coverage_entry::Outcome as WireOutcome;
use overlay::proto::v1::overlay_client::OverlayClient;
use overlay::proto::v1::overlay_server::{Overlay, OverlayServer};
use overlay_harness::answer;
use overlay_harness::cluster::{ClusterSpec, InProcessCluster};
use overlay_harness::dataset::DatasetSpec;
use overlay_harness::for_all::for_all;
use overlay_harness::oracle::{GroupKey, Measure, OracleQuery};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;
use tonic::transport::Channel;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What a node answers: a query with its chunks.
#[derive(Clone, Debug)]
struct Answer {
    query: Query,
    reply: v1::QueryReply,
    chunks: Vec<v1::Chunk>,
}

/// Gives the answer that it was told last, whatever is asked. Before it was told one, it passes queries on to a node that
/// does not lie, and remembers what that one replied.
#[derive(Clone)]
struct LyingNode {
    honest: OverlayClient<Channel>,
    replied: Arc<Mutex<v1::QueryReply>>,
    told: Arc<Mutex<Option<Answer>>>,
}

#[tonic::async_trait]
impl Overlay for LyingNode {
    type StreamChunksStream = tokio_stream::Empty<Result<v1::Chunk, Status>>;

    async fn query(&self, asked: Request<v1::QueryRequest>) -> Result<Response<v1::QueryReply>, Status> {
        if let Some(told) = &*self.told.lock().unwrap() {
            return Ok(Response::new(told.reply.clone()));
        }
        let reply = self.honest.clone().query(asked.into_inner()).await?;
        *self.replied.lock().unwrap() = reply.get_ref().clone();
        Ok(reply)
    }

    async fn get_chunk(&self, asked: Request<v1::GetChunkRequest>) -> Result<Response<v1::Chunk>, Status> {
        let index = asked.into_inner().chunk_index as usize;
        let told = self.told.lock().unwrap();
        let chunk = told.as_ref().and_then(|told| told.chunks.get(index)).cloned();
        chunk.map(Response::new).ok_or_else(|| Status::out_of_range("no such chunk"))
    }

    async fn stream_chunks(
        &self,
        _: Request<v1::StreamChunksRequest>,
    ) -> Result<Response<Self::StreamChunksStream>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn explain(&self, _: Request<v1::QueryRequest>) -> Result<Response<v1::ExplainReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_query_status(
        &self,
        _: Request<v1::GetQueryStatusRequest>,
    ) -> Result<Response<v1::GetQueryStatusReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn get_metrics(
        &self,
        _: Request<v1::GetMetricsRequest>,
    ) -> Result<Response<v1::GetMetricsReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }

    async fn shutdown(&self, _: Request<v1::ShutdownRequest>) -> Result<Response<v1::ShutdownReply>, Status> {
        Err(Status::unimplemented("nobody asks"))
    }
}

/// A node that lies, a client of it, and the true answers.
struct Setting {
    runtime: Runtime,
    node: LyingNode,
    client: Client,
    truths: Vec<Answer>,
}

/// Queries for rows: all, those that a limit cuts in the middle of a day, one team's, some with pruned days. One has no
/// bounds, so that most of its planned days have no files.
fn row_queries() -> Vec<Query> {
    let unbounded = OracleQuery::default();
    let all = OracleQuery { date_start: Some(20200815), date_end: Some(20200824), ..unbounded.clone() };
    let limited = OracleQuery { limit: Some(100), ..all.clone() };
    let green = OracleQuery { team: Some("green".to_owned()), ..all.clone() };
    let high = OracleQuery { min: Some("75".to_owned()), ..all.clone() };
    let chunking = ChunkingChoice { chunk_rows: Some(23), ..ChunkingChoice::default() };
    let query = |query: &OracleQuery| Query { chunking, ..answer::query(query, Encoding::Json) };
    let rows = [&all, &limited, &green, &high, &unbounded].map(query);
    let arrow = Query { encoding: Encoding::Arrow, ..rows[0].clone() };
    rows.into_iter().chain([arrow]).collect()
}

fn group_query() -> Query {
    let aggregate = Some(answer::aggregate(Measure::Value, &[GroupKey::Site]));
    Query { aggregate, ..answer::query(&OracleQuery::default(), Encoding::Json) }
}

impl Setting {
    /// Asks a cluster of six nodes for the truth about `queries`, and ends it.
    fn new(queries: Vec<Query>) -> Self {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(1).enable_all().build().unwrap();
        let (node, client, truths) = runtime.block_on(async {
            let root = overlay_harness::scratch::folder().unwrap();
            let cluster = cluster(&root.path().join("data")).await;
            let honest = OverlayClient::connect(format!("http://{}", cluster.address("A"))).await.unwrap();
            let node = LyingNode { honest, replied: Arc::default(), told: Arc::default() };
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = Client::new(&listener.local_addr().unwrap().to_string(), "me").unwrap();
            let server = tonic::transport::Server::builder().add_service(OverlayServer::new(node.clone()));
            tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true))));
            let mut truths = Vec::new();
            for query in queries {
                truths.push(truth(&node, &client, query).await);
            }
            (node, client, truths)
        });
        Setting { runtime, node, client, truths }
    }

    /// Tells the node what to answer; reads it whole, as a client does.
    fn read(&self, answer: &Answer) -> Result<(), ClientError> {
        *self.node.told.lock().unwrap() = Some(answer.clone());
        self.runtime.block_on(async {
            let result = self.client.query(&answer.query).await?;
            answer::read_chunks(&self.client, &result).await.map(|_| ())
        })
    }

    /// Nothing but the proof may refuse: a transport error would be no proof of anything.
    fn refuses(&self, answer: &Answer) -> Result<(), TestCaseError> {
        let refused = self.read(answer);
        let by_proof = matches!(
            refused,
            Err(ClientError::Unproven { .. }
                | ClientError::Contradiction { .. }
                | ClientError::Malformed { .. })
        );
        prop_assert!(by_proof, "the client took it: {:?}", refused);
        Ok(())
    }
}

/// Six nodes over ten days, four of pink and six of green, of which two have no files.
async fn cluster(data: &Path) -> InProcessCluster {
    let dataset = DatasetSpec {
        first_day: 20200815,
        last_day: 20200824,
        sites: 4,
        skipped_days: [20200816, 20200819].into(),
        ..DatasetSpec::default()
    };
    dataset.write(data).unwrap();
    InProcessCluster::start(ClusterSpec::six_nodes(data)).await.unwrap()
}

/// What the honest node says, every chunk included.
async fn truth(node: &LyingNode, client: &Client, query: Query) -> Answer {
    let result = client.query(&query).await.unwrap();
    let mut chunks = Vec::new();
    for chunk_index in 0..result.chunk_count() {
        let (uid, client_id) = (result.uid.clone(), "me".to_owned());
        let request = v1::GetChunkRequest { uid, chunk_index, client_id };
        chunks.push(node.honest.clone().get_chunk(request).await.unwrap().into_inner());
    }
    Answer { query, reply: node.replied.lock().unwrap().clone(), chunks }
}

/// One thing that is changed about a ledger.
#[derive(Clone, Debug)]
enum LedgerLie {
    /// Another day, so many days later or earlier.
    Day(i64),
    Removed,
    /// A second time, right behind it or at the end.
    Repeated {
        at_the_end: bool,
    },
    Version {
        byte: usize,
    },
    RowsTaken(i64),
    RowsMatched(i64),
}

fn ledger_lie() -> impl Strategy<Value = LedgerLie> {
    let change = || (1..5i64, any::<bool>()).prop_map(|(change, less)| if less { -change } else { change });
    prop_oneof![
        change().prop_map(LedgerLie::Day),
        Just(LedgerLie::Removed),
        any::<bool>().prop_map(|at_the_end| LedgerLie::Repeated { at_the_end }),
        (0..16usize).prop_map(|byte| LedgerLie::Version { byte }),
        change().prop_map(LedgerLie::RowsTaken),
        change().prop_map(LedgerLie::RowsMatched),
    ]
}

fn served(entry: &mut v1::CoverageEntry) -> Option<&mut v1::Served> {
    match &mut entry.outcome {
        Some(WireOutcome::Served(served)) => Some(served),
        _ => None,
    }
}

fn day_after(day: u32, days: i64) -> u32 {
    let date = chrono::NaiveDate::from_ymd_opt(day as i32 / 10_000, day / 100 % 100, day % 100).unwrap();
    (date + chrono::TimeDelta::days(days)).format("%Y%m%d").to_string().parse().unwrap()
}

/// The ledger with the lie about its entry `index`; `None` where the client cannot know better.
fn lied(truth: &Answer, index: usize, lie: &LedgerLie) -> Option<Answer> {
    let mut answer = truth.clone();
    let ledger = &mut answer.reply.ledger;
    let team = ledger[index].team.clone();
    let same_team =
        |place: Option<usize>| place.and_then(|place| ledger.get(place)).is_some_and(|it| it.team == team);
    let inside_its_team = same_team(index.checked_sub(1)) && same_team(Some(index + 1));
    let limit = truth.query.limit.unwrap_or(u64::MAX);
    let until = |ledger: &[v1::CoverageEntry]| -> u64 {
        ledger[..=index]
            .iter()
            .cloned()
            .filter_map(|mut entry| served(&mut entry).map(|it| it.rows_taken))
            .sum()
    };
    let fills_the_limit = until(ledger) == limit;
    let rows = served(&mut ledger[index]).map_or(0, |served| served.rows_taken);
    let frames_tell = rows > 0 && truth.query.aggregate.is_none();
    match lie {
        LedgerLie::Day(days) if frames_tell || inside_its_team => {
            ledger[index].day = day_after(ledger[index].day, *days);
        }
        LedgerLie::Removed if frames_tell || inside_its_team => {
            ledger.remove(index);
        }
        LedgerLie::Repeated { at_the_end } => {
            let entry = ledger[index].clone();
            let at = if *at_the_end { ledger.len() } else { index + 1 };
            ledger.insert(at, entry);
        }
        LedgerLie::Version { byte } if frames_tell => {
            served(&mut ledger[index])?.version[*byte] ^= 1;
        }
        LedgerLie::RowsTaken(rows) => {
            let served = served(&mut ledger[index])?;
            served.rows_taken = served.rows_taken.checked_add_signed(*rows)?;
        }
        // How many more rows match than a limit let through only the files can tell.
        LedgerLie::RowsMatched(rows) if !fills_the_limit => {
            let served = served(&mut ledger[index])?;
            served.rows_matched = served.rows_matched.checked_add_signed(*rows)?;
        }
        _ => return None,
    }
    Some(answer)
}

#[test]
fn true_answers_are_taken() {
    let setting = Setting::new(row_queries().into_iter().chain([group_query()]).collect());
    for truth in &setting.truths {
        setting.read(truth).unwrap();
    }
    let frames = |truth: &Answer| truth.chunks.iter().map(|chunk| chunk.frames.len()).max();
    assert!(setting.truths.iter().any(|truth| frames(truth) > Some(1)), "some chunk is of two days");
    let outcomes = |wanted: fn(&WireOutcome) -> bool| {
        let mut entries = setting.truths.iter().flat_map(|truth| &truth.reply.ledger);
        entries.any(|entry| entry.outcome.as_ref().is_some_and(wanted))
    };
    assert!(outcomes(|outcome| matches!(outcome, WireOutcome::Pruned(_))));
    assert!(outcomes(|outcome| matches!(outcome, WireOutcome::NoData(_))));
    assert!(outcomes(|outcome| matches!(outcome, WireOutcome::BeyondLimit(_))));
}

#[test]
fn ledger_with_a_day_a_version_or_a_count_changed_removed_or_repeated_is_refused() {
    let setting = Setting::new(row_queries().into_iter().chain([group_query()]).collect());
    for_all(600, (any::<Index>(), any::<Index>(), ledger_lie()), |(truth, entry, lie)| {
        let truth = truth.get(&setting.truths);
        match lied(truth, entry.index(truth.reply.ledger.len()), &lie) {
            Some(answer) => setting.refuses(&answer),
            None => Ok(()),
        }
    });
}

/// One thing that is changed about a manifest or a chunk.
#[derive(Clone, Debug)]
enum FrameLie {
    Total(i64),
    ChunkRows(i64),
    /// The last row of a chunk becomes the first one of the next.
    Boundary,
    Day,
    Version {
        byte: usize,
    },
    FirstRow(i64),
    Rows(i64),
    Payload {
        byte: Index,
    },
    Digest {
        byte: usize,
    },
    Removed,
    Repeated,
    /// The frames of another chunk.
    OfAnotherChunk(Index),
    Index,
    IsLast,
}

fn frame_lie() -> impl Strategy<Value = FrameLie> {
    let change = || prop::sample::select(vec![-2i64, -1, 1, 2]);
    prop_oneof![
        change().prop_map(FrameLie::Total),
        change().prop_map(FrameLie::ChunkRows),
        Just(FrameLie::Boundary),
        Just(FrameLie::Day),
        (0..16usize).prop_map(|byte| FrameLie::Version { byte }),
        change().prop_map(FrameLie::FirstRow),
        change().prop_map(FrameLie::Rows),
        any::<Index>().prop_map(|byte| FrameLie::Payload { byte }),
        (0..16usize).prop_map(|byte| FrameLie::Digest { byte }),
        Just(FrameLie::Removed),
        Just(FrameLie::Repeated),
        any::<Index>().prop_map(FrameLie::OfAnotherChunk),
        Just(FrameLie::Index),
        Just(FrameLie::IsLast),
    ]
}

/// The answer with the lie about frame `frame` of chunk `chunk`; `None` where it would change nothing.
fn frames_lied(truth: &Answer, chunk: usize, frame: Index, lie: &FrameLie) -> Option<Answer> {
    let mut answer = truth.clone();
    let Answer { reply, chunks, .. } = &mut answer;
    let manifest = reply.manifest.as_mut()?;
    let place = frame.index(chunks[chunk].frames.len());
    let frame = &mut chunks[chunk].frames[place];
    match lie {
        FrameLie::Total(rows) => manifest.total_records = manifest.total_records.checked_add_signed(*rows)?,
        FrameLie::ChunkRows(rows) => {
            let chunk_rows = &mut manifest.chunk_rows[chunk];
            *chunk_rows = chunk_rows.checked_add_signed(*rows as i32)?;
        }
        FrameLie::Boundary => {
            manifest.chunk_rows[chunk] -= 1;
            *manifest.chunk_rows.get_mut(chunk + 1)? += 1;
        }
        FrameLie::Day => frame.day = day_after(frame.day, 1),
        FrameLie::Version { byte } => {
            let mut version = frame.version.to_vec();
            version[*byte] ^= 1;
            frame.version = version.into();
        }
        FrameLie::FirstRow(rows) => frame.first_row = frame.first_row.checked_add_signed(*rows)?,
        FrameLie::Rows(rows) => frame.rows = frame.rows.checked_add_signed(*rows as i32)?,
        FrameLie::Payload { byte } => {
            let mut payload = frame.payload.to_vec();
            let byte = byte.index(payload.len());
            payload[byte] ^= 1;
            frame.payload = payload.into();
        }
        FrameLie::Digest { byte } => {
            let mut digest = frame.digest.to_vec();
            digest[*byte] ^= 1;
            frame.digest = digest.into();
        }
        FrameLie::Removed => {
            chunks[chunk].frames.remove(place);
        }
        FrameLie::Repeated => {
            let again = frame.clone();
            chunks[chunk].frames.insert(place, again);
        }
        FrameLie::OfAnotherChunk(other) => {
            let other = other.index(chunks.len());
            chunks[chunk].frames = chunks[other].frames.clone();
            if other == chunk {
                return None;
            }
        }
        FrameLie::Index => chunks[chunk].chunk_index += 1,
        FrameLie::IsLast => chunks[chunk].is_last ^= true,
    }
    Some(answer)
}

#[test]
fn frames_that_do_not_tile_the_ledger_are_refused() {
    let setting = Setting::new(row_queries());
    for_all(
        600,
        (any::<Index>(), any::<Index>(), any::<Index>(), frame_lie()),
        |(truth, chunk, frame, lie)| {
            let truth = truth.get(&setting.truths);
            match frames_lied(truth, chunk.index(truth.chunks.len()), frame, &lie) {
                Some(answer) => setting.refuses(&answer),
                None => Ok(()),
            }
        },
    );
}

/// Method: any ledger over any plan; it is taken if it has the plan's days in the plan's order, and never otherwise.
#[test]
fn ledger_tiles_its_plan_only_if_it_has_its_days_once_and_in_order() {
    let days = || vec(0..5u64, 0..6);
    let plan = (days(), prop_oneof![Just(None), days().prop_map(Some)]);
    for_all(500, plan, |(planned, other)| {
        let day = |offset: &u64| Day::from_number(20200810 + offset).unwrap();
        let entry =
            |offset: &u64| Entry { day: day(offset), team: "green".into(), outcome: Outcome::BeyondLimit };
        let found = other.unwrap_or_else(|| planned.clone());
        let ledger: Vec<Entry> = found.iter().map(entry).collect();
        let days: Vec<Day> = planned.iter().map(day).collect();
        prop_assert_eq!(check_tiles_plan(&ledger, &days).is_ok(), found == planned);
        Ok(())
    });
}
