//! A comparison of policies to look at.

use crate::report::{BarChart, Page, Table};

use super::figures::{Comparison, Figures};

impl Comparison {
    /// One HTML file with tables and plots. Equal comparisons give equal bytes.
    pub fn page(&self) -> Page {
        let mut page = Page::new(&format!("Policies: workload {}", self.workload));
        page.paragraph(&format!(
            "{} queries read {} rows under each policy, in virtual time. Slowdown is latency over what a query takes \
             alone. Jain's index compares what clients got by the time half of the rows are read with what a server \
             that divides itself gives them: 1 is perfectly fair.",
            self.queries, self.rows
        ));
        page.paragraph(&format!("Computed with {}.", self.origin));
        page.table(&self.table());
        page.bars(&self.bars("Jain's index of service", "", |figures| figures.jain));
        page.bars(
            &self.bars("Latency, 99 of 100 queries", " ms", |figures| figures.all.latency_p99_ms as f64),
        );
        page.bars(&self.bars("Slowdown, half of the queries", "", |figures| figures.all.slowdown_p50));
        page.bars(
            &self.bars("Longest wait for the first row", " ms", |figures| figures.all.longest_wait_ms as f64),
        );
        page.heading("By client");
        for figures in &self.policies {
            let p99 = |(client, of): (&String, &super::figures::QueryFigures)| {
                (client.clone(), of.latency_p99_ms as f64)
            };
            page.bars(&BarChart {
                title: format!("{}: latency, 99 of 100 queries", figures.policy),
                unit: " ms".to_owned(),
                bars: figures.clients.iter().map(p99).collect(),
            });
        }
        page
    }

    fn table(&self) -> Table {
        let head = [
            "policy",
            "answered",
            "refused",
            "p50 ms",
            "p99 ms",
            "slowdown p50",
            "slowdown p99",
            "Jain's index",
            "wait ms",
        ];
        let row = |figures: &Figures| {
            let all = &figures.all;
            vec![
                figures.policy.to_owned(),
                all.answered.to_string(),
                all.refused.to_string(),
                all.latency_p50_ms.to_string(),
                all.latency_p99_ms.to_string(),
                format!("{:.2}", all.slowdown_p50),
                format!("{:.2}", all.slowdown_p99),
                format!("{:.3}", figures.jain),
                all.longest_wait_ms.to_string(),
            ]
        };
        Table { head: head.map(str::to_owned).into(), rows: self.policies.iter().map(row).collect() }
    }

    fn bars(&self, title: &str, unit: &str, of: impl Fn(&Figures) -> f64) -> BarChart {
        let bar = |figures: &Figures| (figures.policy.to_owned(), of(figures));
        BarChart {
            title: title.to_owned(),
            unit: unit.to_owned(),
            bars: self.policies.iter().map(bar).collect(),
        }
    }
}
