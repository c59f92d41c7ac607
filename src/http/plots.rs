//! Pictures over HTTP: queries like all others, whose rows are drawn instead of written.
//!
//! Of rows no more is kept than the picture shows: one value for each site, or one for each site and hour.

mod covered;
mod sites;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int8Type};
use futures::StreamExt;
use serde_json::{Value, json};

pub(super) use self::covered::{coverage, coverage_picture};
use self::sites::Sites;
use super::parameters::Asked;
use super::query::{Opened, open};
use crate::access::Caller;
use crate::aggregate::AggregateOf;
use crate::error::{MissingDay, QueryError};
use crate::frame::{self, FrameError};
use crate::plan::{InvalidQuery, Query};
use crate::plot::{Map, Point, Series};
use crate::state::NodeState;
use crate::verb::Frame;

/// Rows to scan that taking a row in costs as much as: 250 ns against 0.5, by what 4,519 rows of 650 sites take. Most of it are the
/// sites, which each frame names anew.
const SCANNED_ROWS_PER_ROW: u64 = 500;

/// Rows to scan that drawing a picture costs as much as: a map of 700 sites takes 0.7 ms.
const SCANNED_ROWS_PER_PICTURE: u64 = 1_500_000;

/// The sites that match, each with its highest index.
pub(super) async fn map(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<String, QueryError> {
    let query = asked.picture().map_err(|invalid| state.refused(invalid.into()))?;
    let wanted = asked.hour();
    let take = move |(sites, values): &mut (Sites, Vec<Option<i16>>), batch: &RecordBatch| {
        sites.take(batch, |site, hour, aqi| {
            values.resize(values.len().max(site + 1), None);
            if wanted.is_none_or(|wanted| wanted == hour) {
                values[site] = values[site].max(aqi);
            }
        })
    };
    let title = |count: usize| {
        let what = match wanted {
            Some(hour) => format!("at {hour:02}:00 UTC"),
            None => "at its highest".to_owned(),
        };
        format!("{} {what}, {count} sites", about(asked, "AQI of"))
    };
    let draw = move |(sites, values): (Sites, Vec<Option<i16>>)| {
        let sites: Vec<_> = sites.into_sites().into_iter().zip(values).collect();
        Map { title: title(sites.len()), sites }
    };
    let (map, paying) =
        taken(state, caller, asked, query, take).await.map(|(taken, paying)| (draw(taken), paying))?;
    paying.draw(state, move || map.svg()).await
}

/// The index of each site that matches, hour by hour, of one day.
pub(super) async fn hours(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Value, QueryError> {
    let query = one_day(state, asked).map_err(|invalid| state.refused(invalid.into()))?;
    let day = query.date_start;
    type Hours = (Sites, BTreeMap<u8, Vec<Option<i16>>>);
    let take = |(sites, hours): &mut Hours, batch: &RecordBatch| {
        sites.take(batch, |site, hour, aqi| {
            let values = hours.entry(hour).or_default();
            values.resize(values.len().max(site + 1), None);
            values[site] = values[site].max(aqi);
        })
    };
    let ((sites, hours), _) = taken(state, caller, asked, query, take).await?;
    let sites = sites.into_sites();
    let hour = |(hour, mut aqi): (u8, Vec<Option<i16>>)| {
        aqi.resize(sites.len(), None);
        json!({"hour": hour, "aqi": aqi})
    };
    Ok(json!({
        "day": day.map(|day| day.to_string()),
        "parameter": asked.shown_parameter(),
        "hours": hours.into_iter().map(hour).collect::<Value>(),
        "sites": sites.iter().map(|site| site.id.as_str()).collect::<Value>(),
    }))
}

/// One day alone: a page asks for them one after the other.
fn one_day(state: &NodeState, asked: &Asked) -> Result<Query, InvalidQuery> {
    let query = asked.picture()?;
    let last = state.overlay.teams.iter().filter_map(|team| team.days.last()).max();
    let day = query.date_start.or(query.date_end).or(last);
    if query.date_end.is_some_and(|end| Some(end) != day) {
        let why = "hours are those of one day: leave `to` out, or write the same day as in `from`";
        return Err(InvalidQuery::new("to", why));
    }
    Ok(Query { date_start: day, date_end: day, ..query })
}

/// Mean, lowest and highest of each hour.
pub(super) async fn series(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<String, QueryError> {
    let query = asked.series().map_err(|invalid| state.refused(invalid.into()))?;
    let take = |points: &mut Vec<Point>, batch: &RecordBatch| {
        points.extend(points_of(batch).ok_or(FrameError::NotArrow("other columns than those of groups"))?);
        Ok(())
    };
    let (points, paying) = taken(state, caller, asked, query, take).await?;
    let unit = match asked.series_of() {
        AggregateOf::Aqi => "AQI",
        AggregateOf::Value => "concentration",
        AggregateOf::RawConcentration => "raw concentration",
    };
    let title = format!(
        "{} by hour (UTC): mean, lowest and highest, {} hours",
        about(asked, &format!("{unit} of")),
        points.len()
    );
    let is_aqi = asked.series_of() == AggregateOf::Aqi;
    let series = Series { title, unit: unit.to_owned(), is_aqi, points };
    paying.draw(state, move || series.svg()).await
}

/// Hours, of an aggregate by day and hour.
fn points_of(batch: &RecordBatch) -> Option<Vec<Point>> {
    let days = batch.column(0).as_string_opt::<i32>()?;
    let hours = batch.column(1).as_primitive_opt::<Int8Type>()?;
    let [min, max, mean] = [3, 4, 5].map(|column| batch.column(column).as_primitive_opt::<Float64Type>());
    let (min, max, mean) = (min?, max?, mean?);
    let point = |row: usize| {
        Some(Point {
            day: days.value(row).parse().ok()?,
            hour: u8::try_from(hours.value(row)).ok()?,
            min: min.value(row),
            max: max.value(row),
            mean: mean.value(row),
        })
    };
    (0..batch.num_rows()).map(point).collect()
}

/// `AQI of PM2.5, site with ...`.
fn about(asked: &Asked, what: &str) -> String {
    let sites = asked.shown_sites();
    let comma = if sites.is_empty() { "" } else { ", " };
    format!("{what} {}{comma}{sites}", crate::error::shown(asked.shown_parameter()))
}

/// On whose account a picture is drawn.
struct Paying {
    client: crate::admission::ClientKey,
    result_set: Arc<crate::result_set::ResultSet>,
}

impl Paying {
    async fn draw(
        self,
        state: &NodeState,
        draw: impl FnOnce() -> String + Send + 'static,
    ) -> Result<String, QueryError> {
        let chunk = (&*self.result_set, 0);
        state.coordinator.work_for(&self.client, chunk, SCANNED_ROWS_PER_PICTURE, draw).await
    }
}

/// What `take` makes of all rows of a query, chunk by chunk, under compute slots.
async fn taken<T: Default + Send + 'static>(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
    query: Query,
    take: impl Fn(&mut T, &RecordBatch) -> Result<(), TakeError> + Clone + Send + 'static,
) -> Result<(T, Paying), QueryError> {
    let schema = frame::schema_before(query.encoding, query.aggregate.as_ref());
    let Opened { answered, mut chunks, client } = open(state, caller, asked, query).await?;
    let paying = Paying { client, result_set: answered.result_set };
    let (mut taken, mut index) = (T::default(), 0);
    while let Some(chunk) = chunks.next().await {
        let frames = chunk?.frames;
        let rows: u64 = frames.iter().map(|frame| u64::from(frame.rows)).sum();
        let (take, schema) = (take.clone(), schema.clone());
        let work = move || {
            for frame in frames.iter().filter(|frame| frame.rows > 0) {
                let batch = frame::decode_arrow(&schema, &frame.payload).map_err(TakeError::from);
                batch.and_then(|batch| take(&mut taken, &batch)).map_err(|error| error.of(frame))?;
            }
            Ok::<T, QueryError>(taken)
        };
        let chunk = (&*paying.result_set, index);
        let cost = rows.max(1) * SCANNED_ROWS_PER_ROW;
        taken = state.coordinator.work_for(&paying.client, chunk, cost, work).await??;
        index += 1;
    }
    Ok((taken, paying))
}

/// Why rows are not taken in.
#[derive(Debug)]
enum TakeError {
    /// They are more than a picture shows.
    TooMany(InvalidQuery),
    /// What a node sent are no rows.
    Unreadable(FrameError),
}

impl From<FrameError> for TakeError {
    fn from(error: FrameError) -> Self {
        TakeError::Unreadable(error)
    }
}

impl TakeError {
    fn of(self, frame: &Frame) -> QueryError {
        match self {
            TakeError::TooMany(invalid) => invalid.into(),
            TakeError::Unreadable(error) => {
                tracing::warn!(%error, node = %frame.node, "a frame cannot be drawn");
                let missing = |day| MissingDay {
                    day,
                    why: error.to_string(),
                    nodes_tried: vec![frame.node.to_string()],
                };
                QueryError::DataLoss(frame.day.map(missing).into_iter().collect())
            }
        }
    }
}
