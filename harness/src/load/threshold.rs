//! Rules that decide whether a run passes, such as `p99<500ms for GRPC Query` or `error-rate<1%`.
//!
//! The words are goose's; they are judged here, at the end, because goose's percentiles mix failures with
//! successes and know nothing of an open loop. Latencies are those of successes alone, so a node that fails
//! fast does not pass; a rule about what never happened fails.

use std::fmt;
use std::str::FromStr;

use super::Work;
use super::outcome::CALLS;
use super::recorder::{Counts, Tally};

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Threshold {
    rule: String,
    metric: Metric,
    operator: Operator,
    limit: f64,
    of: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Metric {
    Percentile(f64),
    Mean,
    Maximum,
    ErrorRate,
    RequestsPerSecond,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A rule that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{what} (expected METRIC OP VALUE [for NAME], such as `p99<500ms for GRPC Query`, `error-rate<1%`, `rps>=200`)"
)]
pub struct InvalidThreshold {
    what: String,
}

/// A rule about something that a run never does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("threshold `{rule}`: this run has no `{name}` (names: {})", names.join(", "))]
pub struct UnknownName {
    rule: String,
    name: String,
    names: Vec<String>,
}

impl FromStr for Threshold {
    type Err = InvalidThreshold;

    fn from_str(text: &str) -> Result<Self, InvalidThreshold> {
        let invalid = |what: String| InvalidThreshold { what };
        let rule = text.trim();
        let (condition, of) = match rule.split_once(" for ") {
            Some((condition, of)) => (condition, Some(of.trim().to_owned())),
            None => (rule, None),
        };
        let at = condition.find(['<', '>']).ok_or_else(|| invalid("no `<` or `>`".to_owned()))?;
        let (metric, comparison) = condition.split_at(at);
        let (operator, value) = operator(comparison);
        let metric = metric_of(metric.trim()).ok_or_else(|| {
            invalid(format!("unknown metric `{}`: pNN, avg, max, error-rate or rps", metric.trim()))
        })?;
        let limit = metric
            .value(value.trim())
            .ok_or_else(|| invalid(format!("`{}` is no value: {}", value.trim(), metric.expects())))?;
        Ok(Threshold { rule: rule.to_owned(), metric, operator, limit, of })
    }
}

fn operator(comparison: &str) -> (Operator, &str) {
    let operators = [
        ("<=", Operator::LessOrEqual),
        (">=", Operator::GreaterOrEqual),
        ("<", Operator::Less),
        (">", Operator::Greater),
    ];
    let found =
        operators.into_iter().find_map(|(sign, operator)| Some((operator, comparison.strip_prefix(sign)?)));
    found.expect("it starts with one of the signs")
}

fn metric_of(name: &str) -> Option<Metric> {
    Some(match name {
        "avg" => Metric::Mean,
        "max" => Metric::Maximum,
        "error-rate" => Metric::ErrorRate,
        "rps" => Metric::RequestsPerSecond,
        _ => {
            let percent: f64 = name.strip_prefix('p')?.parse().ok()?;
            Metric::Percentile((percent > 0.0 && percent < 100.0).then_some(percent)?)
        }
    })
}

impl Metric {
    /// A limit in milliseconds, percent, or requests per second.
    fn value(self, text: &str) -> Option<f64> {
        let number =
            |text: &str| text.trim().parse::<f64>().ok().filter(|number| (0.0..1e12).contains(number));
        match self {
            Metric::Percentile(_) | Metric::Mean | Metric::Maximum => {
                let units = [("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
                let unit =
                    units.into_iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)));
                let (text, factor) = unit.unwrap_or((text, 1.0));
                Some(number(text)? * factor)
            }
            Metric::ErrorRate => number(text.strip_suffix('%').unwrap_or(text)),
            Metric::RequestsPerSecond => number(text),
        }
    }

    fn expects(self) -> &'static str {
        match self {
            Metric::Percentile(_) | Metric::Mean | Metric::Maximum => "a time takes us, ms or s",
            Metric::ErrorRate => "an error rate is a percentage",
            Metric::RequestsPerSecond => "a rate is a number of requests in a second",
        }
    }

    fn observe(self, counts: &Counts, seconds: f64) -> Option<f64> {
        match self {
            Metric::Percentile(percent) => counts.latencies.percentile_ms(percent),
            Metric::Mean => counts.latencies.mean_ms(),
            Metric::Maximum => counts.latencies.max_ms(),
            Metric::ErrorRate => {
                (counts.total() > 0).then(|| 100.0 * counts.failed as f64 / counts.total() as f64)
            }
            Metric::RequestsPerSecond => (counts.total() > 0).then(|| counts.successful as f64 / seconds),
        }
    }

    fn unit(self) -> &'static str {
        match self {
            Metric::Percentile(_) | Metric::Mean | Metric::Maximum => " ms",
            Metric::ErrorRate => "%",
            Metric::RequestsPerSecond => "/s",
        }
    }
}

