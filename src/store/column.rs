//! One day's concentrations as scaled integers.

use crate::decimal::{DECIMALS, Decimal};

/// Concentrations of one day: whole numbers times ten to the power of minus `decimals`.
///
/// All rows share the decimals, 0 to 9, and the width. The smallest number of the type means missing; no
/// concentration reaches it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Column {
    /// Every mantissa fits into 32 bits.
    I32 {
        /// One for each row.
        mantissas: Box<[i32]>,
        /// Decimals of every mantissa.
        decimals: u8,
    },
    /// Some mantissa does not.
    I64 {
        /// One for each row.
        mantissas: Box<[i64]>,
        /// Decimals of every mantissa.
        decimals: u8,
    },
}

/// Billionths that are missing, while a column is built.
pub(super) const MISSING: i64 = i64::MIN;

impl Column {
    /// The narrowest column that holds `billionths` exactly; [`MISSING`] stands for no value.
    pub(super) fn of_billionths(billionths: &[i64]) -> Self {
        let mut decimals = 0;
        let mut unit = unit_of(decimals);
        let (mut least, mut most) = (0, 0);
        for value in billionths.iter().copied().filter(|value| *value != MISSING) {
            while value % unit != 0 {
                decimals += 1;
                unit = unit_of(decimals);
            }
            least = least.min(value);
            most = most.max(value);
        }
        let range = -i64::from(i32::MAX)..=i64::from(i32::MAX);
        if range.contains(&(least / unit)) && range.contains(&(most / unit)) {
            let scale = |value: &i64| match *value {
                MISSING => i32::MIN,
                value => (value / unit) as i32,
            };
            Column::I32 { mantissas: billionths.iter().map(scale).collect(), decimals }
        } else {
            let scale = |value: &i64| match *value {
                MISSING => i64::MIN,
                value => value / unit,
            };
            Column::I64 { mantissas: billionths.iter().map(scale).collect(), decimals }
        }
    }

    /// The concentration of a row.
    #[inline]
    pub fn get(&self, row: u32) -> Option<Decimal> {
        match self {
            Column::I32 { mantissas, decimals } => match mantissas[row as usize] {
                i32::MIN => None,
                mantissa => Some(Decimal(i64::from(mantissa) * unit_of(*decimals))),
            },
            Column::I64 { mantissas, decimals } => match mantissas[row as usize] {
                i64::MIN => None,
                mantissa => Some(Decimal(mantissa * unit_of(*decimals))),
            },
        }
    }

    /// The double nearest to the concentration of a row.
    #[inline]
    pub fn to_f64(&self, row: u32) -> Option<f64> {
        if let Column::I32 { mantissas, decimals } = self {
            let mantissa = mantissas[row as usize];
            const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
            // Both operands are exact, so the quotient is rounded once.
            return (mantissa != i32::MIN).then(|| f64::from(mantissa) / POWERS[usize::from(*decimals)]);
        }
        self.get(row).map(Decimal::to_f64)
    }

    /// Decimals that every row is held with.
    pub fn decimals(&self) -> u8 {
        match self {
            Column::I32 { decimals, .. } | Column::I64 { decimals, .. } => *decimals,
        }
    }

    /// Billionths that a mantissa of one stands for.
    pub(crate) fn unit(&self) -> i64 {
        unit_of(self.decimals())
    }

    /// The most characters that any concentration of the column prints with, or a little more.
    pub(super) fn text_bytes(&self) -> usize {
        let (least, most) = match self {
            Column::I32 { mantissas, .. } => range(
                mantissas
                    .iter()
                    .filter(|mantissa| **mantissa != i32::MIN)
                    .map(|mantissa| i64::from(*mantissa)),
            ),
            Column::I64 { mantissas, .. } => {
                range(mantissas.iter().copied().filter(|mantissa| *mantissa != i64::MIN))
            }
        };
        let whole = |mantissa: i64| Decimal(mantissa * self.unit()).to_string();
        let before_point = |text: String| text.find('.').unwrap_or(text.len());
        // A negative number below one prints its sign, so a range that reaches below zero has one.
        let sign = usize::from(least < 0);
        let digits = before_point(whole(least)).max(before_point(whole(most)));
        sign + digits + ".".len() + usize::from(self.decimals().max(1))
    }

    /// Bytes that the mantissas take.
    pub fn bytes(&self) -> usize {
        match self {
            Column::I32 { mantissas, .. } => size_of_val(&**mantissas),
            Column::I64 { mantissas, .. } => size_of_val(&**mantissas),
        }
    }
}

fn range(mantissas: impl Iterator<Item = i64>) -> (i64, i64) {
    mantissas.fold((0, 0), |(least, most), mantissa| (least.min(mantissa), most.max(mantissa)))
}

#[inline]
fn unit_of(decimals: u8) -> i64 {
    const UNITS: [i64; 10] =
        [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    const { assert!(UNITS.len() == DECIMALS as usize + 1) };
    UNITS[usize::from(decimals)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn billionths(text: &str) -> i64 {
        Decimal::parse(text).unwrap().0
    }

    #[test]
    fn a_column_takes_the_fewest_decimals_that_are_exact() {
        let column = Column::of_billionths(&[billionths("17.3"), MISSING, billionths("-0.25")]);
        assert_eq!(column, Column::I32 { mantissas: [1730, i32::MIN, -25].into(), decimals: 2 });
        assert_eq!(column.get(0), Some(Decimal(billionths("17.3"))));
        assert_eq!(column.get(1), None);
    }

    #[test]
    fn a_column_widens_when_a_mantissa_does_not_fit() {
        let fits = Column::of_billionths(&[billionths("214748364.7")]);
        let wide = Column::of_billionths(&[billionths("214748364.8")]);
        let negative = Column::of_billionths(&[billionths("-214748364.8"), MISSING]);
        assert!(matches!(fits, Column::I32 { .. }));
        assert!(matches!(wide, Column::I64 { .. }));
        assert_eq!(negative.get(0), Some(Decimal(billionths("-214748364.8"))));
    }

    proptest! {
        #[test]
        fn every_concentration_survives(values in prop::collection::vec(
            prop::option::of((-999_999_999_999_999_999i64..=999_999_999_999_999_999, 0u32..10)), 0..20)
        ) {
            let wanted: Vec<Option<i64>> = values
                .iter()
                .map(|value| value.map(|(value, zeros)| value / 10i64.pow(zeros) * 10i64.pow(zeros)))
                .collect();
            let wide: Vec<i64> = wanted.iter().map(|value| value.unwrap_or(MISSING)).collect();
            let column = Column::of_billionths(&wide);
            let held: Vec<Option<i64>> =
                (0..wide.len() as u32).map(|row| column.get(row).map(|value| value.0)).collect();
            prop_assert_eq!(held, wanted);
            for row in 0..wide.len() as u32 {
                prop_assert_eq!(column.to_f64(row), column.get(row).map(Decimal::to_f64));
            }
        }
    }
}
