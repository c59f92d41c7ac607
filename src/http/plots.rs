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
use tokio::time::Instant;

pub(super) use self::covered::{coverage, coverage_picture};
use self::sites::Sites;
use super::parameters::Asked;
use super::query::{Opened, missing_days, open};
use crate::access::Caller;
use crate::aggregate::AggregateOf;
use crate::error::{MissingDay, QueryError};
use crate::frame::{self, FrameError};
use crate::plan::{InvalidQuery, Query};
use crate::plot::{Map, Point, Series};
use crate::result_set::ResultSet;
use crate::state::NodeState;
use crate::verb::Frame;

/// Rows to scan that taking a row in costs as much as: 250 ns against 0.5, by what 4,519 rows of 650 sites take. Most of it are the
/// sites, which each frame names anew.
const SCANNED_ROWS_PER_ROW: u64 = 500;

/// Rows to scan that drawing a picture costs as much as: a map of 700 sites takes 0.7 ms.
const SCANNED_ROWS_PER_PICTURE: u64 = 1_500_000;

/// The sites that match, each with its highest index.
pub(super) async fn map(state: &Arc<NodeState>, caller: &Caller, asked: &Asked) -> Result<Shown, QueryError> {
    let time = Time::of(state, asked);
    time.allows(map_in(time, state, caller, asked)).await
}

async fn map_in(
    time: Time,
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
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
    let opened = open(state, caller, asked, query, time.deadline).await?;
    let ((sites, values), paying) = taken(state, opened, take).await?;
    let result_set = paying.result_set.clone();
    let sites: Vec<_> = sites.into_sites().into_iter().zip(values).collect();
    let title = {
        let what = match wanted {
            Some(hour) => format!("at {hour:02}:00 UTC"),
            None => "at its highest".to_owned(),
        };
        format!("{} {what}, {} sites{}", about(asked, "AQI of"), sites.len(), without(&result_set))
    };
    let map = Map { title, sites };
    let text = paying.draw(state, move || map.svg()).await?;
    Ok(Shown { text, result_set })
}

/// The index of each site that matches, hour by hour, of one day.
pub(super) async fn hours(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let time = Time::of(state, asked);
    time.allows(hours_in(time, state, caller, asked)).await
}

async fn hours_in(
    time: Time,
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
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
    let opened = open(state, caller, asked, query, time.deadline).await?;
    let ((sites, hours), paying) = taken(state, opened, take).await?;
    let missing = missing_days(&paying.result_set);
    let sites = sites.into_sites();
    let hour = |(hour, mut aqi): (u8, Vec<Option<i16>>)| {
        aqi.resize(sites.len(), None);
        json!({"hour": hour, "aqi": aqi})
    };
    let hours = json!({
        "day": day.map(|day| day.to_string()),
        "parameter": asked.shown_parameter(),
        "hours": hours.into_iter().map(hour).collect::<Value>(),
        "sites": sites.iter().map(|site| site.id.as_str()).collect::<Value>(),
        "missing_days": missing.iter().map(|day| day.to_string()).collect::<Value>(),
    });
    Ok(Shown { text: hours.to_string(), result_set: paying.result_set })
}

/// One day alone: a page asks for them one after the other. Where none is named, it is the last one that is owned.
fn one_day(state: &NodeState, asked: &Asked) -> Result<Query, InvalidQuery> {
    let query = asked.picture()?;
    let is_asked = |name: &str| query.team.as_deref().is_none_or(|asked| asked == name);
    let teams = state.overlay.teams.iter().filter(|team| is_asked(&team.name));
    let day = query.date_start.or_else(|| teams.filter_map(|team| team.days.last()).max());
    Ok(Query { date_start: day, date_end: day, ..query })
}

/// Mean, lowest and highest of each hour.
pub(super) async fn series(
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let time = Time::of(state, asked);
    time.allows(series_in(time, state, caller, asked)).await
}

