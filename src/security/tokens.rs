//! Bearer tokens: who has which role.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use ring::digest::{SHA256, digest};
use schemars::JsonSchema;
use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{SecurityError, read, warn_if_others_can_read};

/// Characters of a token: shorter ones can be guessed, longer ones do not fit into a header beside others.
const TOKEN_LENGTH: std::ops::RangeInclusive<usize> = 16..=4096;

/// What precedes a token, and a blank, in the header `authorization`; in any letter case.
///
/// Source: RFC 6750, section 2.1, and RFC 9110, section 11.1.
const SCHEME: &str = "Bearer";

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// Queries, chunks, metrics.
    Client,
    /// What nodes ask of each other.
    Peer,
    /// All of these, and shutting down.
    Admin,
}

/// The tokens that a node knows.
pub struct Tokens {
    known: Vec<Token>,
    of_peers: Bearer,
}

/// Of a token only its hash is kept, and nothing that could be printed.
struct Token {
    name: Arc<str>,
    role: Credential,
    hash: [u8; 32],
}

/// A line of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    role: Credential,
    token: String,
}

impl Tokens {
    /// Reads a JSON list of `{"name": ..., "role": "client" | "peer" | "admin", "token": ...}`.
    ///
    /// # Errors
    /// [`SecurityError`] that names the entry, never its token.
    pub fn read(file: &Path) -> Result<Self, SecurityError> {
        let text = read(file)?;
        warn_if_others_can_read(file);
        let failed = |what: String| SecurityError::new(file, what);
        // What the parser says of a value may quote it.
        let malformed = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            failed(format!(
                "not a list of {{name, role, token}} with role client, peer or admin, at line {line}, column {column}"
            ))
        };
        let entries: Vec<Entry> = serde_json::from_str(&text).map_err(malformed)?;
        if entries.is_empty() {
            return Err(failed("no token: nobody could ask anything".to_owned()));
        }
        let (mut names, mut hashes) = (BTreeSet::new(), BTreeSet::new());
        for Entry { name, token, .. } in &entries {
            if name.is_empty() || name.len() > 64 || name.chars().any(|letter| letter.is_whitespace()) {
                return Err(failed(format!(
                    "name `{name}` is unusable: must have 1 to 64 bytes without blanks"
                )));
            }
            if !TOKEN_LENGTH.contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                let (least, most) = (TOKEN_LENGTH.start(), TOKEN_LENGTH.end());
                return Err(failed(format!(
                    "the token of `{name}` is unusable: must have {least} to {most} visible ASCII characters"
                )));
            }
            if !names.insert(name) {
                return Err(failed(format!("name `{name}` is given twice")));
            }
            if !hashes.insert(hash(token)) {
                return Err(failed(format!("the token of `{name}` is another one's too")));
            }
        }
        let of_peers = entries.iter().find(|entry| entry.role == Credential::Peer);
        let of_peers = of_peers.map(|entry| Bearer::new(&entry.token)).unwrap_or_default();
        let known =
            |Entry { name, role, token }: Entry| Token { name: name.into(), role, hash: hash(&token) };
        Ok(Tokens { known: entries.into_iter().map(known).collect(), of_peers })
    }

    /// Whose token a header has, and what it is good for. Takes as long for every token of a length.
    pub fn find(&self, authorization: &str) -> Option<(Arc<str>, Credential)> {
        let (_, token) =
            authorization.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))?;
        let presented = hash(token);
        let (mut found, mut index) = (Choice::from(0), 0u64);
        for (position, token) in (0u64..).zip(&self.known) {
            let equal = token.hash.ct_eq(&presented);
            index.conditional_assign(&position, equal);
            found |= equal;
        }
        let token = bool::from(found).then(|| &self.known[index as usize])?;
        Some((token.name.clone(), token.role))
    }

    /// Whether nodes that have no certificates can ask each other.
    pub(super) fn check_peers(&self, file: &Path) -> Result<(), SecurityError> {
        match self.of_peers.0 {
            Some(_) => Ok(()),
            None => {
                let what = "no token of role peer: nodes without certificates need one to ask each other";
                Err(SecurityError::new(file, what))
            }
        }
    }

    /// What nodes show each other where they have no certificates: the first token of role peer.
    pub(super) fn of_peers(&self) -> Bearer {
        self.of_peers.clone()
    }
}

