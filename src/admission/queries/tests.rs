//! Waiting and draining under virtual time; what is free and who is next is tested in `slots`.

use super::*;
use crate::admission::Weights;
use crate::config::Fairness;

fn limits(max_active: usize, per_team_limit: usize, queue_length: usize) -> QueryLimits {
    QueryLimits {
        max_active,
        per_team_limit,
        queue_length,
        max_bypass: 16,
        fairness: Fairness::Strict,
        weights: Weights::default(),
    }
}

fn query(client: &str, teams: &[&str]) -> QueryCost {
    QueryCost {
        client: ClientKey::new("10.0.0.1", client),
        request_id: Some("request".into()),
        teams: teams.iter().map(|team| (Arc::from(*team), 100)).collect(),
    }
}

fn spawn_admit(
    admission: &QueryAdmission,
    query: QueryCost,
) -> tokio::task::JoinHandle<Result<QueryPermit, AdmissionError>> {
    let admission = admission.clone();
    tokio::spawn(async move { admission.admit(query).await })
}

#[tokio::test(start_paused = true)]
async fn permit_says_how_long_and_why_it_waited() {
    let admission = QueryAdmission::new(limits(10, 1, 10));
    let first = admission.admit(query("a", &["green"])).await.unwrap();
    assert_eq!((first.waited(), first.limiting_factor()), (Duration::ZERO, None));
    let second = spawn_admit(&admission, query("b", &["green", "pink"]));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((admission.active(), admission.waiting()), (1, 1));
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.waited(), Duration::from_secs(3));
    assert_eq!(second.limiting_factor(), Some("team green"));
}

#[tokio::test(start_paused = true)]
async fn query_without_teams_takes_only_a_slot_of_the_node() {
    let admission = QueryAdmission::new(limits(2, 1, 0));
    let first = admission.admit(query("a", &[])).await.unwrap();
    let second = admission.admit(query("a", &[])).await.unwrap();
    assert!(admission.admit(query("a", &[])).await.is_err());
    drop((first, second));
    assert_eq!(admission.active(), 0);
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_overloaded_and_says_when_to_come_back() {
    let admission = QueryAdmission::new(limits(1, 1, 2));
    let mut running = admission.admit(query("a", &["green"])).await.unwrap();
    for _ in 0..5 {
        let next = spawn_admit(&admission, query("a", &["green"]));
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(running);
        running = next.await.unwrap().unwrap();
    }
    let waiting = [(); 2].map(|()| spawn_admit(&admission, query("b", &["green"])));
    tokio::task::yield_now().await;
    let refused = admission.admit(query("b", &["green"])).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "queue full: 2 queries waiting, limit 2 (limits.queue_length); retry after 400 ms"
    );
    assert_eq!(admission.waiting(), 2);
    drop(running);
    for task in waiting {
        drop(task.await.unwrap().unwrap());
    }
    assert_eq!((admission.active(), admission.waiting()), (0, 0));
}

