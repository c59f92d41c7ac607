//! Exact decimal numbers: concentrations as files write them, bounds as queries write them.
//!
//! A concentration has at most [`DECIMALS`] decimals and a magnitude below [`MAGNITUDE_LIMIT`], so
//! that every one is a whole number of billionths in an `i64`. Comparing, summing and printing are
//! then integer work. A bound may be any decimal number: it is rounded to the nearest billionth that
//! selects the same concentrations.

use std::cmp::Ordering;
use std::fmt;

use crate::error::shown;

/// Decimals that a concentration may have.
pub const DECIMALS: u32 = 9;

/// Magnitude that a concentration stays below.
pub const MAGNITUDE_LIMIT: i64 = 1_000_000_000;

/// Billionths in one.
pub const ONE: i64 = 1_000_000_000;

/// Significant digits that a number may be written with.
const DIGITS_LIMIT: usize = 36;

/// A decimal number in billionths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Decimal(pub i64);

/// A text that is no usable number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDecimal {
    /// Not a finite decimal number.
    #[error("`{0}` is not a number")]
    NotANumber(String),
    /// More digits than any measurement has.
    #[error("`{text}` has {digits} significant digits, limit {DIGITS_LIMIT}")]
    TooManyDigits {
        /// The number as written, as far as it is shown.
        text: String,
        /// Its significant digits.
        digits: usize,
    },
    /// A concentration beyond what a column holds.
    #[error(
        "`{0}` out of range: must have at most {DECIMALS} decimals and a magnitude below {MAGNITUDE_LIMIT}"
    )]
    OutOfRange(String),
}

impl Decimal {
    /// A concentration as a file writes it.
    ///
    /// # Errors
    /// [`InvalidDecimal`] if it is no number or does not fit into billionths exactly.
    pub fn parse(text: &str) -> Result<Self, InvalidDecimal> {
        let number = Written::parse(text)?;
        let out_of_range = || InvalidDecimal::OutOfRange(shown(text));
        let (billionths, remainder) = number.billionths().ok_or_else(out_of_range)?;
        let limit = i128::from(MAGNITUDE_LIMIT) * i128::from(ONE);
        if remainder || billionths.abs() >= limit {
            return Err(out_of_range());
        }
        Ok(Decimal(billionths as i64))
    }

    /// The smallest concentration that is at least the number written, saturating.
    ///
    /// # Errors
    /// [`InvalidDecimal`] if `text` is no finite number.
    pub fn at_least(text: &str) -> Result<Self, InvalidDecimal> {
        Written::parse(text).map(|number| number.rounded(true))
    }

    /// The largest concentration that is at most the number written, saturating.
    ///
    /// # Errors
    /// [`InvalidDecimal`] if `text` is no finite number.
    pub fn at_most(text: &str) -> Result<Self, InvalidDecimal> {
        Written::parse(text).map(|number| number.rounded(false))
    }

    /// Compares two numbers as they are written, before either is rounded.
    ///
    /// # Errors
    /// [`InvalidDecimal`] if either text is no finite number.
    pub fn compare_written(left: &str, right: &str) -> Result<Ordering, InvalidDecimal> {
        Ok(Written::parse(left)?.compare(&Written::parse(right)?))
    }

    /// The nearest double.
    pub fn to_f64(self) -> f64 {
        if self.0.unsigned_abs() < 1 << 53 {
            // Both operands are exact, so the quotient is rounded once.
            return self.0 as f64 / ONE as f64;
        }
        let (mut mantissa, mut decimals) = (self.0, DECIMALS as i32);
        while decimals > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            decimals -= 1;
        }
        if mantissa.unsigned_abs() < 1 << 53 {
            mantissa as f64 / 10f64.powi(decimals)
        } else {
            self.to_string().parse().unwrap_or(f64::NAN)
        }
    }
}

/// Writes at least one decimal and no trailing zero beyond it: `17.3`, `48.0`, `-0.25`.
impl fmt::Display for Decimal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let whole = self.0.unsigned_abs() / ONE as u64;
        let fraction = format!("{:09}", self.0.unsigned_abs() % ONE as u64);
        let fraction = fraction.trim_end_matches('0');
        let fraction = if fraction.is_empty() { "0" } else { fraction };
        write!(formatter, "{sign}{whole}.{fraction}")
    }
}

/// A number as it was written: `mantissa * 10^exponent`, exact. The mantissa ends in no zero; zero has the
/// exponent 0.
struct Written {
    mantissa: i128,
    exponent: i64,
}

