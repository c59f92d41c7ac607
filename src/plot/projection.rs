//! Albers' equal-area conic projection of the sphere, fitted to what is shown: areas of smoke compare as they are.
//!
//! Source: Snyder, Map Projections: A Working Manual (USGS Professional Paper 1395, 1987), pages 98 to 103, formulas 14-1 to 14-6; its
//! numerical example, page 291, is among the tests.

/// Parallels closer to each other's mirror image would make a cone without a tip.
const LEAST_CONE: f64 = 0.01;

/// Degrees that a picture shows at least, so that a single site has surroundings.
const LEAST_DEGREES: f64 = 2.0;

/// What lies between these degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// South.
    pub lat_min: f64,
    /// North.
    pub lat_max: f64,
    /// West.
    pub lon_min: f64,
    /// East.
    pub lon_max: f64,
}

impl Bounds {
    /// The smallest that hold all points, latitude before longitude; `None` without points.
    pub fn of(points: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        points.into_iter().fold(None, |bounds: Option<Bounds>, (lat, lon)| {
            let found = bounds.unwrap_or(Bounds { lat_min: lat, lat_max: lat, lon_min: lon, lon_max: lon });
            Some(Bounds {
                lat_min: found.lat_min.min(lat),
                lat_max: found.lat_max.max(lat),
                lon_min: found.lon_min.min(lon),
                lon_max: found.lon_max.max(lon),
            })
        })
    }

    /// With surroundings where there is little between them.
    pub fn widened(self) -> Self {
        let widen = |min: f64, max: f64| {
            let more = ((LEAST_DEGREES - (max - min)) / 2.0).max(0.0);
            (min - more, max + more)
        };
        let ((lat_min, lat_max), (lon_min, lon_max)) =
            (widen(self.lat_min, self.lat_max), widen(self.lon_min, self.lon_max));
        Bounds { lat_min: lat_min.max(-89.0), lat_max: lat_max.min(89.0), lon_min, lon_max }
    }
}

/// The projection, on a sphere of radius 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Albers {
    n: f64,
    c: f64,
    rho_0: f64,
    meridian: f64,
}

impl Albers {
    /// The projection with these standard parallels, which has `origin` (latitude, longitude) at 0, 0. All in degrees.
    pub fn new(parallels: [f64; 2], origin: (f64, f64)) -> Self {
        let [first, second] = parallels.map(f64::to_radians);
        let n = (first.sin() + second.sin()) / 2.0;
        let n = if n.abs() < LEAST_CONE { LEAST_CONE.copysign(n) } else { n };
        let c = first.cos().powi(2) + 2.0 * n * first.sin();
        let mut albers = Albers { n, c, rho_0: 0.0, meridian: origin.1 };
        albers.rho_0 = albers.rho(origin.0);
        albers
    }

    /// The one that fits: its meridian in the middle, its parallels a sixth of the height inside (Snyder, page 99).
    pub fn fitted(bounds: &Bounds) -> Self {
        let height = bounds.lat_max - bounds.lat_min;
        let parallels = [bounds.lat_min + height / 6.0, bounds.lat_max - height / 6.0];
        let middle = ((bounds.lat_min + bounds.lat_max) / 2.0, (bounds.lon_min + bounds.lon_max) / 2.0);
        Albers::new(parallels, middle)
    }

    /// Where a place is: to the right, and up.
    pub fn project(&self, latitude: f64, longitude: f64) -> (f64, f64) {
        let (rho, theta) = (self.rho(latitude), self.n * (longitude - self.meridian).to_radians());
        (rho * theta.sin(), self.rho_0 - rho * theta.cos())
    }

    /// The distance from the cone's tip.
    fn rho(&self, latitude: f64) -> f64 {
        (self.c - 2.0 * self.n * latitude.to_radians().sin()).max(0.0).sqrt() / self.n
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_where_snyders_example_has_it() {
        let albers = Albers::new([29.5, 45.5], (23.0, -96.0));
        let (x, y) = albers.project(35.0, -75.0);
        assert!((x - 0.295_272_0).abs() < 5e-8 && (y - 0.241_677_4).abs() < 5e-8, "{x} {y}");
        assert_eq!(albers.project(23.0, -96.0), (0.0, 0.0));
    }

    /// One degree by one degree covers what it covers on the sphere: the difference of the sines, times a degree.
    #[test]
    fn areas_are_those_of_the_sphere() {
        let bounds = Bounds { lat_min: 19.0, lat_max: 61.0, lon_min: -150.0, lon_max: -99.0 };
        let albers = Albers::fitted(&bounds);
        for (lat, lon) in [(20.0, -145.0), (38.0, -120.0), (60.0, -100.0)] {
            let steps = 400;
            let edge = |from: (f64, f64), to: (f64, f64)| {
                let at = move |step: i32| f64::from(step) / f64::from(steps);
                (0..steps).map(move |step| {
                    let (dlat, dlon) = (to.0 - from.0, to.1 - from.1);
                    albers.project(from.0 + dlat * at(step), from.1 + dlon * at(step))
                })
            };
            let corners =
                [(lat, lon), (lat, lon + 1.0), (lat + 1.0, lon + 1.0), (lat + 1.0, lon), (lat, lon)];
            let outline: Vec<_> = corners.windows(2).flat_map(|pair| edge(pair[0], pair[1])).collect();
            let next = outline.iter().skip(1).chain(&outline[..1]);
            let area: f64 = outline.iter().zip(next).map(|(a, b)| (a.0 * b.1 - b.0 * a.1) / 2.0).sum();
            let expected =
                (f64::to_radians(lat + 1.0).sin() - f64::to_radians(lat).sin()) * 1f64.to_radians();
            assert!((area / expected - 1.0).abs() < 1e-4, "{lat} {lon}: {area} {expected}");
        }
    }

    #[test]
    fn places_at_the_equator_and_the_poles_are_somewhere() {
        for points in [vec![(0.0, 0.0)], vec![(-3.0, 10.0), (3.0, 12.0)], vec![(-90.0, 0.0), (90.0, 180.0)]] {
            let bounds = Bounds::of(points.clone()).unwrap().widened();
            let albers = Albers::fitted(&bounds);
            for (lat, lon) in points {
                let (x, y) = albers.project(lat, lon);
                assert!(x.is_finite() && y.is_finite(), "{lat} {lon}");
            }
        }
    }
}
