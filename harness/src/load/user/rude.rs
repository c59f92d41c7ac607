//! What clients should not do, and what should come of it.

use std::time::Duration;

use overlay::plan::Query;
use overlay::proto::{legacy, v1};
use tokio::time::Instant;
use tonic::{Code, Request};

use super::{Calls, Failure, SMALL, Success, User, large, of_parameter};

/// How long a query runs before it is cancelled.
const CANCEL_AFTER: Duration = Duration::from_millis(2);

impl User {
    /// By turns a bound that is no number and a filter that is no JSON.
    pub(super) async fn malformed_filter(&self, number: u64, calls: &mut Calls) -> Result<Success, Failure> {
        if number.is_multiple_of(2) {
            let predicate = v1::Predicate { min_value: Some("five".to_owned()), ..v1::Predicate::default() };
            let request = v1::QueryRequest { predicate: Some(predicate), ..self.query_request() };
            let mut node = self.overlay.clone();
            calls.expecting("Query", &[Code::InvalidArgument], node.query(request)).await?;
            return Ok(Success::default());
        }
        let request = Request::new(legacy::QueryRequest {
            query_params: "{\"parameter\":".to_owned(),
            client_id: self.id.clone(),
            ..legacy::QueryRequest::default()
        });
        let mut node = self.old.clone();
        let reply = calls.expecting("OverlayNode.Query", &[Code::Ok], node.query(request)).await?;
        let status = reply.expect("nothing but an answer was expected").status;
        match status.starts_with("invalid_query:") {
            true => Ok(Success::default()),
            false => Err(Failure::Wrong(format!("half a filter was answered with status `{status}`"))),
        }
    }

    pub(super) async fn unknown_result(&self, calls: &mut Calls) -> Result<Success, Failure> {
        self.refused_chunk("no-such-result".to_owned(), 0, Code::NotFound, calls).await?;
        Ok(Success::default())
    }

    pub(super) async fn chunk_out_of_range(&self, calls: &mut Calls) -> Result<Success, Failure> {
        let query = Query { predicate: of_parameter("PM2.5"), limit: Some(SMALL), ..Query::default() };
        let result = calls.client("Query", self.client.query(&query)).await?;
        self.refused_chunk(result.uid.clone(), result.chunk_count(), Code::OutOfRange, calls).await?;
        Ok(Success::of_result(&result, 0))
    }

    pub(super) async fn abandoned_result(&self, calls: &mut Calls) -> Result<Success, Failure> {
        let result = calls.client("Query", self.client.query(&large())).await?;
        let chunk = calls.client("GetChunk", self.client.chunk(&result, 0)).await?;
        let chunk = calls.count(chunk);
        Ok(Success::of_result(&result, super::row_count(&[chunk])))
    }

    /// By turns with the verb, and by hanging up.
    pub(super) async fn cancelled_query(&self, number: u64, calls: &mut Calls) -> Result<Success, Failure> {
        let request_id = format!("{}-{number}", self.id);
        let predicate =
            v1::Predicate { min_value: Some(format!("0.{number:09}")), ..v1::Predicate::default() };
        let request = v1::QueryRequest {
            predicate: Some(predicate),
            request_id: request_id.clone(),
            ..self.query_request()
        };
        let (mut asking, mut cancelling) = (self.overlay.clone(), self.overlay.clone());
        let query = asking.query(request);
        if number.is_multiple_of(2) {
            // Whatever the node had found is dropped with the call; that it ended is all that is asked for.
            let _ = tokio::time::timeout(CANCEL_AFTER, query).await;
            calls.ended = Instant::now();
            return Ok(Success::default());
        }
        let cancel = async {
            tokio::time::sleep(CANCEL_AFTER).await;
            let request =
                v1::CancelRequest { request_id, client_id: self.id.clone(), ..v1::CancelRequest::default() };
            cancelling.cancel(request).await
        };
        // It may have been answered before it was cancelled.
        let expected = [Code::Ok, Code::Cancelled];
        let both = async {
            let (answered, cancelled) = futures::join!(query, cancel);
            cancelled.and(answered)
        };
        calls.expecting("Query", &expected, both).await?;
        Ok(Success::default())
    }

    async fn refused_chunk(
        &self,
        uid: String,
        chunk_index: u32,
        expected: Code,
        calls: &mut Calls,
    ) -> Result<(), Failure> {
        let request = v1::GetChunkRequest { uid, chunk_index, client_id: self.id.clone() };
        let mut node = self.overlay.clone();
        calls.expecting("GetChunk", &[expected], node.get_chunk(request)).await?;
        Ok(())
    }

    fn query_request(&self) -> v1::QueryRequest {
        v1::QueryRequest { client_id: self.id.clone(), ..v1::QueryRequest::default() }
    }
}
