//! The promises in the module's doc, over random arrivals, costs and weights.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const QUANTUM: u64 = 100;
const LARGEST: u64 = 350;

fn team(index: usize) -> Arc<str> {
    format!("team{index}").into()
}

fn client(index: usize) -> ClientKey {
    ClientKey::new(format!("address{index}"), "id")
}

fn weights(teams: &[u64], clients: &[u64]) -> Weights {
    let named = |prefix, weights: &[u64]| {
        let weights = weights.iter().enumerate();
        weights.map(|(index, weight)| (format!("{prefix}{index}"), *weight as f64)).collect()
    };
    Weights { teams: named("team", teams), clients: named("address", clients) }
}

/// An item knows where it stands and what it costs.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    team: usize,
    client: usize,
    cost: u64,
}

fn push(queue: &mut FairQueue<Item>, team_index: usize, client_index: usize, cost: u64) -> Ticket {
    let item = Item { team: team_index, client: client_index, cost };
    queue.push(&team(team_index), &client(client_index), cost, item)
}

#[derive(Clone, Debug)]
enum Step {
    Push(usize, usize, u64),
    Pop,
    Remove(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let push = || (0..3usize, 0..3usize, 1..=LARGEST).prop_map(|(t, c, cost)| Step::Push(t, c, cost));
    let step = prop_oneof![
        6 => push(),
        5 => Just(Step::Pop),
        1 => any::<usize>().prop_map(Step::Remove),
    ];
    // A full queue first, so that there are siblings that wait all the time.
    (vec(push(), 40), vec(step, 0..300)).prop_map(|(mut first, then)| {
        first.extend(then);
        first
    })
}

/// The range of the difference in normalised service of two siblings, since both wait.
#[derive(Clone, Copy, Default)]
struct Difference {
    now: f64,
    least: f64,
    most: f64,
}

impl Difference {
    fn add(&mut self, rows: f64) {
        self.now += rows;
        self.least = self.least.min(self.now);
        self.most = self.most.max(self.now);
    }
}

/// Notes one service for all pairs, forgets pairs of which one does not wait, and checks the others.
fn check_pairs(
    pairs: &mut BTreeMap<(usize, usize), Difference>,
    weights: &[u64],
    waits: impl Fn(usize) -> bool,
    served: Option<(usize, u64)>,
) -> Result<(), TestCaseError> {
    for one in 0..weights.len() {
        for other in 0..one {
            if !waits(one) || !waits(other) {
                pairs.remove(&(one, other));
                continue;
            }
            let (w1, w2) = (weights[one] as f64, weights[other] as f64);
            let difference = pairs.entry((one, other)).or_default();
            if let Some((index, cost)) = served {
                difference.add(match index {
                    _ if index == one => cost as f64 / w1,
                    _ if index == other => -(cost as f64) / w2,
                    _ => 0.0,
                });
            }
            let bound = QUANTUM as f64 + LARGEST as f64 / w1 + LARGEST as f64 / w2;
            let found = difference.most - difference.least;
            prop_assert!(found <= bound + 1e-6, "difference {found} over bound {bound}");
        }
    }
    Ok(())
}

/// The order in which everything that waits is served, found by serving it.
fn replay(queue: &FairQueue<Item>) -> Vec<Ticket> {
    let mut root = queue.root.clone();
    let largest = i128::from(queue.largest_cost);
    std::iter::from_fn(|| root.pop(&mut |_| true, largest, &mut Vec::new())).collect()
}

proptest! {
    // Each case replays hundreds of steps against a model.
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Method: any arrivals and removals; over every stretch in which two siblings wait all the time, teams and
    /// the clients of one team, their rows over weight differ by no more than the bound. Order and
    /// completeness are checked on the way.
    #[test]
    fn backlogged_siblings_stay_within_the_deficit_round_robin_bound(
        steps in steps(),
        team_weights in vec(1..5u64, 3),
        client_weights in vec(1..5u64, 3),
    ) {
        let mut queue = FairQueue::new(QUANTUM, weights(&team_weights, &client_weights));
        let mut model: BTreeMap<Ticket, Item> = BTreeMap::new();
        let mut teams = BTreeMap::new();
        let mut clients: Vec<BTreeMap<(usize, usize), Difference>> = vec![BTreeMap::new(); 3];
        for step in steps {
            let mut served = None;
            match step {
                Step::Push(t, c, cost) => {
                    let ticket = push(&mut queue, t, c, cost);
                    model.insert(ticket, Item { team: t, client: c, cost });
                }
                Step::Remove(index) => {
                    if let Some(ticket) = model.keys().nth(index % model.len().max(1)).copied() {
                        prop_assert_eq!(queue.remove(ticket), model.remove(&ticket));
                        prop_assert_eq!(queue.remove(ticket), None);
                    }
                }
                Step::Pop => {
                    let next = model.keys().find(|ticket| queue.position(**ticket) == Some(0)).copied();
                    let popped = queue.pop_next(|_| true);
                    prop_assert_eq!(popped.as_ref().map(|popped| popped.ticket), next);
                    if let Some(popped) = popped {
                        let item = popped.item;
                        prop_assert_eq!(popped.passed_over, vec![]);
                        prop_assert_eq!(model.remove(&popped.ticket), Some(item));
                        let same = |other: &&Item| (other.team, other.client) == (item.team, item.client);
                        let earlier = model.range(..popped.ticket).map(|(_, other)| other).find(same);
                        prop_assert_eq!(earlier, None, "first in, first out");
                        served = Some(item);
                    }
                }
            }
            prop_assert_eq!(queue.len(), model.len());
            let waits = |t: usize| model.values().any(|item| item.team == t);
            check_pairs(&mut teams, &team_weights, waits, served.map(|item| (item.team, item.cost)))?;
            for (t, pairs) in clients.iter_mut().enumerate() {
                let waits = |c: usize| model.values().any(|item| item.team == t && item.client == c);
                let served = served.filter(|item| item.team == t).map(|item| (item.client, item.cost));
                check_pairs(pairs, &client_weights, waits, served)?;
            }
        }
    }

    /// Method: any arrivals, services, removals and corrections; then the order that is told is the order of serving.
    #[test]
    fn position_is_where_the_item_is_served(
        steps in steps(),
        corrections in vec((0..3usize, 0..3usize, -1_000..1_000i64), 0..8),
        team_weights in vec(1..5u64, 3),
        client_weights in vec(1..5u64, 3),
    ) {
        let mut queue = FairQueue::new(QUANTUM, weights(&team_weights, &client_weights));
        let mut waiting = Vec::new();
        let every = steps.len() / (corrections.len() + 1) + 1;
        let mut corrections = corrections.into_iter();
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(t, c, cost) => waiting.push(push(&mut queue, t, c, cost)),
                Step::Pop => drop(queue.pop_next(|_| true)),
                Step::Remove(index) => drop(waiting.get(index % waiting.len()).map(|one| queue.remove(*one))),
            }
            if index % every == 0 && let Some((t, c, rows)) = corrections.next() {
                queue.charge(&team(t), &client(c), rows);
            }
        }
        let served = replay(&queue);
        let told: Vec<_> = (0..served.len())
            .map(|place| served.iter().find(|one| queue.position(**one) == Some(place)).copied().unwrap())
            .collect();
        prop_assert_eq!(told, served);
    }

    /// Method: a fluid server divides each served row at once by weight among the clients, all of which always wait.
    /// Nobody is ahead of it or behind it by more than the bound, and the measured cost counts.
    #[test]
    fn backlogged_clients_follow_the_fluid_reference(
        client_weights in vec(1..6u64, 2..6),
        costs in vec((1..=LARGEST, 1..=LARGEST), 1..400),
    ) {
        let mut queue = FairQueue::new(QUANTUM, weights(&[], &client_weights));
        let total_weight = client_weights.iter().sum::<u64>() as f64;
        let mut taken = vec![0.0; client_weights.len()];
        let mut total = 0.0;
        for index in 0..client_weights.len() {
            // Two, so that nobody is idle between a service and the next push.
            push(&mut queue, 0, index, LARGEST);
            push(&mut queue, 0, index, LARGEST);
        }
        for (estimated, measured) in costs {
            let item = queue.pop_next(|_| true).unwrap().item;
            // All are estimated as `LARGEST` or less and trued up at once.
            queue.charge(&team(0), &client(item.client), measured as i64 - item.cost as i64);
            push(&mut queue, 0, item.client, estimated);
            taken[item.client] += measured as f64;
            total += measured as f64;
            let fluid = total / total_weight;
            for (index, weight) in client_weights.iter().enumerate() {
                // Thrice the largest cost: the item's own, and what two measured costs were above their estimates,
                // one being paid for and one that will be when the client is next served.
                let bound = QUANTUM as f64 + 3.0 * LARGEST as f64 / *weight as f64 + 3.0 * LARGEST as f64;
                let difference = (taken[index] / *weight as f64 - fluid).abs();
                prop_assert!(difference <= bound, "client {index}: {difference} over bound {bound}");
            }
        }
    }

    /// Method: an item joins a full queue whose other teams are refilled without end. Until it is served, each
    /// of them takes at most its quantum for each visit that the item needs, once more, and what it had saved.
    #[test]
    fn nobody_starves(
        team_weights in vec(1..5u64, 2..5),
        own in vec(1..=LARGEST, 1..6),
        others in vec(1..=LARGEST, 1..40),
        warm_up in 0..30usize,
    ) {
        let mut queue = FairQueue::new(QUANTUM, weights(&team_weights, &[]));
        let mut costs = others.iter().copied().cycle();
        for index in 1..team_weights.len() {
            for _ in 0..2 {
                push(&mut queue, index, 0, costs.next().unwrap());
            }
        }
        let mut serve = |queue: &mut FairQueue<Item>| {
            let popped = queue.pop_next(|_| true).unwrap();
            if popped.item.team > 0 {
                push(queue, popped.item.team, 0, costs.next().unwrap());
            }
            popped
        };
        for _ in 0..warm_up {
            serve(&mut queue);
        }
        let last = own.iter().map(|cost| push(&mut queue, 0, 0, *cost)).last().unwrap();
        let visits = own.iter().sum::<u64>().div_ceil(QUANTUM * team_weights[0]) + 1;
        let mut taken = vec![0; team_weights.len()];
        loop {
            let popped = serve(&mut queue);
            if popped.ticket == last {
                break;
            }
            let index = popped.item.team;
            taken[index] += popped.item.cost;
            let bound = visits * QUANTUM * team_weights[index] + LARGEST;
            prop_assert!(index == 0 || taken[index] <= bound, "team {index}: {} over {bound}", taken[index]);
        }
    }
}