/// Method: one client fills the queue; another one still gets in, and the last of the long line is refused.
#[tokio::test(start_paused = true)]
async fn flooding_client_does_not_keep_others_out_of_the_queue() {
    let admission = QueryAdmission::new(limits(1, 1, 3));
    let running = admission.admit(query("flood", &["green"])).await.unwrap();
    let mut flood = Vec::new();
    for _ in 0..3 {
        flood.push(spawn_admit(&admission, query("flood", &["green"])));
        tokio::task::yield_now().await;
    }
    let light = spawn_admit(&admission, query("light", &["green"]));
    tokio::task::yield_now().await;
    let refused = flood.pop().unwrap().await.unwrap().unwrap_err();
    assert!(matches!(refused, AdmissionError::Overloaded(_)), "{refused}");
    // The lines are 2 and 1 long: the next one of the light client would not be shorter.
    let second = admission.admit(query("light", &["green"])).await.unwrap_err();
    assert!(matches!(second, AdmissionError::Overloaded(_)), "{second}");
    assert_eq!(admission.waiting(), 3);
    // Detached: their permits are dropped as soon as they are granted.
    drop((running, flood));
    drop(light.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn status_follows_a_query_from_the_queue_to_its_end() {
    let admission = QueryAdmission::new(limits(1, 1, 10));
    let client = ClientKey::new("10.0.0.1", "b");
    let first = admission.admit(query("a", &["green"])).await.unwrap();
    assert_eq!(admission.status("request", &client), QueryStatus::Unknown);
    let second = spawn_admit(&admission, query("b", &["green"]));
    tokio::task::yield_now().await;
    let waiting = QueryStatus::Waiting {
        limiting_factor: "max_active".into(),
        position: 0,
        estimated_start: Duration::from_secs(1),
    };
    assert_eq!(admission.status("request", &client), waiting);
    drop(first);
    let second = second.await.unwrap().unwrap();
    assert_eq!(admission.status("request", &client), QueryStatus::Running);
    drop(second);
    assert_eq!(admission.status("request", &client), QueryStatus::Unknown);
}

#[tokio::test(start_paused = true)]
async fn draining_refuses_newcomers_and_waiters_and_lets_running_queries_end() {
    let admission = QueryAdmission::new(limits(1, 1, 10));
    admission.idle().await;
    let running = admission.admit(query("a", &["green"])).await.unwrap();
    let waiting = spawn_admit(&admission, query("b", &["green"]));
    tokio::task::yield_now().await;
    admission.drain();
    assert_eq!(waiting.await.unwrap().unwrap_err(), AdmissionError::Draining);
    let refused = admission.admit(query("c", &["pink"])).await.unwrap_err();
    assert_eq!(refused, AdmissionError::Draining);
    let end = Instant::now() + Duration::from_secs(5);
    tokio::spawn(async move {
        tokio::time::sleep_until(end).await;
        drop(running);
    });
    admission.idle().await;
    assert_eq!(Instant::now(), end);
}

/// Goal: all slots come home, whatever happens to their holders and to those who wait.
/// Method: tasks that end, panic or are aborted at any moment; then the node must be idle.
#[tokio::test(start_paused = true)]
async fn every_permit_comes_home_after_panics_and_aborts() {
    let admission = QueryAdmission::new(limits(4, 2, 1_000));
    let mut tasks = Vec::new();
    for index in 0..400_u64 {
        let teams: &[&str] = [&["green"][..], &["pink"], &["green", "pink"], &[]][index as usize % 4];
        let query = query(&format!("client{}", index % 7), teams);
        let admission = admission.clone();
        tasks.push(tokio::spawn(async move {
            let mut permit = admission.admit(query).await.unwrap();
            permit.measured(BTreeMap::from([("green".into(), index * 10)]));
            tokio::time::sleep(Duration::from_millis(index * 7 % 40)).await;
            if index % 3 == 0 {
                // Unwinds like a panic, without a message on stderr.
                std::panic::resume_unwind(Box::new("panicking task"));
            }
        }));
    }
    for (index, task) in tasks.iter().enumerate().filter(|(index, _)| index % 5 == 0) {
        tokio::time::sleep(Duration::from_millis(index as u64 % 11)).await;
        task.abort();
    }
    for task in tasks {
        let _ = task.await;
    }
    admission.idle().await;
    assert_eq!((admission.active(), admission.waiting()), (0, 0));
    let _all = [(); 2].map(|()| spawn_admit(&admission, query("a", &["green", "pink"])));
    tokio::task::yield_now().await;
    assert_eq!(admission.active(), 2);
}

/// The grant has been sent, the waiter has not seen it yet, and its future goes: the next one gets the slot.
#[tokio::test(start_paused = true)]
async fn slots_granted_to_a_vanished_waiter_go_on_to_the_next() {
    let admission = QueryAdmission::new(limits(1, 1, 10));
    let first = admission.admit(query("a", &["green"])).await.unwrap();
    let mut vanishing = Box::pin(admission.admit(query("b", &["green"])));
    assert!(futures::poll!(&mut vanishing).is_pending());
    let next = spawn_admit(&admission, query("c", &["green"]));
    tokio::task::yield_now().await;
    drop(first);
    assert_eq!((admission.active(), admission.waiting()), (1, 1));
    drop(vanishing);
    assert_eq!((admission.active(), admission.waiting()), (1, 0));
    let _permit = next.await.unwrap().unwrap();
}
