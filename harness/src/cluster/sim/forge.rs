//! What a lying node makes of an answer: each lie is one that whoever asked can find out.

use bytes::Bytes;
use overlay::proto::v1;
use prost::Message;

use crate::fault::Lie;

/// Before each message: no compression, and its length.
const PREFIX_BYTES: usize = 5;

/// A day that no overlay of ours owns.
const NO_DAY: u32 = 20_190_101;

/// The bytes of the answer to a peer verb with a lie in it; none if there is nothing in it to lie about.
pub(super) fn forge(lie: Lie, verb: &str, answer: &[u8]) -> Option<Vec<u8>> {
    let message = answer.get(PREFIX_BYTES..)?;
    match verb {
        "Count" => forged(message, |reply| count(lie, reply)),
        "Read" => forged(message, |reply| read(lie, reply)),
        "Inventory" => forged(message, |reply| inventory(lie, reply)),
        _ => None,
    }
}

fn forged<M: Message + Default>(message: &[u8], lie: impl FnOnce(&mut M) -> Option<()>) -> Option<Vec<u8>> {
    let mut reply = M::decode(message).ok()?;
    lie(&mut reply)?;
    let mut bytes = vec![0; PREFIX_BYTES];
    reply.encode(&mut bytes).ok()?;
    let length = (bytes.len() - PREFIX_BYTES) as u32;
    bytes[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    Some(bytes)
}

fn count(lie: Lie, reply: &mut v1::CountReply) -> Option<()> {
    let v1::CountReply { days, groups, .. } = reply;
    let first = days.first_mut()?;
    match lie {
        Lie::Omits => drop(days.pop()),
        Lie::Repeats => days.extend(days.first().cloned()),
        Lie::OtherVersion => first.version = other(&first.version).to_vec(),
        Lie::OtherDay => first.day = NO_DAY,
        Lie::OtherNode => first.node.push('x'),
        // Without frames and groups, any count is plausible.
        Lie::Count if groups.is_none() => {
            let rows = |day: &v1::DayCount| day.first_frame.as_ref().map_or(0, |frame| frame.rows);
            let day = days.iter_mut().find(|day| rows(day) > 0)?;
            day.rows_matched = u64::from(rows(day)) - 1;
        }
        Lie::Count => days.iter_mut().for_each(|day| day.rows_matched = 0),
        Lie::TooMany => first.rows_matched = u64::from(u32::MAX),
        Lie::OtherRows | Lie::Payload | Lie::Digest => {
            frame(lie, days.iter_mut().find_map(|day| day.first_frame.as_mut())?);
        }
    }
    Some(())
}

fn read(lie: Lie, reply: &mut v1::ReadReply) -> Option<()> {
    let frames = &mut reply.frames;
    let first = frames.first_mut()?;
    match lie {
        Lie::Omits => drop(frames.pop()),
        Lie::Repeats => frames.extend(frames.first().cloned()),
        Lie::TooMany => return None,
        lie => frame(lie, first),
    }
    Some(())
}

fn frame(lie: Lie, frame: &mut v1::Frame) {
    match lie {
        Lie::OtherVersion => frame.version = other(&frame.version),
        Lie::OtherDay => frame.day = NO_DAY,
        Lie::OtherNode => frame.node.push('x'),
        Lie::OtherRows => frame.first_row += 1,
        Lie::Count => frame.rows += 1,
        Lie::Digest => frame.digest = other(&frame.digest),
        Lie::Payload => frame.payload = [&frame.payload[..], b" "].concat().into(),
        Lie::Omits | Lie::Repeats | Lie::TooMany => {}
    }
}

fn inventory(lie: Lie, reply: &mut v1::InventoryReply) -> Option<()> {
    let nodes = &mut reply.nodes;
    let first = nodes.first_mut()?;
    match lie {
        Lie::Omits => drop(nodes.pop()),
        Lie::Repeats => nodes.extend(nodes.first().cloned()),
        Lie::OtherNode => first.node.push('x'),
        // What a node says of its own days is plausible.
        _ => return None,
    }
    Some(())
}

/// Other bytes, as many.
fn other(bytes: &[u8]) -> Bytes {
    bytes.iter().map(|byte| !byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a lie is one: what is sent differs, and is still an answer.
    #[test]
    fn every_lie_changes_an_answer_that_can_carry_it() {
        let frame = v1::Frame {
            day: 20_200_810,
            version: vec![1; 16].into(),
            rows: 2,
            payload: Bytes::from_static(b"{},{}"),
            digest: vec![2; 16].into(),
            node: "B".to_owned(),
            ..v1::Frame::default()
        };
        let reply = v1::ReadReply { frames: vec![frame], ..v1::ReadReply::default() };
        let answer = [vec![0; PREFIX_BYTES], reply.encode_to_vec()].concat();
        for lie in Lie::ALL {
            let forged = forge(lie, "Read", &answer).unwrap();
            let length = u32::from_be_bytes(forged[1..PREFIX_BYTES].try_into().unwrap());
            assert_eq!(length as usize, forged.len() - PREFIX_BYTES);
            assert_ne!(v1::ReadReply::decode(&forged[PREFIX_BYTES..]).unwrap(), reply, "{lie}");
        }
        let nothing = v1::ReadReply::default().encode_to_vec();
        assert_eq!(forge(Lie::Omits, "Read", &[vec![0; PREFIX_BYTES], nothing].concat()), None);
    }
}
