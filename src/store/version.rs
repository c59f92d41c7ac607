//! Hashes that name data: a day's version, a frame's digest.
//!
//! XXH3-128 finds accidents (another file, a flipped bit), not forgeries: who can write a node's files can
//! also write its answers.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Measure, Row, Site};

/// A text that is no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a hash: expected 32 hexadecimal digits")]
pub struct InvalidHash(String);

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        /// 32 hexadecimal digits.
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{:032x}", u128::from_be_bytes(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl FromStr for $name {
            type Err = InvalidHash;

            fn from_str(text: &str) -> Result<Self, InvalidHash> {
                let invalid = || InvalidHash(text.chars().take(40).collect());
                if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                    return Err(invalid());
                }
                u128::from_str_radix(text, 16)
                    .map(|hash| $name(hash.to_be_bytes()))
                    .map_err(|_| invalid())
            }
        }
    };
}

hash_type! {
    /// The version of a day's data: equal exactly when the day's parsed and rejected rows are equal.
    Version
}

hash_type! {
    /// The hash of a frame's payload.
    Digest
}

impl Version {
    /// The version of a day that has no file.
    pub fn of_no_data() -> Self {
        DayHasher::new().finish()
    }
}

impl Digest {
    /// The hash of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Digest(xxh3_128(bytes).to_be_bytes())
    }
}

/// Hashes a day's files in canonical order, rows by value.
///
/// Each part starts with a tag and carries its lengths, so that no two days feed the same bytes.
pub(crate) struct DayHasher(Xxh3);

impl DayHasher {
    pub(crate) fn new() -> Self {
        let mut hasher = Xxh3::new();
        // Changes whenever what is fed changes, so that nodes of different releases never agree by chance.
        hasher.update(b"overlay day, format 1");
        DayHasher(hasher)
    }

    pub(crate) fn file(&mut self, stem: &str) {
        self.0.update(&[1]);
        self.text(stem.as_bytes());
    }

    pub(crate) fn row(&mut self, site: Digest, measure: Digest, row: &Row) {
        let mut bytes = [0; 54];
        bytes[0] = 2;
        bytes[1..17].copy_from_slice(&site.0);
        bytes[17..33].copy_from_slice(&measure.0);
        bytes[33..35].copy_from_slice(&row.minute.to_be_bytes());
        let decimal =
            |value: Option<crate::decimal::Decimal>| value.map_or(i64::MIN, |value| value.0).to_be_bytes();
        bytes[35..43].copy_from_slice(&decimal(row.value));
        bytes[43..51].copy_from_slice(&decimal(row.raw_concentration));
        bytes[51..53].copy_from_slice(&row.aqi.unwrap_or(super::MISSING_AQI).to_be_bytes());
        bytes[53] = row.category.unwrap_or(super::MISSING_CATEGORY) as u8;
        self.0.update(&bytes);
    }

    pub(crate) fn rejected(&mut self, line: u64, bytes: &[u8]) {
        self.0.update(&[3]);
        self.0.update(&line.to_be_bytes());
        self.text(bytes);
    }

    pub(crate) fn finish(&self) -> Version {
        Version(self.0.digest128().to_be_bytes())
    }

    fn text(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }
}

/// The hash of a site by value, fed once for each of its rows.
pub(super) fn site_digest(site: &Site) -> Digest {
    let mut bytes = Vec::with_capacity(160);
    bytes.extend(site.latitude.to_bits().to_be_bytes());
    bytes.extend(site.longitude.to_bits().to_be_bytes());
    texts_digest(bytes, &site.texts())
}

/// The hash of a measure by value.
pub(super) fn measure_digest(measure: &Measure) -> Digest {
    texts_digest(Vec::new(), &[&measure.parameter, &measure.unit])
}

fn texts_digest(mut bytes: Vec<u8>, texts: &[&str]) -> Digest {
    for text in texts {
        bytes.extend((text.len() as u64).to_be_bytes());
        bytes.extend(text.as_bytes());
    }
    Digest::of(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_from_its_digits() {
        let version = Version(u128::to_be_bytes(0x00ab_cdef));
        let text = "00000000000000000000000000abcdef";
        assert_eq!(version.to_string(), text);
        assert_eq!(text.parse::<Version>().unwrap(), version);
        for invalid in ["", "abcdef", "+0000000000000000000000000abcdef", &"g".repeat(32)] {
            assert!(invalid.parse::<Digest>().is_err(), "{invalid}");
        }
    }

    #[test]
    fn a_digest_is_xxh3_128_big_endian() {
        // The published XXH3-128 of the empty input with seed 0.
        let empty = "99aa06d3014798d86001c324468d497f";
        assert_eq!(Digest::of(b"").to_string(), empty);
    }
}