/// A rule that was judged.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Judged {
    /// The rule.
    pub rule: String,
    /// What there was.
    pub observed: String,
    /// Whether the rule holds.
    pub passed: bool,
}

impl Threshold {
    /// Whether a run makes what the rule is about: after the run it is too late to say that it does not.
    ///
    /// # Errors
    /// [`UnknownName`] with the names that there are.
    pub fn check_name(&self, work: &Work) -> Result<(), UnknownName> {
        let Some(name) = &self.of else { return Ok(()) };
        let mut names: Vec<String> = work.transactions().into_iter().map(str::to_owned).collect();
        names.extend(CALLS.map(|call| format!("GRPC {call}")));
        match names.contains(name) {
            true => Ok(()),
            false => Err(UnknownName { rule: self.rule.clone(), name: name.clone(), names }),
        }
    }

    pub(super) fn judge(&self, tally: &Tally, seconds: f64) -> Judged {
        let observed = self.counts(tally).and_then(|counts| self.metric.observe(counts, seconds));
        let passed = observed.is_some_and(|observed| match self.operator {
            Operator::Less => observed < self.limit,
            Operator::LessOrEqual => observed <= self.limit,
            Operator::Greater => observed > self.limit,
            Operator::GreaterOrEqual => observed >= self.limit,
        });
        let words = |observed: f64| format!("{observed:.2}{}", self.metric.unit());
        let observed = observed.map_or_else(|| "nothing to judge".to_owned(), words);
        Judged { rule: self.rule.clone(), observed, passed }
    }

    /// Of all transactions, of one by its name, or of an RPC by `GRPC` and its name.
    fn counts<'a>(&self, tally: &'a Tally) -> Option<&'a Counts> {
        match &self.of {
            None => Some(&tally.all),
            Some(name) => match name.strip_prefix("GRPC ") {
                Some(call) => tally.calls.get(call),
                None => tally.transactions.get(name.as_str()),
            },
        }
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rule)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::outcome::{Call, Failure, Outcome, Success};
    use super::super::recorder::Recorder;
    use super::*;

    /// Nineteen right answers of 1 ms to 19 ms and one failure, each of one call.
    fn tally() -> Tally {
        let recorder = Recorder::start();
        for milliseconds in 1..=20 {
            let (took, good) = (Duration::from_millis(milliseconds), milliseconds < 20);
            let result =
                if good { Ok(Success::default()) } else { Err(Failure::Failed("broke off".to_owned())) };
            let call = Call { name: "Query", took, code: tonic::Code::Ok, good };
            let outcome =
                Outcome { transaction: "drain", calls: vec![call], latency: took, bytes: 0, result };
            recorder.record("c", outcome);
        }
        recorder.finish()
    }

    fn judged(rule: &str) -> Judged {
        rule.parse::<Threshold>().expect("a rule").judge(&tally(), 10.0)
    }

    /// Goal: each metric, operator and name. The failure of 20 ms is in the error rate and in no latency.
    #[test]
    fn rules_hold_or_fail_by_what_was_observed() {
        let expected = [
            ("max<20ms", 19.0, true),
            ("max>=0.02s", 19.0, false),
            ("p50<=10.1 for drain", 10.0, true),
            ("p50<9900us for GRPC Query", 10.0, false),
            ("avg>9ms", 10.0, true),
            ("error-rate<=5%", 5.0, true),
            ("error-rate<5", 5.0, false),
            ("rps>=1.9", 1.9, true),
            ("rps>1.9", 1.9, false),
        ];
        for (rule, observed, passed) in expected {
            let judged = judged(rule);
            let digits = judged.observed.trim_end_matches(|end: char| !end.is_ascii_digit());
            let found: f64 = digits.parse().expect("a number");
            assert_eq!(judged.passed, passed, "{judged:?}");
            // Histograms have three digits.
            assert!((found - observed).abs() <= 0.011, "{judged:?}");
        }
    }

    #[test]
    fn rule_about_what_never_happened_fails() {
        for rule in ["p99<1s for aggregate", "error-rate<50% for GRPC GetMetrics"] {
            let Judged { observed, passed, .. } = judged(rule);
            assert_eq!((observed.as_str(), passed), ("nothing to judge", false), "{rule}");
        }
    }
}
