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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Code;

    use super::*;
    use crate::day::Day;

    fn chunk(frames: Vec<Frame>) -> ChunkRead {
        ChunkRead { frames: Arc::new(frames), chunk_count: 1, is_last: true }
    }

    fn frame(day: Option<u64>, payload: Bytes) -> Frame {
        Frame {
            day: day.map(|day| Day::from_number(day).unwrap()),
            version: crate::store::Version([1; 16]),
            first_row: 7,
            rows: 1,
            digest: frame::digest(&payload),
            payload,
            node: "D".into(),
        }
    }

    #[test]
    fn frame_that_is_no_arrow_is_a_loss_of_its_day() {
        let damaged = Bytes::from_static(b"[{}]");
        for (day, named) in [(Some(20200811), "20200811"), (None, "groups")] {
            let messages = of_chunk(&chunk(vec![frame(day, damaged.clone())]));
            let lost = messages.into_iter().next().unwrap().unwrap_err();
            assert_eq!(lost.code(), Code::DataLoss);
            assert!(lost.message().contains(named), "{lost}");
        }
    }

    #[test]
    fn last_message_of_a_frame_tells_what_it_is() {
        let spec = AggregateSpec { of: crate::aggregate::AggregateOf::Value, group_by: Vec::new() };
        let payload =
            frame::encode_groups(spec.of, &crate::aggregate::Groups::default(), 0..0, Encoding::Arrow);
        let groups = frame(None, payload);
        let messages = of_chunk(&chunk(vec![groups.clone(), groups.clone()]));
        assert_eq!(messages.len(), 2);
        for message in messages {
            let told = crate::proto::v1::Frame::decode(message.unwrap().app_metadata).unwrap();
            assert_eq!((told.first_row, told.digest.len(), told.payload.len()), (7, 16, 0));
        }
    }
}