#[test]
fn ids_of_one_address_share_its_weight() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    for round in 0..100 {
        queue.push(&team(0), &ClientKey::new("one", "only"), 50, "one");
        let id = format!("id{}", round % 10);
        queue.push(&team(0), &ClientKey::new("many", id), 50, "many");
    }
    let served = (0..100).map(|_| queue.pop_next(|_| true).unwrap().item);
    assert_eq!(served.filter(|address| *address == "one").count(), 50);
}

#[test]
fn idle_client_keeps_its_debt_but_no_credit() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    for _ in 0..20 {
        push(&mut queue, 0, 1, 100);
    }
    push(&mut queue, 0, 0, 100);
    let served = |queue: &mut FairQueue<Item>| queue.pop_next(|_| true).unwrap().item.client;
    assert_eq!([served(&mut queue), served(&mut queue)], [1, 0]);
    // Client 0 is idle now and took 500 rows more than estimated: five rounds of 100.
    queue.charge(&team(0), &client(0), 500);
    push(&mut queue, 0, 0, 100);
    let order: Vec<_> = (0..7).map(|_| served(&mut queue)).collect();
    assert_eq!(order, [1, 1, 1, 1, 1, 1, 0]);
    // Idle again, it gets 500 rows back: it is served once a round all the same.
    queue.charge(&team(0), &client(0), -500);
    push(&mut queue, 0, 0, 100);
    push(&mut queue, 0, 0, 100);
    let order: Vec<_> = (0..4).map(|_| served(&mut queue)).collect();
    assert_eq!(order, [1, 0, 1, 0]);
}

