//! Granting, refusing and giving back under virtual time; fairness is tested in `fair_queue`.

use super::*;
use std::time::Duration;

fn compute_slots(slots: usize, queue_length: usize) -> ComputeSlots {
    let limits = ComputeLimits {
        slots,
        queue_length,
        quantum_rows: 100,
        order: Order::InTurn,
        what: ["piece of work waiting", "pieces of work waiting"],
        limiting_factor: "compute_slots",
    };
    ComputeSlots::new(limits, Weights::default())
}

/// Pieces that wait.
fn waiting(slots: &ComputeSlots) -> usize {
    slots.shared.lock().queue.len()
}

fn requester(client: &str) -> Requester {
    Requester { team: "green".into(), client: ClientKey::new("10.0.0.1", client), due: Instant::now() }
}

#[tokio::test(start_paused = true)]
async fn slots_are_granted_up_to_the_limit_and_come_back_on_drop() {
    let slots = compute_slots(2, 10);
    let first = slots.acquire(&requester("a"), 100).await.unwrap();
    let second = slots.acquire(&requester("a"), 100).await.unwrap();
    assert_eq!(slots.free_slots(), 0);
    let third = tokio::spawn({
        let slots = slots.clone();
        async move { slots.acquire(&requester("b"), 100).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(waiting(&slots), 1);
    drop(first);
    let third = third.await.unwrap().unwrap();
    assert_eq!((slots.free_slots(), waiting(&slots)), (0, 0));
    drop((second, third));
    assert_eq!(slots.free_slots(), 2);
}

#[tokio::test(start_paused = true)]
async fn full_queue_is_overloaded() {
    let slots = compute_slots(1, 0);
    let running = slots.acquire(&requester("a"), 100).await.unwrap();
    let refused = slots.acquire(&requester("b"), 100).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "queue full: 0 pieces of work waiting, limit 0 (limits.compute_queue_length); retry after 1000 ms"
    );
    drop(running);
    let _again = slots.acquire(&requester("b"), 100).await.unwrap();
}

/// Method: one client fills the queue; another one still gets in, and the last of the long line is refused.
#[tokio::test(start_paused = true)]
async fn flooding_client_does_not_keep_others_out_of_the_queue() {
    let slots = compute_slots(1, 2);
    let running = slots.acquire(&requester("flood"), 100).await.unwrap();
    let (flood, light) = (requester("flood"), requester("light"));
    let mut first = Box::pin(slots.acquire(&flood, 100));
    let mut second = Box::pin(slots.acquire(&flood, 100));
    let mut other = Box::pin(slots.acquire(&light, 100));
    for waiting in [&mut first, &mut second, &mut other] {
        assert!(futures::poll!(waiting).is_pending());
    }
    assert_eq!(second.await.unwrap_err().found, 2);
    // The lines are 1 and 1 long: the next one of the flood would not be shorter.
    assert_eq!(slots.acquire(&flood, 100).await.unwrap_err().limiting_factor, "compute_slots");
    drop(running);
    drop(first.await.unwrap());
    let _permit = other.await.unwrap();
}

/// Method: tasks that end, panic or are aborted at any moment; then all slots must be free.
#[tokio::test(start_paused = true)]
async fn every_slot_comes_home_after_panics_and_aborts() {
    let slots = compute_slots(3, 1_000);
    let mut tasks = Vec::new();
    for index in 0..300_u64 {
        let slots = slots.clone();
        tasks.push(tokio::spawn(async move {
            let requester = requester(&format!("client{}", index % 7));
            let _permit = slots.acquire(&requester, index).await.unwrap();
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
    assert_eq!((slots.free_slots(), waiting(&slots)), (3, 0));
}

/// The slot has been granted, the waiter has not seen it yet, and its future goes: the next one gets it.
#[tokio::test(start_paused = true)]
async fn slot_granted_to_a_vanished_waiter_goes_on_to_the_next() {
    let slots = compute_slots(1, 10);
    let first = slots.acquire(&requester("a"), 1).await.unwrap();
    let (vanishing_requester, next_requester) = (requester("b"), requester("c"));
    let mut vanishing = Box::pin(slots.acquire(&vanishing_requester, 1));
    assert!(futures::poll!(&mut vanishing).is_pending());
    let mut next = Box::pin(slots.acquire(&next_requester, 1));
    assert!(futures::poll!(&mut next).is_pending());
    drop(first);
    assert_eq!((slots.free_slots(), waiting(&slots)), (0, 1));
    drop(vanishing);
    assert_eq!((slots.free_slots(), waiting(&slots)), (0, 0));
    let _permit = next.await.unwrap();
}
