//! Results that are kept from one step to another, and all that can be done with them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::TryStreamExt;
use overlay::client::{CheckedChunk, Client, ClientError, QueryResult};
use tokio::time::Instant;
use tonic::Code;

use super::LEASE_MS;
use super::ask::{call, call_within, digest, missing, reasons, typed, until_let_in};
use super::reach::{self, Excuses, Pinned};
use super::run::{Run, expected};
use super::step::{Question, Way};
use crate::answer;
use crate::property::{self, Expected, Lease, Refusal, Violation};

/// How long a client may take that asks again for what its node has lost, some times over.
const RESUMES_WITHIN: Duration = Duration::from_secs(400);

/// A result that is kept.
pub(super) struct Opened {
    question: Question,
    client_id: String,
    client: Client,
    result: QueryResult,
    expected: Vec<Expected>,
    /// The days that it has in their revised version.
    revised: BTreeSet<u32>,
    /// Over the bytes of each chunk that came so far.
    digests: BTreeMap<u32, u64>,
    /// It was touched no earlier than this, as far as is known for sure.
    touched_after: Instant,
    /// And perhaps as late as this.
    touched_before: Instant,
    /// What became of it other than by time.
    fate: Lease,
}

impl Run<'_> {
    pub(super) async fn open(&mut self, step: usize, question: &Question) -> Result<(), Violation> {
        let excuses = reach::excuses(question, None, self.topology, &self.trouble());
        let client_id = format!("reader of step {step}");
        let client = property::nothing_breaks(self.cluster.client(&question.node, &client_id))?;
        let touched_after = Instant::now();
        let mut turned_away = 0;
        let result =
            until_let_in(&mut turned_away, async || call(client.query(&typed(question))).await).await;
        self.transcript.tally.turned_away += turned_away;
        let result = match result {
            Ok(result) => result,
            Err(refusal) => return property::refusal_has_a_cause(&refusal, &excuses.days, excuses.silence),
        };
        let missing = missing(&result);
        let reasons = reasons(&result.ledger);
        property::missing_days_have_a_cause(&reasons, question.allow_partial, &excuses.days, false)?;
        self.judge_versions(&result.ledger)?;
        let revised = self.revision.map(|revision| revision.revised_in(&result.ledger)).unwrap_or_default();
        let expected = expected(&self.oracle_of(&revised), question, &missing);
        property::manifest_counts_what_there_is(result.manifest.total_records, expected.len())?;
        let opened = Opened {
            question: question.clone(),
            client_id,
            client,
            result,
            expected,
            revised,
            digests: BTreeMap::new(),
            touched_after,
            touched_before: Instant::now(),
            fate: Lease::Lasts,
        };
        self.opened.insert(step, opened);
        Ok(())
    }

    /// What excuses a read: days out of reach at the versions of the result.
    fn excuses_of(&self, opened: &Opened) -> Excuses {
        let changed = self.revision.map(|revision| revision.changed()).unwrap_or_default();
        let pinned = Pinned { changed: &changed, revised: &opened.revised };
        reach::excuses(&opened.question, Some(pinned), self.topology, &self.trouble())
    }

    pub(super) async fn read(
        &mut self,
        opened_at: usize,
        way: Way,
        indices: &[u32],
    ) -> Result<(), Violation> {
        // The step may have been refused, and then there is nothing to read.
        let Some(mut opened) = self.opened.remove(&opened_at) else { return Ok(()) };
        let excuses = self.excuses_of(&opened);
        match way {
            Way::Chunks => self.read_chunks(&mut opened, &excuses, indices).await?,
            Way::Stream => self.read_stream(&mut opened, &excuses, indices[0]).await?,
            // What was missing may be there by now, and then it is another result.
            Way::Resume if !missing(&opened.result).is_empty() => {}
            Way::Resume => self.resume(&mut opened, &excuses, indices).await?,
        }
        self.opened.insert(opened_at, opened);
        Ok(())
    }

    async fn read_chunks(
        &mut self,
        opened: &mut Opened,
        excuses: &Excuses,
        indices: &[u32],
    ) -> Result<(), Violation> {
        for index in indices {
            let index = index % (opened.result.chunk_count() + 1);
            let asked = Instant::now();
            let chunk = call(opened.client.chunk(&opened.result, index)).await;
            self.take(opened, excuses, index, asked, chunk)?;
        }
        Ok(())
    }

    /// Reads all chunks from one on.
    async fn read_stream(
        &mut self,
        opened: &mut Opened,
        excuses: &Excuses,
        first: u32,
    ) -> Result<(), Violation> {
        let first = first % (opened.result.chunk_count() + 1);
        let asked = Instant::now();
        let read = async {
            let mut chunks = Vec::new();
            let mut coming = std::pin::pin!(opened.client.chunks(&opened.result, first).await?);
            while let Some(chunk) = coming.try_next().await? {
                chunks.push(chunk);
            }
            Ok::<_, ClientError>(chunks)
        };
        // As long as for one chunk after the other.
        let patience = RESUMES_WITHIN;
        match call_within(patience, read).await {
            Err(refusal) => self.take(opened, excuses, first, asked, Err(refusal)),
            Ok(chunks) => {
                let came = chunks.into_iter().zip(first..);
                came.into_iter()
                    .try_for_each(|(chunk, index)| self.take(opened, excuses, index, asked, Ok(chunk)))
            }
        }
    }

    /// Judges a chunk, or why there is none.
    fn take(
        &mut self,
        opened: &mut Opened,
        excuses: &Excuses,
        index: u32,
        asked: Instant,
        chunk: Result<CheckedChunk, Refusal>,
    ) -> Result<(), Violation> {
        let refused = chunk.as_ref().err().filter(|refusal| !opened.ends_before(index, refusal));
        property::lease_decides_what_can_be_read(opened.lease(asked), refused)?;
        match refused {
            None => opened.touched_after = asked,
            Some(refusal) if refusal.is_about_the_lease() => opened.fate = opened.fate.max(Lease::Ended),
            Some(refusal) => property::read_is_refused_for_a_cause(refusal, &excuses.days, excuses.silence)?,
        }
        self.transcript.tally.refusals += u64::from(refused.is_some());
        opened.touched_before = Instant::now();
        if let Ok(chunk) = chunk {
            self.transcript.tally.rows += opened.check(chunk)?;
        }
        Ok(())
    }

    /// Reads chunks whatever became of the lease, or of the node.
    async fn resume(
        &mut self,
        opened: &mut Opened,
        excuses: &Excuses,
        indices: &[u32],
    ) -> Result<(), Violation> {
        for index in indices {
            let index = index % opened.result.chunk_count();
            let (asked, uid) = (Instant::now(), opened.result.uid.clone());
            let reading = opened.client.chunk_or_resume(&mut opened.result, index);
            let chunk = call_within(RESUMES_WITHIN, reading).await;
            if opened.result.uid != uid {
                (opened.fate, opened.touched_after) = (Lease::Lasts, asked);
            } else if chunk.is_ok() && index > 0 {
                // The first one may have come along with the manifest, and then the node was not asked.
                property::lease_decides_what_can_be_read(opened.lease(asked), None)?;
                opened.touched_after = asked;
            }
            // The result may have come anew in an answer that was not waited for.
            if chunk.is_err() && opened.fate == Lease::Lasts {
                opened.fate = Lease::MayHaveEnded;
            }
            opened.touched_before = Instant::now();
            match chunk {
                Ok(chunk) => self.transcript.tally.rows += opened.check(chunk)?,
                Err(refusal) => {
                    self.transcript.tally.refusals += 1;
                    property::read_is_refused_for_a_cause(&refusal, &excuses.days, excuses.silence)?;
                }
            }
        }
        Ok(())
    }

    /// Begins to read all of a result, by a connection of its own, and goes away meanwhile.
    pub(super) async fn vanish_reading(
        &mut self,
        opened_at: usize,
        way: Way,
        after: Duration,
    ) -> Result<(), Violation> {
        let Some(opened) = self.opened.get_mut(&opened_at) else { return Ok(()) };
        let client = self.cluster.client(&opened.question.node, &opened.client_id);
        let client = property::nothing_breaks(client)?;
        let reading = async {
            match way {
                Way::Chunks | Way::Resume => {
                    for index in 0..opened.result.chunk_count() {
                        client.chunk(&opened.result, index).await?;
                    }
                    Ok::<(), ClientError>(())
                }
                Way::Stream => client.chunks(&opened.result, 0).await?.try_for_each(async |_| Ok(())).await,
            }
        };
        // What came is what `read` judges.
        let _ = tokio::time::timeout(after, reading).await;
        drop(client);
        opened.touched_before = Instant::now();
        self.work_stops().await
    }

    pub(super) async fn cancel(&mut self, opened_at: usize) -> Result<(), Violation> {
        let Some(mut opened) = self.opened.remove(&opened_at) else { return Ok(()) };
        let excuses = self.excuses_of(&opened);
        let asked = Instant::now();
        let cancelled = call(opened.client.cancel(&opened.result)).await;
        let lease = opened.lease(asked);
        match cancelled {
            Err(refusal) => {
                property::refusal_has_a_cause(&refusal, &BTreeSet::new(), excuses.silence)?;
                if lease == Lease::Lasts {
                    opened.fate = Lease::MayHaveEnded;
                }
            }
            Ok(was_there) => {
                property::cancellation_ends_a_lease(lease, was_there)?;
                opened.fate = opened.fate.max(Lease::Ended);
            }
        }
        self.opened.insert(opened_at, opened);
        Ok(())
    }

    /// What a node had in memory, which is gone with it: results, and data that others have replaced.
    pub(super) fn forget(&mut self, node: &str) {
        self.keeping.remove(node);
        let opened = self.opened.values_mut().filter(|opened| opened.question.node == node);
        opened.for_each(|opened| opened.fate = Lease::Forgotten);
    }
}