/// A waiting account that is charged more than it is given each round is served all the same.
#[test]
fn charges_of_others_do_not_put_off_a_turn_for_ever() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    for _ in 0..1_000 {
        push(&mut queue, 1, 0, 100);
    }
    for _ in 0..3 {
        push(&mut queue, 0, 0, 100);
    }
    let mut passed = 0;
    while queue.iter().any(|(_, item)| item.team == 0) {
        queue.pop_next(|_| true).unwrap();
        queue.charge(&team(0), &client(0), 1_000);
        passed += 1;
    }
    assert!(passed <= 3 * (2 + DEBT_LIMIT_QUANTA), "{passed}");
}

#[test]
fn debt_is_bounded_and_ends_when_nobody_waits() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    for _ in 0..1_000 {
        push(&mut queue, 0, 1, 100);
    }
    queue.charge(&team(0), &client(0), i64::MAX);
    let ticket = push(&mut queue, 0, 0, 100);
    assert!(queue.position(ticket).unwrap() <= DEBT_LIMIT_QUANTA as usize + 1);
    while queue.pop_next(|_| true).is_some() {}
    push(&mut queue, 0, 1, 100);
    let ticket = push(&mut queue, 0, 0, 100);
    assert_eq!(queue.position(ticket), Some(1));
}

