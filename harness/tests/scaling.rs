//! How costs grow, at sizes that take no time: what is counted is asserted, what is timed is not.

use overlay_harness::scaling::nodes::{self, Asked, Size};
use overlay_harness::scaling::rows::{self, Question, Step};

const BINARY: &str = env!("CARGO_BIN_EXE_overlay-node");

/// Both overlays have the same depth; the second has 13 teams, the first three.
fn ten_and_forty_nodes() -> Vec<Size> {
    let report = nodes::Plan { nodes: vec![10, 40], seed: 7 }.run(|_| {}).unwrap();
    assert!(report.holds(), "{report}");
    report.sizes
}

/// Three days of a team lie one on each of its three members: one message to the team leader, and one to each worker. What
/// the leader keeps has 8 bytes more for each chunk more, whatever rows there are.
#[test]
fn messages_grow_with_the_nodes_that_contribute_and_memory_with_days() {
    let sizes = ten_and_forty_nodes();
    let counts = |asked: &Asked| (asked.teams, asked.days, asked.contributing, asked.count_messages);
    let of = |size: &Size| (size.thin.iter().map(counts).collect(), size.dense.iter().map(counts).collect());
    let ten = vec![(1, 3, 3, 3), (3, 9, 9, 9)];
    let forty = vec![(1, 3, 3, 3), (4, 12, 12, 12), (13, 39, 39, 39)];
    assert_eq!(sizes.iter().map(of).collect::<Vec<_>>(), [(ten.clone(), ten), (forty.clone(), forty)]);
    let of_all: Vec<(&Asked, &Asked)> =
        sizes.iter().filter_map(|size| Some((size.thin.last()?, size.dense.last()?))).collect();
    for (thin, dense) in of_all {
        assert!(dense.rows > 5 * thin.rows, "{} rows, then {}", thin.rows, dense.rows);
        let more_chunks = (dense.chunks - thin.chunks) as usize;
        assert_eq!(dense.result_set_bytes - thin.result_set_bytes, 8 * more_chunks);
    }
}

/// The leader alone asks all others how they are: each edge of a tree has one message of it.
#[test]
fn leader_asks_how_all_others_are_with_one_message_for_each() {
    let probes: Vec<u64> = ten_and_forty_nodes().iter().map(|size| size.probe_messages).collect();
    assert_eq!(probes, [9, 39]);
}

/// Two days, eight, and two with more rows: what dates and statistics prune is not scanned, what they cannot is.
#[tokio::test(flavor = "multi_thread")]
async fn rows_scanned_grow_with_all_rows_only_where_nothing_prunes() {
    let plan =
        rows::Plan { binary: BINARY.into(), place: None, sites: 20, most_rows: 4500, steps: 2, rounds: 1 };
    let report = plan.run(|_| {}).await.unwrap();
    let ([two, eight], Some(dense)) = (&report.steps[..], &report.dense) else {
        panic!("two steps: {report}")
    };
    assert_eq!((two.days, eight.days, dense.days), (2, 8, 2), "{report}");
    assert!(dense.rows > 3 * two.rows, "{report}");
    let scanned = |step: &Step, question| step.answers(question).rows_scanned;
    for step in [two, eight, dense] {
        for question in [Question::Scan, Question::FirstOfNone, Question::Mean] {
            assert_eq!(scanned(step, question), step.rows, "{question:?}");
        }
        assert_eq!(scanned(step, Question::Pruned), 0);
    }
    assert_eq!(scanned(two, Question::OneDay), scanned(eight, Question::OneDay));
    assert!(scanned(eight, Question::Drain) < eight.rows, "{report}");
}
