//! Which rows a query wants: in the words of who asks, and resolved.
//!
//! Resolving folds letter case and makes bounds exact, so that two requests that select by the same words
//! have equal predicates, and a predicate can be a cache key. Places are checked where a query is.

use std::cmp::Ordering;

use crate::decimal::{Decimal, InvalidDecimal};
use crate::error::shown;

/// What a predicate is made of, as it was written: in any letter case, bounds as texts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Words<'a> {
    /// The parameter.
    pub parameter: Option<&'a str>,
    /// Smallest concentration, inclusive.
    pub min: Option<&'a str>,
    /// Largest concentration, inclusive.
    pub max: Option<&'a str>,
    /// Where, in degrees.
    pub place: Place,
    /// Part of the site's name.
    pub site: Option<&'a str>,
    /// Part of the agency's name.
    pub agency: Option<&'a str>,
    /// Part of either name; not empty.
    pub text: Option<&'a str>,
}

/// Words that make no predicate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct InvalidPredicate {
    /// The field that is wrong.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

fn invalid(field: &'static str, why: impl ToString) -> InvalidPredicate {
    InvalidPredicate { field, why: why.to_string() }
}

/// A conjunction; an absent part does not restrict. Made by [`Words::resolve`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Predicate {
    /// In upper case. A parameter that no row has selects nothing.
    pub parameter: Option<String>,
    /// Smallest concentration, inclusive. With either bound, a missing concentration does not match.
    pub min: Option<Decimal>,
    /// Largest concentration, inclusive.
    pub max: Option<Decimal>,
    /// Where, in degrees.
    pub place: Place,
    /// Part of the site's name, in lower case.
    pub site: Option<String>,
    /// Part of the agency's name, in lower case.
    pub agency: Option<String>,
    /// Part of either name, in lower case.
    pub text: Option<String>,
}

/// Bounds of latitude and longitude in degrees, each inclusive and each optional.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    /// Southern bound.
    pub lat_min: Option<f64>,
    /// Northern bound.
    pub lat_max: Option<f64>,
    /// Western bound.
    pub lon_min: Option<f64>,
    /// Eastern bound.
    pub lon_max: Option<f64>,
}

impl Place {
    /// The place that a user writes as `MINLON,MINLAT,MAXLON,MAXLAT`.
    ///
    /// # Errors
    /// Which number is wrong, or how many there are, in words.
    pub fn from_bbox(text: &str) -> Result<Self, String> {
        let numbers: Vec<f64> = text
            .split(',')
            .map(|part| part.trim().parse().map_err(|_| format!("`{part}` is not a number")))
            .collect::<Result<_, _>>()?;
        let [lon_min, lat_min, lon_max, lat_max] = numbers[..] else {
            return Err(format!("{} numbers, expected 4: MINLON,MINLAT,MAXLON,MAXLAT", numbers.len()));
        };
        for (name, min, max, limit) in
            [("longitude", lon_min, lon_max, 180.0), ("latitude", lat_min, lat_max, 90.0)]
        {
            for degrees in [min, max] {
                // Refuses what is not a number too.
                if !(-limit..=limit).contains(&degrees) {
                    return Err(format!(
                        "{name} {degrees} out of range: must be between {} and {limit} (MINLON,MINLAT,MAXLON,MAXLAT)",
                        -limit
                    ));
                }
            }
            if min > max {
                return Err(format!("smallest {name} {min} is above the largest, {max}"));
            }
        }
        Ok(Place {
            lat_min: Some(lat_min),
            lat_max: Some(lat_max),
            lon_min: Some(lon_min),
            lon_max: Some(lon_max),
        })
    }

    /// Whether a point lies inside.
    pub fn contains(&self, latitude: f64, longitude: f64) -> bool {
        self.lat_min.is_none_or(|bound| latitude >= bound)
            && self.lat_max.is_none_or(|bound| latitude <= bound)
            && self.lon_min.is_none_or(|bound| longitude >= bound)
            && self.lon_max.is_none_or(|bound| longitude <= bound)
    }
}

impl Words<'_> {
    /// The predicate that these words mean.
    ///
    /// # Errors
    /// [`InvalidPredicate`] if a bound is no number, bounds are in the wrong order, or `text` is empty.
    pub fn resolve(&self) -> Result<Predicate, InvalidPredicate> {
        let lower = |text: Option<&str>| text.map(str::to_lowercase);
        let (min, max) = bounds(self.min, self.max)?;
        if self.text == Some("") {
            return Err(invalid("text", "empty, a search needs at least one character"));
        }
        Ok(Predicate {
            parameter: self.parameter.map(str::to_uppercase),
            min,
            max,
            place: self.place,
            site: lower(self.site),
            agency: lower(self.agency),
            text: lower(self.text),
        })
    }
}