fn hash(token: &str) -> [u8; 32] {
    let digest = digest(&SHA256, token.as_bytes());
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// A token as a header, or none. Adds itself to requests; cannot be printed.
#[derive(Clone, Default)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Bearer {
    /// A token that [`Tokens::read`] would take.
    fn new(token: &str) -> Self {
        let mut value: MetadataValue<Ascii> =
            format!("{SCHEME} {token}").parse().expect("visible ASCII makes a header");
        // The HTTP library neither compresses nor prints it then.
        value.set_sensitive(true);
        Bearer(Some(value))
    }

    /// The token that stands in a file, with or without a line's end.
    pub(super) fn read(file: &Path) -> Result<Self, SecurityError> {
        let text = read(file)?;
        warn_if_others_can_read(file);
        let token = text.trim_end();
        match TOKEN_LENGTH.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Self::new(token)),
            false => {
                let (least, most) = (TOKEN_LENGTH.start(), TOKEN_LENGTH.end());
                let what =
                    format!("holds no token: must be one line of {least} to {most} visible ASCII characters");
                Err(SecurityError::new(file, what))
            }
        }
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0.is_some() { "Bearer(...)" } else { "Bearer(none)" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "0123456789abcdef";

    fn tokens(text: &str) -> Result<Tokens, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.json");
        std::fs::write(&file, text).unwrap();
        Tokens::read(&file).map_err(|error| error.what)
    }

    #[test]
    fn token_is_found_by_its_whole_text() {
        let text = format!(
            r#"[{{"name": "one", "role": "client", "token": "{SECRET}"}},
                {{"name": "two", "role": "admin", "token": "{SECRET}-two"}}]"#
        );
        let tokens = tokens(&text).unwrap();
        let found = |header: &str| tokens.find(header).map(|(name, role)| (name.to_string(), role));
        assert_eq!(found(&format!("Bearer {SECRET}")), Some(("one".to_owned(), Credential::Client)));
        assert_eq!(found(&format!("Bearer {SECRET}-two")), Some(("two".to_owned(), Credential::Admin)));
        assert!(found(&format!("bearer {SECRET}")).is_some(), "schemes have no letter case");
        for header in [SECRET, "Bearer ", "Bearer 0123456789abcde", "Basic 0123456789abcdef", "Bearer", ""] {
            assert_eq!(found(header), None, "{header}");
        }
    }

    #[test]
    fn file_that_cannot_be_used_is_refused_without_a_word_of_its_tokens() {
        let one =
            |name: &str, token: &str| format!(r#"{{"name": "{name}", "role": "peer", "token": "{token}"}}"#);
        let cases = [
            ("[]".to_owned(), "no token"),
            (format!("[{}]", one("short", "0123456789abcde")), "the token of `short` is unusable"),
            (format!("[{}]", one("blank", "0123456789 abcdef")), "the token of `blank` is unusable"),
            (format!("[{}, {}]", one("a", SECRET), one("a", "fedcba9876543210")), "`a` is given twice"),
            (format!("[{}, {}]", one("a", SECRET), one("b", SECRET)), "`b` is another one's too"),
            (format!(r#"[{{"name": "a", "role": "{SECRET}", "token": "x"}}]"#), "at line 1"),
            (format!(r#"{{"token": "{SECRET}"}}"#), "at line 1"),
        ];
        for (text, expected) in cases {
            let why = tokens(&text).map(drop).unwrap_err();
            assert!(why.contains(expected), "{why}");
            assert!(!why.contains("0123456789"), "{why}");
        }
    }

    #[test]
    fn bearer_is_never_printed() {
        let bearer = Bearer::new(SECRET);
        assert_eq!(format!("{bearer:?} {:?}", Bearer::default()), "Bearer(...) Bearer(none)");
        let request = bearer.clone().call(Request::new(())).unwrap();
        assert_eq!(request.metadata().get("authorization").unwrap(), &format!("Bearer {SECRET}"));
        assert!(!format!("{request:?}").contains(SECRET));
    }
}
