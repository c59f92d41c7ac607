//! Decimal numbers as the characters they are: compared digit by digit, of any length.

use std::cmp::Ordering;

/// A decimal number without leading or trailing zeros; zero is never negative.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number {
    negative: bool,
    /// Digits before the point.
    integer: String,
    /// Digits after it.
    fraction: String,
}

impl Number {
    /// Digits with an optional sign, point and exponent; none if the text is anything else.
    ///
    /// An exponent beyond any that matters is cut: there are no digits enough to bring the number back.
    pub(super) fn parse(text: &str) -> Option<Number> {
        let text = text.trim();
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?.clamp(-9_999, 9_999)),
            None => (text, 0),
        };
        let negative = mantissa.starts_with('-');
        let digits = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all = format!("{integer}{fraction}");
        if all.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (integer, fraction) = move_point(&all, integer.len() as i64 + i64::from(exponent));
        let integer = integer.trim_start_matches('0').to_owned();
        let fraction = fraction.trim_end_matches('0').to_owned();
        let zero = integer.is_empty() && fraction.is_empty();
        Some(Number { negative: negative && !zero, integer, fraction })
    }

    /// Whether it has at most so many digits before the point and behind it.
    pub(super) fn fits(&self, before: usize, behind: usize) -> bool {
        self.integer.len() <= before && self.fraction.len() <= behind
    }

    /// The part before the point, which fits.
    pub(super) fn to_integer(&self) -> i64 {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}0{}", self.integer).parse().expect("an index has few digits")
    }

    /// The number times ten to the power `places`; none if that is not a whole number of 38 digits.
    pub(super) fn scaled(&self, places: usize) -> Option<i128> {
        if self.fraction.len() > places {
            return None;
        }
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}0{}{:0<places$}", self.integer, self.fraction).parse().ok()
    }

    /// The nearest `f64`.
    pub(super) fn to_f64(&self) -> f64 {
        let sign = if self.negative { "-" } else { "" };
        format!("{sign}0{}.{}0", self.integer, self.fraction).parse().expect("only digits")
    }

    fn magnitude(&self) -> (usize, &str, &str) {
        // More digits is larger; digits of equal count compare as text, and so do fractions.
        (self.integer.len(), &self.integer, &self.fraction)
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.magnitude().cmp(&other.magnitude()),
            (true, true) => other.magnitude().cmp(&self.magnitude()),
            (negative, _) => {
                if negative {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
        }
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Digits with the point after the first `point` of them, filled up with zeros.
fn move_point(digits: &str, point: i64) -> (String, String) {
    if point <= 0 {
        return (String::new(), "0".repeat(point.unsigned_abs() as usize) + digits);
    }
    let point = point as usize;
    let digits = format!("{digits:0<point$}");
    (digits[..point].to_owned(), digits[point..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn numbers_order_by_value_not_by_text() {
        let ascending = [
            "-1000",
            "-999",
            "-9.5",
            "-0.30000000000000001",
            "-0.3",
            "-1e-40",
            "0",
            "4.999999999999999999999",
            "5",
            "5.05",
            "5.1",
            "9",
            "10",
            "1e2",
            "100.1",
            "1e30",
        ];
        for pair in ascending.windows(2) {
            assert!(number(pair[0]) < number(pair[1]), "{pair:?}");
            assert!(number(pair[1]) > number(pair[0]), "{pair:?}");
        }
    }

    #[test]
    fn numbers_written_differently_are_equal() {
        for [left, right] in [
            ["5", "5.00"],
            ["+05.0", "50e-1"],
            ["-0.0", "0"],
            ["0.0012E+3", "1.2"],
            [".5", "0.5"],
            ["-999", "-999.0"],
        ] {
            assert_eq!(number(left), number(right), "{left} {right}");
        }
    }

    #[test]
    fn text_that_is_no_number_is_none() {
        for text in ["", "-", ".", "1.2.3", "NaN", "inf", "1e", "e5", "0x1", "1,5", "--1", "1 2"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn scaled_is_exact_or_none() {
        assert_eq!(number("-0.3").scaled(9), Some(-300_000_000));
        assert_eq!(number("95.6").scaled(1), Some(956));
        assert_eq!(number("0.25").scaled(1), None);
        assert_eq!(number("-0.3").to_f64(), -0.3);
    }
}
