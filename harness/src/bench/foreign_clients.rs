//! Whole results as clients of others get them: over Arrow Flight, and over HTTP.
//!
//! The clients are those of the crates, with the windows that our own client has, since windows are a client's choice.

use std::net::SocketAddr;

use arrow_flight::{FlightClient, FlightDescriptor};
use arrow_ipc::reader::StreamReader;
use arrow_schema::ArrowError;
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use overlay::rows::Format;
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{BenchError, Found, milliseconds, raw};

/// All rows over Arrow Flight, ticket by ticket, each batch decoded.
pub(super) async fn flight(address: SocketAddr, min: &str) -> Result<(f64, Found), BenchError> {
    let mut client = FlightClient::new(raw::connected(address).await?);
    let command = json!({"parameter": "PM2.5", "min_value": min, "max_value": 35});
    let began = Instant::now();
    let info = client.get_flight_info(FlightDescriptor::new_cmd(command.to_string())).await?;
    let mut rows = 0;
    for ticket in info.endpoint.into_iter().filter_map(|endpoint| endpoint.ticket) {
        let mut batches = client.do_get(ticket).await?;
        while let Some(batch) = batches.try_next().await? {
            rows += batch.num_rows() as u64;
        }
    }
    Ok((milliseconds(began.elapsed()), Found::rows(rows)))
}

/// All rows over HTTP in Arrow, each batch decoded.
pub(super) async fn http_arrow(address: SocketAddr, min: &str) -> Result<(f64, Found), BenchError> {
    let (began, body) = get(address, min, Format::Arrow).await?;
    let rows = StreamReader::try_new(body.reader(), None)?
        .map(|batch| Ok(batch?.num_rows() as u64))
        .sum::<Result<u64, ArrowError>>()?;
    Ok((milliseconds(began.elapsed()), Found::rows(rows)))
}

/// All rows over HTTP in lines of JSON, each of which is counted.
pub(super) async fn http_lines(address: SocketAddr, min: &str) -> Result<(f64, Found), BenchError> {
    let (began, body) = get(address, min, Format::Ndjson).await?;
    let rows = body.iter().filter(|byte| **byte == b'\n').count() as u64;
    Ok((milliseconds(began.elapsed()), Found::rows(rows)))
}

/// When it was asked for, and the whole body.
async fn get(address: SocketAddr, min: &str, format: Format) -> Result<(Instant, Bytes), BenchError> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the sender; what goes wrong before, the answer tells.
    tokio::spawn(connection);
    let path = format!("/api/v1/query?parameter=PM2.5&min={min}&max=35&format={}", format.name());
    let request = Request::get(path).header(HOST, address.to_string()).body(Empty::<Bytes>::new());
    let began = Instant::now();
    let answer = sender.send_request(request.expect("numbers make a path")).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    if !status.is_success() {
        return Err(BenchError::Problem(String::from_utf8_lossy(&body).into_owned()));
    }
    Ok((began, body))
}
