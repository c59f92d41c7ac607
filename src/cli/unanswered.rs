//! Why a node gave no answer that is of use, and the next step.

use std::error::Error;
use std::io;

use tonic::{Code, ConnectError};

use crate::client::ClientError;
use crate::security::SpeaksNoTls;

/// The next step where an address is none.
pub(crate) const AN_ADDRESS: &str = "for instance --leader 127.0.0.1:60051";

/// What a client's error comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unanswered {
    /// Nothing listens there.
    Down,
    /// A node is there, and refuses whoever asks.
    Refused,
    /// A node is there, and its certificate is not one that the CA vouches for.
    Uncertified,
    /// A node is there that serves without TLS, and was asked with it.
    Plain,
    /// Whoever listens there speaks something else, as TLS to whom speaks none; or the connection was lost.
    Garbled,
    /// No connection came about for another reason.
    Unreached,
    /// The node answered, though not with a result, or took too long.
    Other,
}

impl Unanswered {
    pub(crate) fn of(error: &ClientError) -> Self {
        let ClientError::Status { status, .. } = error else { return Unanswered::Other };
        match (status.source(), status.code()) {
            // What the transport met: where a node serves TLS and is asked without, any code may stand beside it.
            (Some(cause), _) => Self::of_transport(cause),
            (None, Code::Unauthenticated | Code::PermissionDenied) => Unanswered::Refused,
            (None, _) => Unanswered::Other,
        }
    }

    fn of_transport(cause: &(dyn Error + 'static)) -> Self {
        let causes = || std::iter::successors(Some(cause), |error| (**error).source());
        if !causes().any(|cause| cause.is::<ConnectError>()) {
            return Unanswered::Garbled;
        }
        let Some(error) = causes().find_map(|cause| cause.downcast_ref::<io::Error>()) else {
            return Unanswered::Unreached;
        };
        let cause = error.get_ref();
        match cause.and_then(|cause| cause.downcast_ref()) {
            Some(rustls::Error::InvalidCertificate(_)) => Unanswered::Uncertified,
            _ if cause.is_some_and(|cause| cause.is::<SpeaksNoTls>()) => Unanswered::Plain,
            _ if error.kind() == io::ErrorKind::ConnectionRefused => Unanswered::Down,
            _ => Unanswered::Unreached,
        }
    }

    /// The next step, where it has to do with certificates and tokens; `asked_plainly` is whether the first request of a
    /// connection was sent without TLS.
    pub(crate) fn help(self, asked_plainly: bool) -> Option<&'static str> {
        match self {
            Unanswered::Refused => Some("give a token of that role with --token-file FILE"),
            Unanswered::Uncertified => Some(
                "give the CA that signed the node's certificate with --ca FILE; the certificate must be valid, and for the host that is asked",
            ),
            Unanswered::Plain => Some(
                "the node serves without TLS: leave out --ca and OVERLAY_CA; with --all give the configuration that it runs with",
            ),
            Unanswered::Garbled if asked_plainly => {
                Some("if the node serves TLS, give its CA with --ca FILE")
            }
            _ => None,
        }
    }
}
