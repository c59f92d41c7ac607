//! Pictures as SVG: sites on a map, a time series, a plan with what became of it.
//!
//! Lines, areas, axes and labels are drawn with `plotters`; sites, which a page colours anew from hour to hour, are circles with a
//! name of their own. A picture is only markup: no script, no style, nothing from elsewhere, and whatever comes from a file stands in
//! it as text. Its few colours are constants, so that a page can give others to the same ones where it is dark.

mod aqi;
mod canvas;
mod coverage;
mod map;
mod places;
mod projection;
mod series;

pub use aqi::{CATEGORIES, Category, category};
pub use coverage::{Coverage, CoverageDay, Fate};
pub use map::{Map, Site};
pub use projection::{Albers, Bounds};
pub use series::{Point, Series};
