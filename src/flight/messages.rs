//! Chunks as Flight's messages: the parts of a frame's bytes, none of which is copied.

use arrow_flight::FlightData;
use bytes::Bytes;
use prost::Message as _;
use tonic::Status;

use crate::aggregate::AggregateSpec;
use crate::coordinator::ChunkRead;
use crate::error::{MissingDay, QueryError};
use crate::frame::{self, Encoding, FrameError, Message};
use crate::verb::Frame;
use crate::wire;

/// What precedes the rows of a stream.
pub(super) fn of_schema(aggregate: Option<&AggregateSpec>) -> FlightData {
    let messages = frame::arrow_messages(&frame::schema_before(Encoding::Arrow, aggregate));
    let schema = messages.expect("a schema of ours is one message").swap_remove(0);
    data(schema)
}

/// The dictionaries and rows of each frame.
pub(super) fn of_chunk(chunk: &ChunkRead) -> Vec<Result<FlightData, Status>> {
    let mut messages = Vec::new();
    for frame in &*chunk.frames {
        match of_frame(frame) {
            Ok(of_frame) => messages.extend(of_frame.into_iter().map(Ok)),
            Err(error) => messages.push(Err(unreadable(frame, &error))),
        }
    }
    messages
}

/// The last message, that of the rows, tells in `app_metadata` what the frame is: an `overlay.v1.Frame` without its payload.
fn of_frame(frame: &Frame) -> Result<Vec<FlightData>, FrameError> {
    let mut messages: Vec<FlightData> =
        frame::arrow_messages(&frame.payload)?.into_iter().map(data).collect();
    if let Some(rows) = messages.last_mut() {
        let without_payload = Frame { payload: Bytes::new(), ..frame.clone() };
        rows.app_metadata = wire::frame_to(without_payload).encode_to_vec().into();
    }
    Ok(messages)
}

fn data(Message { header, body }: Message) -> FlightData {
    FlightData { data_header: header, data_body: body, ..FlightData::default() }
}

fn unreadable(frame: &Frame, error: &FrameError) -> Status {
    let why = format!("its frame cannot be read: {error}");
    match frame.day {
        Some(day) => {
            let missing = MissingDay { day, why, nodes_tried: vec![frame.node.to_string()] };
            QueryError::DataLoss(vec![missing]).to_status()
        }
        None => Status::data_loss(format!("groups: {why}")),
    }
}
