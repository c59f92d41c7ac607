//! Which rows a query wants, resolved: letter case folded, bounds exact, ranges checked.
//!
//! Two requests that select by the same words have equal predicates, so a predicate can be a cache key.

use crate::decimal::Decimal;

/// A conjunction; an absent part does not restrict.
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
    /// Whether a point lies inside.
    pub fn contains(&self, latitude: f64, longitude: f64) -> bool {
        self.lat_min.is_none_or(|bound| latitude >= bound)
            && self.lat_max.is_none_or(|bound| latitude <= bound)
            && self.lon_min.is_none_or(|bound| longitude >= bound)
            && self.lon_max.is_none_or(|bound| longitude <= bound)
    }
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