#[test]
fn skipped_item_keeps_its_turn_and_is_reported() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    let skipped = push(&mut queue, 0, 0, 100);
    for _ in 0..5 {
        push(&mut queue, 1, 0, 100);
    }
    for _ in 0..3 {
        let popped = queue.pop_next(|item| item.team == 1).unwrap();
        assert_eq!(popped.passed_over, [skipped]);
    }
    assert_eq!(queue.pop_next(|_| true).unwrap().ticket, skipped);
    assert_eq!(queue.pop_next(|item| item.team == 0), None);
    assert_eq!(queue.len(), 2);
}

#[test]
fn served_out_of_turn_is_charged_all_the_same() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    let out_of_turn = push(&mut queue, 0, 0, 300);
    let after = [(); 2].map(|()| push(&mut queue, 0, 0, 100));
    for _ in 0..9 {
        push(&mut queue, 1, 0, 100);
    }
    assert_eq!(queue.take(out_of_turn).unwrap().cost, 300);
    assert_eq!(queue.take(out_of_turn), None);
    // Charged with the next service, paid for in three rounds of 100, and a fourth for itself.
    assert_eq!(after.map(|ticket| queue.position(ticket)), [Some(0), Some(5)]);
}

#[tokio::test(start_paused = true)]
async fn of_one_client_what_is_due_first_goes_first() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default());
    let (team, me, now) = (team(0), client(0), Instant::now());
    let at = |seconds| Some(now + std::time::Duration::from_secs(seconds));
    for (name, due) in [("late", at(9)), ("early", at(2)), ("early, behind", at(2)), ("at once", None)] {
        queue.push_due(&team, &me, 10, due, name);
    }
    let order: Vec<_> = std::iter::from_fn(|| queue.pop_next(|_| true)).map(|popped| popped.item).collect();
    assert_eq!(order, ["at once", "early", "early, behind", "late"]);
}

#[test]
fn order_of_arrival_knows_no_clients() {
    let mut queue = FairQueue::new(QUANTUM, Weights::default()).ordered(Order::OfArrival);
    for (number, asker) in [0, 0, 0, 1, 0, 2].into_iter().enumerate() {
        queue.push(&team(asker), &client(asker), 10 * QUANTUM, number);
    }
    let order: Vec<_> = std::iter::from_fn(|| queue.pop_next(|_| true)).map(|popped| popped.item).collect();
    assert_eq!(order, [0, 1, 2, 3, 4, 5]);
}