impl Written {
    fn parse(text: &str) -> Result<Self, InvalidDecimal> {
        let invalid = || InvalidDecimal::NotANumber(shown(text));
        let text = text.trim();
        let (digits, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], text[at + 1..].parse::<i32>().map_err(|_| invalid())?),
            None => (text, 0),
        };
        let (negative, digits) = match digits.as_bytes().first() {
            Some(b'-') => (true, &digits[1..]),
            Some(b'+') => (false, &digits[1..]),
            _ => (false, digits),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all: String = [whole, fraction].concat();
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        let significant = all.trim_start_matches('0');
        let trimmed = significant.trim_end_matches('0');
        if trimmed.len() > DIGITS_LIMIT {
            return Err(InvalidDecimal::TooManyDigits { text: shown(text), digits: trimmed.len() });
        }
        let magnitude: i128 = if trimmed.is_empty() { 0 } else { trimmed.parse().map_err(|_| invalid())? };
        if magnitude == 0 {
            return Ok(Written { mantissa: 0, exponent: 0 });
        }
        let zeros = (significant.len() - trimmed.len()) as i64;
        Ok(Written {
            mantissa: if negative { -magnitude } else { magnitude },
            exponent: i64::from(exponent) - fraction.len() as i64 + zeros,
        })
    }

    fn compare(&self, other: &Written) -> Ordering {
        // More digits before the point is larger; else digits compare as text, since none ends in zeros.
        let magnitude = |number: &Written| {
            let digits = number.mantissa.unsigned_abs().to_string();
            (digits.len() as i64 + number.exponent, digits)
        };
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        signs.then_with(|| match self.mantissa < 0 {
            true => magnitude(other).cmp(&magnitude(self)),
            false => magnitude(self).cmp(&magnitude(other)),
        })
    }

    /// Billionths, truncated towards zero, and whether anything was cut off; `None` on overflow.
    fn billionths(&self) -> Option<(i128, bool)> {
        if self.mantissa == 0 {
            return Some((0, false));
        }
        let shift = self.exponent + i64::from(DECIMALS);
        let factor = u32::try_from(shift.unsigned_abs()).ok().and_then(|places| 10i128.checked_pow(places));
        if shift >= 0 {
            return self.mantissa.checked_mul(factor?).map(|value| (value, false));
        }
        match factor {
            Some(factor) => Some((self.mantissa / factor, self.mantissa % factor != 0)),
            None => Some((0, true)),
        }
    }

    fn rounded(&self, up: bool) -> Decimal {
        let Some((billionths, remainder)) = self.billionths() else {
            return Decimal(if self.mantissa < 0 { i64::MIN } else { i64::MAX });
        };
        let step = match (remainder, up, self.mantissa > 0) {
            (true, true, true) => 1,
            (true, false, false) => -1,
            _ => 0,
        };
        let rounded = billionths + step;
        Decimal(rounded.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concentration_prints_as_it_was_written() {
        for (text, printed) in [
            ("17.3", "17.3"),
            ("48", "48.0"),
            ("48.10", "48.1"),
            ("-0.25", "-0.25"),
            ("1e2", "100.0"),
            ("0.000000001", "0.000000001"),
            ("-0", "0.0"),
            ("999999999.999999999", "999999999.999999999"),
        ] {
            assert_eq!(Decimal::parse(text).unwrap().to_string(), printed);
        }
    }

    #[test]
    fn what_no_column_holds_is_refused() {
        for text in ["", ".", "-", "NaN", "inf", "1,5", "0x10", "1e", "1e5000000000", "--1", "1.2.3"] {
            let error = Decimal::parse(text).unwrap_err();
            assert!(matches!(error, InvalidDecimal::NotANumber(_)), "{text}: {error}");
        }
        for text in ["1000000000", "0.0000000001", "1e300", "1e-300"] {
            let error = Decimal::parse(text).unwrap_err();
            assert!(matches!(error, InvalidDecimal::OutOfRange(_)), "{text}: {error}");
        }
        let digits = "1".repeat(37);
        assert!(matches!(Decimal::parse(&digits), Err(InvalidDecimal::TooManyDigits { .. })));
    }

    #[test]
    fn bounds_round_towards_the_values_they_select() {
        let least = |text| Decimal::at_least(text).unwrap().0;
        let most = |text| Decimal::at_most(text).unwrap().0;
        assert_eq!((least("17.3"), most("17.3")), (17_300_000_000, 17_300_000_000));
        assert_eq!((least("5.0000000001"), most("5.0000000001")), (5_000_000_001, 5_000_000_000));
        assert_eq!((least("-5.0000000001"), most("-5.0000000001")), (-5_000_000_000, -5_000_000_001));
        assert_eq!((least("1e300"), most("-1e300")), (i64::MAX, i64::MIN));
        assert_eq!((least("1e-300"), most("1e-300")), (1, 0));
    }

    #[test]
    fn numbers_compare_as_they_are_written() {
        let ascending = [
            "-1e2000000",
            "-1e1000001",
            "-20",
            "-3",
            "-2.5",
            "-1e-300",
            "0",
            "1e-2000000",
            "5",
            "5.000000000000000000000000000001",
            "5.1",
            "10",
            "1e10",
            "2e10",
            "1e1000001",
            "1e2000000",
        ];
        let compare = |left, right| Decimal::compare_written(left, right).unwrap();
        for (index, left) in ascending.iter().enumerate() {
            for (other, right) in ascending.iter().enumerate() {
                assert_eq!(compare(left, right), index.cmp(&other), "{left} {right}");
            }
        }
        for [left, right] in [["0", "-0.00"], ["0e5", "0"], ["5", "0.5e1"], ["-100.0", "-1e2"]] {
            assert_eq!(compare(left, right), Ordering::Equal, "{left} {right}");
        }
    }

    #[test]
    fn doubles_are_the_nearest_ones() {
        for text in ["17.3", "0.1", "-999.0", "999999999.999999999", "0.000000001", "7294.0"] {
            assert_eq!(Decimal::parse(text).unwrap().to_f64(), text.parse::<f64>().unwrap());
        }
    }
}
