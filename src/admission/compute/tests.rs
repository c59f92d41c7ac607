//! Granting, refusing and giving back under virtual time; fairness is tested in `fair_queue`.

use super::*;
use std::time::Duration;

fn requester(client: &str) -> Requester {
    Requester { team: "green".into(), client: ClientKey::new("10.0.0.1", client) }
}

#[tokio::test(start_paused = true)]
async fn slots_are_granted_up_to_the_limit_and_come_back_on_drop() {
    let slots = ComputeSlots::new(2, 100, 10, Weights::default());
    let first = slots.acquire(&requester("a"), 100).await.unwrap();
    let second = slots.acquire(&requester("a"), 100).await.unwrap();
    assert_eq!(slots.free_slots(), 0);
    let third = tokio::spawn({
        let slots = slots.clone();
        async move { slots.acquire(&requester("b"), 100).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(slots.waiting(), 1);
    drop(first);
    let third = third.await.unwrap().unwrap();
    assert_eq!((slots.free_slots(), slots.waiting()), (0, 0));
    drop((second, third));
    assert_eq!(slots.free_slots(), 2);
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_overloaded() {
    let slots = ComputeSlots::new(1, 100, 0, Weights::default());
    let running = slots.acquire(&requester("a"), 100).await.unwrap();
    let refused = slots.acquire(&requester("b"), 100).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "queue full: 0 pieces of work waiting, limit 0 (limits.compute_queue_length); retry after 1000 ms"
    );
    drop(running);
    let _again = slots.acquire(&requester("b"), 100).await.unwrap();
}

/// Goal: a client whose pieces are heavier than estimated gets no more rows than another one.
/// Method: two clients keep their lines full through one slot; one estimates 100 rows and takes 400.
#[tokio::test(start_paused = true)]
async fn measured_rows_are_shared_not_estimates() {
    let slots = ComputeSlots::new(1, 100, 1_000, Weights::default());
    let blocker = slots.acquire(&requester("c"), 1).await.unwrap();
    let (sender, mut done) = tokio::sync::mpsc::unbounded_channel();
    for _ in 0..200 {
        for (client, rows) in [("honest", 100), ("heavy", 400)] {
            let (slots, sender) = (slots.clone(), sender.clone());
            tokio::spawn(async move {
                let mut permit = slots.acquire(&requester(client), 100).await.unwrap();
                permit.measured(rows);
                tokio::time::sleep(Duration::from_millis(rows)).await;
                sender.send((client, rows)).unwrap();
            });
        }
    }
    tokio::task::yield_now().await;
    drop(blocker);
    let mut rows = BTreeMap::from([("honest", 0), ("heavy", 0)]);
    for _ in 0..200 {
        let (client, taken) = done.recv().await.unwrap();
        *rows.get_mut(client).unwrap() += taken;
    }
    // One turn, plus the largest piece of each of the two.
    assert!(rows["honest"].abs_diff(rows["heavy"]) <= 100 + 400 + 400, "{rows:?}");
}

/// Method: tasks that end, panic or are aborted at any moment; then all slots must be free.
#[tokio::test(start_paused = true)]
async fn every_slot_comes_home_after_panics_and_aborts() {
    let slots = ComputeSlots::new(3, 100, 1_000, Weights::default());
    let mut tasks = Vec::new();
    for index in 0..300_u64 {
        let slots = slots.clone();
        tasks.push(tokio::spawn(async move {
            let requester = requester(&format!("client{}", index % 7));
            let mut permit = slots.acquire(&requester, index).await.unwrap();
            permit.measured(index * 3 % 100);
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
    assert_eq!((slots.free_slots(), slots.waiting()), (3, 0));
}

/// The slot has been granted, the waiter has not seen it yet, and its future goes: the next one gets it.
#[tokio::test(start_paused = true)]
async fn slot_granted_to_a_vanished_waiter_goes_on_to_the_next() {
    let slots = ComputeSlots::new(1, 100, 10, Weights::default());
    let first = slots.acquire(&requester("a"), 1).await.unwrap();
    let (vanishing_requester, next_requester) = (requester("b"), requester("c"));
    let mut vanishing = Box::pin(slots.acquire(&vanishing_requester, 1));
    assert!(futures::poll!(&mut vanishing).is_pending());
    let mut next = Box::pin(slots.acquire(&next_requester, 1));
    assert!(futures::poll!(&mut next).is_pending());
    drop(first);
    assert_eq!((slots.free_slots(), slots.waiting()), (0, 1));
    drop(vanishing);
    assert_eq!((slots.free_slots(), slots.waiting()), (0, 0));
    let _permit = next.await.unwrap();
}