impl Opened {
    /// What is known of its lease when something that was asked at that time is answered now.
    fn lease(&self, asked: Instant) -> Lease {
        let ttl = Duration::from_millis(LEASE_MS);
        match self.fate {
            Lease::Lasts | Lease::MayHaveEnded if asked >= self.touched_before + ttl => Lease::Ended,
            Lease::Lasts if Instant::now() >= self.touched_after + ttl => Lease::MayHaveEnded,
            fate => fate,
        }
    }

    /// Whether a refusal only says that the result has no such chunk, which is right.
    fn ends_before(&self, index: u32, refusal: &Refusal) -> bool {
        index == self.result.chunk_count() && refusal.code == Some(Code::OutOfRange)
    }

    /// How many rows the chunk has, if they are the right ones, in the bytes that they had before.
    fn check(&mut self, chunk: CheckedChunk) -> Result<u64, Violation> {
        let index = chunk.index;
        let digest = digest(&chunk);
        let before = *self.digests.entry(index).or_insert(digest);
        property::chunk_has_its_bytes_again(index, before, digest)?;
        let rows_before: u32 = self.result.manifest.chunk_rows[..index as usize].iter().sum();
        let rows = self.result.manifest.chunk_rows[index as usize];
        let its_own = (rows_before as usize)..(rows_before + rows) as usize;
        let expected = self.expected.get(its_own).unwrap_or_default();
        let found = answer::rows(&self.result, &[chunk]);
        property::chunk_has_its_rows_of_the_result(index, expected, &found)?;
        Ok(u64::from(rows))
    }
}
