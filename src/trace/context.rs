//! A trace context as headers carry it: strictly parsed, and written again as it came.
//!
//! Source: W3C Trace Context, level 2: `traceparent` (section 3.2) and `tracestate` (section 3.3).

use std::fmt;

use tonic::codegen::http::HeaderMap;

/// The header that names a trace and the span that asks.
pub const TRACEPARENT: &str = "traceparent";

/// The header with what tracing systems add to it.
pub const TRACESTATE: &str = "tracestate";

/// Characters of a `traceparent` of version 00.
const TRACEPARENT_LENGTH: usize = 55;

/// Bytes of a `tracestate` that is passed on: what everybody has to pass on at least.
const TRACESTATE_BYTES: usize = 512;

/// Entries of a `tracestate`.
const TRACESTATE_ENTRIES: usize = 32;

/// The flags that have a meaning: sampled, and random trace id.
const KNOWN_FLAGS: u8 = 0b11;

/// Which trace a request belongs to, and which span of it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span; never 0.
    pub span_id: u64,
    /// Bit 0: the caller has recorded its span. Bit 1: the trace id is random.
    pub flags: u8,
    /// What tracing systems add, as it came; may be empty.
    pub state: String,
}

impl TraceContext {
    /// The context that a request came with. One that is malformed counts as none, and so does a malformed `tracestate`:
    /// no request fails because of what its caller says of a trace.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(TRACEPARENT).iter();
        let (Some(parent), None) = (parents.next(), parents.next()) else { return None };
        let context = Self::parse(parent.to_str().ok()?)?;
        let states = headers.get_all(TRACESTATE).iter().map(|state| state.to_str().unwrap_or("\0"));
        Some(TraceContext { state: joined(states), ..context })
    }

    /// Reads a `traceparent`, also of a later version than the one it writes.
    pub fn parse(text: &str) -> Option<Self> {
        let fields = text.get(..TRACEPARENT_LENGTH)?;
        let rest = &text[TRACEPARENT_LENGTH..];
        let mut fields = fields.split('-');
        let mut next = |digits| fields.next().filter(|field| field.len() == digits).and_then(hex);
        let (version, trace_id, span_id, flags) = (next(2)?, next(32)?, next(16)?, next(2)?);
        let may_go_on = version > 0 && rest.starts_with('-');
        let is_whole = fields.next().is_none() && (rest.is_empty() || may_go_on);
        let is_valid = is_whole && version != 0xff && trace_id != 0 && span_id != 0;
        is_valid.then_some(TraceContext {
            trace_id,
            span_id: span_id as u64,
            flags: flags as u8 & KNOWN_FLAGS,
            state: String::new(),
        })
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Digits in lower case, as the standard has them.
fn hex(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.bytes().all(is_digit).then(|| u128::from_str_radix(text, 16).ok())?
}

/// The `tracestate` of all its headers; empty if it is too long, has too many entries, or is no visible text.
fn joined<'a>(states: impl Iterator<Item = &'a str>) -> String {
    let state = states.collect::<Vec<_>>().join(",");
    let is_visible = |byte: u8| (b' '..=b'~').contains(&byte) || byte == b'\t';
    let fits = state.len() <= TRACESTATE_BYTES && state.split(',').count() <= TRACESTATE_ENTRIES;
    if fits && state.bytes().all(is_visible) { state } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn context_is_written_as_it_was_read() {
        let context = TraceContext::parse(PARENT).unwrap();
        assert_eq!((context.span_id, context.flags), (0x00f0_67aa_0ba9_02b7, 1));
        assert_eq!(context.to_string(), PARENT);
    }

    #[test]
    fn later_version_is_read_as_far_as_it_is_known() {
        let later = PARENT.replacen("00-", "cc-", 1);
        assert_eq!(TraceContext::parse(&later).unwrap().to_string(), PARENT);
        let longer = format!("{later}-what-the-future-will-be-like");
        assert_eq!(TraceContext::parse(&longer).unwrap().to_string(), PARENT);
        assert_eq!(TraceContext::parse(&format!("{later}.what")), None);
    }

    #[test]
    fn malformed_context_is_none() {
        let wrong = [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
            "00-4bf92f3577b34da6a3ce929d0e0e47361-0f067aa0ba902b7-01",
            "+0-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902bé-1",
        ];
        for text in wrong {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn state_is_passed_on_unless_it_is_malformed() {
        let of = |parents: &[&str], states: &[&str]| {
            let mut headers = HeaderMap::new();
            for (name, values) in [(TRACEPARENT, parents), (TRACESTATE, states)] {
                for value in values {
                    headers.append(name, value.parse().unwrap());
                }
            }
            TraceContext::of(&headers).map(|context| context.state)
        };
        assert_eq!(of(&[PARENT], &["a=1", "b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(of(&[PARENT], &[]).as_deref(), Some(""));
        assert_eq!(of(&[PARENT], &[&"x".repeat(513)]).as_deref(), Some(""));
        assert_eq!(of(&[PARENT], &[&"a=1,".repeat(40)]).as_deref(), Some(""));
        assert_eq!(of(&[PARENT], &["a=\u{e9}"]).as_deref(), Some(""));
        assert_eq!(of(&[PARENT, PARENT], &["a=1"]), None);
        assert_eq!(of(&[], &["a=1"]), None);
    }
}