async fn series_in(
    time: Time,
    state: &Arc<NodeState>,
    caller: &Caller,
    asked: &Asked,
) -> Result<Shown, QueryError> {
    let query = asked.series().map_err(|invalid| state.refused(invalid.into()))?;
    let take = |points: &mut Vec<Point>, batch: &RecordBatch| {
        points.extend(points_of(batch).ok_or(FrameError::NotArrow("other columns than those of groups"))?);
        Ok(())
    };
    let opened = open(state, caller, asked, query, time.deadline).await?;
    drawable(opened.answered.result_set.total_records)?;
    let (points, paying) = taken(state, opened, take).await?;
    let result_set = paying.result_set.clone();
    let unit = match asked.series_of() {
        AggregateOf::Aqi => "AQI",
        AggregateOf::Value => "concentration",
        AggregateOf::RawConcentration => "raw concentration",
    };
    let title = format!(
        "{} by hour (UTC): mean, lowest and highest, {} hours{}",
        about(asked, &format!("{unit} of")),
        points.len(),
        without(&result_set)
    );
    let is_aqi = asked.series_of() == AggregateOf::Aqi;
    let series = Series { title, unit: unit.to_owned(), is_aqi, points };
    let text = paying.draw(state, move || series.svg()).await?;
    Ok(Shown { text, result_set })
}

/// Whether a series has room for so many hours.
fn drawable(hours: u64) -> Result<(), InvalidQuery> {
    let most = Series::MOST_POINTS;
    if hours <= most as u64 {
        return Ok(());
    }
    let why = format!(
        "{hours} hours have values, a picture shows at most {most}: ask for fewer days with from and to"
    );
    Err(InvalidQuery::new("from", why))
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

/// `, without 3 days`; nothing of what is whole.
fn without(result_set: &ResultSet) -> String {
    match missing_days(result_set).len() {
        0 => String::new(),
        1 => ", without 1 day".to_owned(),
        days => format!(", without {days} days"),
    }
}

/// An answer, and the result that it shows.
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) result_set: Arc<ResultSet>,
}

/// How long all of an answer may take: planning, counting, reading and drawing.
#[derive(Clone, Copy)]
struct Time {
    began: Instant,
    deadline: Instant,
}

impl Time {
    fn of(state: &NodeState, asked: &Asked) -> Self {
        Time { began: Instant::now(), deadline: state.deadline(asked.timeout()) }
    }

    /// What comes of `work`, unless time is up before.
    async fn allows<T>(self, work: impl Future<Output = Result<T, QueryError>>) -> Result<T, QueryError> {
        let late = |_| Err(QueryError::DeadlineExceeded { waited: self.deadline - self.began });
        tokio::time::timeout_at(self.deadline, work).await.unwrap_or_else(late)
    }
}

/// On whose account a picture is drawn.
struct Paying {
    client: crate::admission::ClientKey,
    result_set: Arc<ResultSet>,
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
    state: &NodeState,
    opened: Opened,
    take: impl Fn(&mut T, &RecordBatch) -> Result<(), TakeError> + Clone + Send + 'static,
) -> Result<(T, Paying), QueryError> {
    let Opened { answered, mut chunks, client } = opened;
    let query = &answered.result_set.plan.query;
    let schema = frame::schema_before(query.encoding, query.aggregate.as_ref());
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn series_of_too_many_hours_says_what_to_do() {
        assert!(drawable(20_000).is_ok());
        let refused = drawable(87_600).unwrap_err().to_string();
        for words in ["87600 hours", "at most 20000", "fewer days with from and to"] {
            assert!(refused.contains(words), "{refused}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn picture_takes_no_longer_than_it_may() {
        let began = Instant::now();
        let time = Time { began, deadline: began + Duration::from_millis(100) };
        let late = time.allows(std::future::pending::<Result<(), QueryError>>()).await.unwrap_err();
        assert!(matches!(late, QueryError::DeadlineExceeded { waited } if waited.as_millis() == 100));
        assert!(time.began.elapsed() < Duration::from_millis(200));
    }
}
