//! The connections that a node accepts: how many, and how long the other end of one may keep it waiting.
//!
//! | what the other end does | what comes of it | limit |
//! |---|---|---|
//! | opens one more than there is a place for | it is told so, and closed | `connections`, `address_connections` |
//! | does not begin to speak HTTP | the connection is closed | `handshake_ms` |
//! | answers no ping, also because it reads nothing; in HTTP/1.1 sends no whole head of a request | the connection is closed | `ping_ms` |
//! | does not send the message of its request | the request is answered DEADLINE_EXCEEDED | `request_ms` |
//! | does not take an answer, or only slowly; takes nothing at all | the connection is closed | `untaken_ms` |
//! | asks for more than it takes, or sends more than is answered | requests are refused with RESOURCE_EXHAUSTED | `transit_bytes` |
//!
//! Every connection takes a place, also one that would only ask for health: what it will ask is not known when it is
//! accepted. The places and bytes of one address are fewer than all, so that nobody takes them from others.
//!
//! Start at [`limited`] and [`serve`]; `places` counts, `watch` is the connection, `bodies` what goes over it.

mod bodies;
mod places;
mod serving;
mod watch;

use std::io;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use tokio::io::AsyncWriteExt;

use crate::config::Limits;
use crate::outside::{Accepted, Incoming};

pub use bodies::BodiesLayer;
pub use places::{Full, Place, Places};
pub use serving::serve;
pub use watch::{Connection, Watched};

/// Lets in the connections that `places` has a place for. Others are told why not, unless their first words have to be
/// those of TLS, and are closed.
pub fn limited(incoming: Incoming, places: Places, tls: bool) -> Incoming {
    let admitted = incoming.filter_map(move |accepted| {
        let admitted =
            accepted.map(|accepted| match places.take(accepted.peer().address.map(|address| address.ip())) {
                Ok(place) => Some(accepted.holding(place)),
                Err(full) => {
                    tracing::debug!(peer = ?accepted.peer(), %full, "a connection is refused");
                    if !tls {
                        tell(accepted, &full.to_string());
                    }
                    None
                }
            });
        std::future::ready(admitted.transpose())
    });
    admitted.boxed()
}

/// Watches connections, so that their other ends keep none of them waiting for longer than `limits` says.
fn watched(
    incoming: Incoming,
    limits: &Limits,
) -> impl tokio_stream::Stream<Item = io::Result<Watched>> + Send + use<> {
    let (handshake, untaken) = (limits.handshake(), limits.untaken());
    incoming.map(move |accepted| accepted.map(|accepted| Watched::new(accepted, handshake, untaken)))
}

/// Writes what fits into the socket at once, which is empty: settings, and why the connection ends. They are words of HTTP/2,
/// since what the other end speaks is not known yet.
fn tell(mut accepted: Accepted, why: &str) {
    let words = refusal(why);
    let _ = accepted.write_all(&words).now_or_never();
    let _ = accepted.shutdown().now_or_never();
}

/// No settings, then GOAWAY with the code ENHANCE_YOUR_CALM.
///
/// Source: RFC 9113, sections 4.1, 6.5 and 6.8.
fn refusal(why: &str) -> Bytes {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const LAST_STREAM: [u8; 4] = [0; 4];
    const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 0xb];
    let length = (8 + why.len() as u32).to_be_bytes();
    let head = [length[1], length[2], length[3], 7, 0, 0, 0, 0, 0];
    [&SETTINGS[..], &head, &LAST_STREAM, &ENHANCE_YOUR_CALM, why.as_bytes()].concat().into()
}