/// Beyond every concentration.
const BEYOND: Decimal = Decimal(i64::MAX);

fn bounds(
    min: Option<&str>,
    max: Option<&str>,
) -> Result<(Option<Decimal>, Option<Decimal>), InvalidPredicate> {
    let no_number = |field| move |error: InvalidDecimal| invalid(field, error);
    let least = min.map(Decimal::at_least).transpose().map_err(no_number("min_value"))?;
    let most = max.map(Decimal::at_most).transpose().map_err(no_number("max_value"))?;
    if let (Some(min), Some(max)) = (min, max)
        && Decimal::compare_written(min, max).map_err(no_number("min_value"))? == Ordering::Greater
    {
        return Err(invalid("min_value", format!("`{}` is above max_value `{}`", shown(min), shown(max))));
    }
    Ok(match (least, most) {
        // In order as written, and no concentration lies between: said so that it stays in order.
        (Some(least), Some(most)) if least > most => (Some(BEYOND), Some(BEYOND)),
        bounds => bounds,
    })
}

impl Predicate {
    /// About how many bytes its texts take.
    pub fn bytes(&self) -> usize {
        [&self.parameter, &self.site, &self.agency, &self.text].into_iter().flatten().map(String::len).sum()
    }

    /// Whether rows of a site can match: everything but parameter and concentration.
    ///
    /// `site_name` and `agency_name` as in the file; folded here, once for each site and query.
    pub fn matches_site(&self, latitude: f64, longitude: f64, site_name: &str, agency_name: &str) -> bool {
        let holds =
            |part: &Option<String>, name: &str| part.as_ref().is_none_or(|part| name.contains(part.as_str()));
        if !self.place.contains(latitude, longitude) {
            return false;
        }
        if self.site.is_none() && self.agency.is_none() && self.text.is_none() {
            return true;
        }
        let (site_name, agency_name) = (site_name.to_lowercase(), agency_name.to_lowercase());
        holds(&self.site, &site_name)
            && holds(&self.agency, &agency_name)
            && (holds(&self.text, &site_name) || holds(&self.text, &agency_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(min: &str, max: &str) -> Result<Predicate, InvalidPredicate> {
        Words { min: Some(min), max: Some(max), ..Words::default() }.resolve()
    }

    #[test]
    fn words_of_any_letter_case_mean_the_same() {
        let words = |parameter, site, agency, text| Words {
            parameter: Some(parameter),
            site: Some(site),
            agency: Some(agency),
            text: Some(text),
            ..Words::default()
        };
        let mixed = words("Pm2.5", "YoseMite", "CARB", "VALLÉE").resolve().unwrap();
        assert_eq!(mixed, words("pm2.5", "yosemite", "Carb", "vallée").resolve().unwrap());
        assert_eq!((mixed.parameter.as_deref(), mixed.text.as_deref()), (Some("PM2.5"), Some("vallée")));
    }

    #[test]
    fn bounds_are_compared_as_they_are_written() {
        for (min, max) in [("5.000000001", "5"), ("5.0000000002", "5.0000000001"), ("2e10", "1e10")] {
            let error = resolved(min, max).unwrap_err();
            assert_eq!(error.to_string(), format!("min_value: `{min}` is above max_value `{max}`"));
        }
        for (min, max) in
            [("5", "5.0"), ("5.0000000001", "5.0000000002"), ("1e10", "2e10"), ("-2e10", "-1e10")]
        {
            assert!(resolved(min, max).is_ok(), "{min} {max}");
        }
    }

    /// Goal: a predicate means the same to the next node. Method: bounds are passed on as they print.
    #[test]
    fn a_resolved_predicate_resolves_to_itself() {
        for (min, max) in
            [("5", "35"), ("5.0000000001", "5.0000000002"), ("1e10", "2e10"), ("-2e10", "-1e10")]
        {
            let predicate = resolved(min, max).unwrap();
            let [least, most] = [predicate.min, predicate.max].map(|bound| bound.unwrap().to_string());
            assert_eq!(resolved(&least, &most), Ok(predicate), "{min} {max}");
        }
    }

    #[test]
    fn words_that_select_nothing_sensible_are_refused() {
        let empty = Words { text: Some(""), ..Words::default() };
        let error = empty.resolve().unwrap_err();
        assert_eq!(error.to_string(), "text: empty, a search needs at least one character");
        let error = resolved("5", "many").unwrap_err();
        assert_eq!(error.to_string(), "max_value: `many` is not a number");
    }
}
