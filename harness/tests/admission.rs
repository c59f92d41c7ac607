//! Admission from outside, in virtual time: limits, idle slots, order, starvation, fairness, and that all slots come home.
//!
//! The node's own tests try the pure parts step by step. Here whole queries and pieces run as tasks that end, panic,
//! vanish and are cancelled, and only what users of the module see is used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use std::time::Duration;

use overlay::admission::{
    AdmissionError, ClientKey, ComputeLimits, ComputePermit, ComputeSlots, Order, QueryAdmission, QueryCost,
    QueryLimits, QueryStatus, Requester, Weights,
};
use overlay::config::Fairness;
use overlay_harness::fluid::Fluid;
use overlay_harness::for_all::for_all;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tokio::time::Instant;

const TEAMS: [&str; 3] = ["blue", "green", "pink"];

fn virtual_time<T>(run: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(run)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How a query comes to its end, if it is not refused.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Ends,
    Panics,
    /// Its task is aborted so long after it came, as when a client goes away.
    Vanishes(u64),
}

#[derive(Clone, Debug)]
struct QuerySpec {
    /// After the one before.
    after_ms: u64,
    client: usize,
    /// A bit for each team.
    teams: u8,
    rows: u64,
    runs_ms: u64,
    fate: Fate,
}

fn query_spec() -> impl Strategy<Value = QuerySpec> {
    let even = |most: u64| (0..=most / 2).prop_map(|half| half * 2);
    let fate = prop_oneof![
        5 => Just(Fate::Ends),
        1 => Just(Fate::Panics),
        1 => even(60).prop_map(Fate::Vanishes),
    ];
    (even(8), 0..5usize, 0..8u8, 1..600_000u64, even(40), fate).prop_map(
        |(after_ms, client, teams, rows, runs_ms, fate)| QuerySpec {
            after_ms,
            client,
            teams,
            rows,
            runs_ms: runs_ms + 2,
            fate,
        },
    )
}

fn limits() -> impl Strategy<Value = QueryLimits> {
    let bypass = select(vec![0, 1, 3, u32::MAX]);
    let fairness = select(Fairness::ALL);
    (1..8usize, 1..6usize, 0..20usize, bypass, fairness, vec(1..5u32, 3)).prop_map(
        |(max_active, per_team_limit, queue_length, max_bypass, fairness, weights)| QueryLimits {
            max_active,
            per_team_limit,
            queue_length,
            max_bypass,
            fairness,
            weights: Weights {
                teams: TEAMS
                    .iter()
                    .zip(weights)
                    .map(|(team, weight)| (team.to_string(), weight.into()))
                    .collect(),
                clients: BTreeMap::new(),
            },
        },
    )
}

impl QuerySpec {
    fn teams(&self) -> Vec<&'static str> {
        (0..TEAMS.len()).filter(|index| self.teams & (1 << index) != 0).map(|index| TEAMS[index]).collect()
    }

    fn client(&self) -> ClientKey {
        ClientKey::new(format!("address{}", self.client / 2), format!("id{}", self.client))
    }

    fn cost(&self, index: usize) -> QueryCost {
        let teams = self.teams().into_iter().map(|team| (Arc::from(team), self.rows)).collect();
        QueryCost { client: self.client(), request_id: Some(index.to_string()), teams }
    }
}

/// Who waits and who runs, by index, as the tasks tell it.
#[derive(Default)]
struct Seen {
    waiting: BTreeMap<usize, QuerySpec>,
    running: BTreeMap<usize, QuerySpec>,
    /// What must not have happened.
    faults: Vec<String>,
}

impl Seen {
    fn used(&self, team: &str) -> usize {
        self.running.values().filter(|query| query.teams().contains(&team)).count()
    }

    /// Whether the query's client, or its address, has all slots of the node or of one of its teams but a quarter, or an eighth.
    fn leaves_just_enough(&self, query: &QuerySpec, limits: &QueryLimits) -> bool {
        let teams = query.teams().into_iter().map(|team| (Some(team), limits.per_team_limit));
        teams.chain([(None, limits.max_active)]).any(|(team, slots)| {
            let touches = |other: &&QuerySpec| team.is_none_or(|team| other.teams().contains(&team));
            let has = |same: &dyn Fn(&QuerySpec) -> bool| {
                self.running.values().filter(touches).filter(|other| same(other)).count()
            };
            has(&|other| other.client / 2 == query.client / 2) >= slots - slots / 8
                || has(&|other| other.client == query.client) >= slots - slots / 4
        })
    }

    fn start(&mut self, index: usize) {
        let Some(query) = self.waiting.remove(&index) else { return };
        let same = |other: &QuerySpec| (other.client, other.teams) == (query.client, query.teams);
        if let Some((earlier, _)) = self.waiting.range(..index).find(|(_, other)| same(other)) {
            self.faults.push(format!("query {index} overtook query {earlier} of its client"));
        }
        self.running.insert(index, query);
    }
}

/// Waits or runs until it is dropped, however that comes about.
struct Seat {
    index: usize,
    seen: Arc<Mutex<Seen>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut seen = lock(&self.seen);
        seen.waiting.remove(&self.index);
        seen.running.remove(&self.index);
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Ends at an even millisecond, if nobody ends it; all else happens at odd ones, so that what is looked at has settled.
async fn query(admission: QueryAdmission, spec: QuerySpec, seat: Seat, began: Instant) {
    // Permits are dropped after the seat: a slot that is free for others must not count as used.
    let admitted = admission.admit(spec.cost(seat.index)).await;
    let Ok(mut permit) = admitted else {
        return;
    };
    lock(&seat.seen).start(seat.index);
    permit.measured(spec.teams().into_iter().map(|team| (Arc::from(team), spec.rows / 2)).collect());
    let runs_until = began.elapsed().as_millis() as u64 + spec.runs_ms;
    tokio::time::sleep_until(began + ms(runs_until.next_multiple_of(2))).await;
    drop(seat);
    if matches!(spec.fate, Fate::Panics) {
        // Unwinds like a panic, without a message on stderr.
        std::panic::resume_unwind(Box::new("panicking query"));
    }
}

/// Limits are kept, what a waiting query waits for is true, and no slot is free in vain.
fn check(admission: &QueryAdmission, limits: &QueryLimits, seen: &Seen) -> Result<(), TestCaseError> {
    prop_assert_eq!(&seen.faults, &Vec::<String>::new());
    prop_assert_eq!((admission.active(), admission.waiting()), (seen.running.len(), seen.waiting.len()));
    prop_assert!(seen.running.len() <= limits.max_active, "over max_active");
    prop_assert!(seen.waiting.len() <= limits.queue_length, "over queue_length");
    for team in TEAMS {
        let within = seen.used(team) <= limits.per_team_limit;
        let may_exceed = matches!(limits.fairness, Fairness::Weighted | Fairness::Hybrid);
        prop_assert!(within || may_exceed, "over the limit of {}", team);
    }
    for (index, query) in &seen.waiting {
        let status = admission.status(&index.to_string(), &query.client());
        let QueryStatus::Waiting { limiting_factor, position, .. } = status else {
            return Err(TestCaseError::fail(format!("query {index} waits, its status is {status:?}")));
        };
        prop_assert!(position < seen.waiting.len());
        let factor_holds = match limiting_factor.as_str() {
            "max_active" => seen.running.len() == limits.max_active,
            "client" => seen.leaves_just_enough(query, limits),
            // Without the right to reserve there are no reservations: then a free slot is taken.
            "reserved" => limits.max_bypass < u32::MAX,
            team => {
                let team = team.strip_prefix("team ").unwrap_or_default();
                query.teams().contains(&team) && seen.used(team) >= limits.per_team_limit
            }
        };
        prop_assert!(factor_holds, "query {} does not wait for {:?}", index, limiting_factor);
    }
    Ok(())
}

/// Method: any arrivals, costs, teams and ends under any limits and strategy. At every odd millisecond: never over
/// `max_active`, over a team's limit under strict, or over `queue_length`; whoever waits says for what, and it is so
/// (a query whose slots are all free waits for a reservation, or not at all); a query overtakes none of its client's with
/// the same teams. At the end all slots are free, whether queries ended, panicked or vanished.
#[test]
fn admission_keeps_its_limits_wastes_no_slot_and_gets_every_permit_back() {
    for_all(120, (limits(), vec(query_spec(), 1..60)), |(limits, specs)| {
        virtual_time(async {
            let admission = QueryAdmission::new(limits.clone());
            let seen = Arc::new(Mutex::new(Seen::default()));
            let (mut tasks, mut ends) = (Vec::new(), Vec::new());
            let began = Instant::now();
            let mut now = began;
            for (index, spec) in specs.into_iter().enumerate() {
                let next = now + ms(spec.after_ms);
                while now < next {
                    tick(&mut now, &mut ends, &tasks).await;
                    check(&admission, &limits, &lock(&seen))?;
                }
                let seat = Seat { index, seen: seen.clone() };
                lock(&seen).waiting.insert(index, spec.clone());
                if let Fate::Vanishes(after) = spec.fate {
                    ends.push((now + ms(after), index));
                }
                tasks.push(tokio::spawn(query(admission.clone(), spec, seat, began)));
                // In the order of their numbers.
                tokio::task::yield_now().await;
            }
            while tasks.iter().any(|task| !task.is_finished()) {
                tick(&mut now, &mut ends, &tasks).await;
                check(&admission, &limits, &lock(&seen))?;
            }
            admission.idle().await;
            prop_assert_eq!((admission.active(), admission.waiting()), (0, 0));
            let mut all = Vec::new();
            for index in 0..limits.max_active {
                let cost = QueryCost {
                    client: ClientKey::new(format!("again{index}"), ""),
                    request_id: None,
                    teams: BTreeMap::new(),
                };
                let permit = tokio::time::timeout(ms(1), admission.admit(cost)).await;
                prop_assert!(permit.is_ok(), "slot {} did not come home", index);
                all.push(permit);
            }
            Ok(())
        })
    });
}

/// Lets vanish whoever is to, and goes on to the next odd millisecond.
async fn tick(now: &mut Instant, ends: &mut Vec<(Instant, usize)>, tasks: &[tokio::task::JoinHandle<()>]) {
    for (_, index) in ends.extract_if(.., |(at, _)| *at <= *now) {
        tasks[index].abort();
    }
    tokio::time::sleep_until(*now + ms(1)).await;
    *now += ms(2);
}

/// Goal: a refusal is of the queue's length, and has an end. Method: fill slots and queue; the next one is refused with the
/// limit. One place later another one is refused for its sake, and it is not, when it comes back as it was told to.
#[test]
fn query_is_refused_only_by_a_full_queue() {
    for_all(60, (1..6usize, 0..6usize), |(max_active, queue_length)| {
        virtual_time(async {
            let limits = QueryLimits {
                max_active,
                per_team_limit: 100,
                queue_length,
                max_bypass: 16,
                fairness: Fairness::Strict,
                weights: Weights::default(),
            };
            let admission = QueryAdmission::new(limits);
            let mut clients = 0..;
            let by = |client: String| QueryCost {
                client: ClientKey::new(client, ""),
                request_id: None,
                teams: BTreeMap::new(),
            };
            // Each of another address, so that none is kept waiting by its own queries.
            let mut cost = || by(format!("{:?}", clients.next()));
            let mut running = Vec::new();
            for _ in 0..max_active {
                running.push(admission.admit(cost()).await.unwrap());
            }
            let mut waiting = Vec::new();
            for _ in 0..queue_length {
                let mut admitted = Box::pin(admission.admit(cost()));
                prop_assert!(futures::poll!(&mut admitted).is_pending());
                waiting.push(admitted);
            }
            // Polled, not awaited: a query that is not refused would wait for ever.
            let overloaded = async |cost| match futures::poll!(Box::pin(admission.admit(cost))) {
                Poll::Ready(Err(AdmissionError::Overloaded(overloaded))) => Some(overloaded),
                _ => None,
            };
            let refused = overloaded(by("refused".to_owned())).await;
            prop_assert_eq!(refused.as_ref().map(|refused| refused.found), Some(queue_length as u64));
            running.pop();
            if queue_length > 0 {
                let other = overloaded(cost()).await;
                prop_assert_eq!(other.map(|refused| refused.found), Some(queue_length as u64 - 1));
            }
            tokio::time::sleep(refused.map(|refused| refused.retry_after).unwrap_or_default()).await;
            let mut back = Box::pin(admission.admit(by("refused".to_owned())));
            prop_assert_eq!(futures::poll!(&mut back).is_pending(), queue_length > 0, "one place is free");
            Ok(())
        })
    });
}

/// The largest cost of a piece, in rows; a slot reads one in two milliseconds.
const LARGEST: u64 = 200;
const ROWS_PER_MS: f64 = 0.5;

/// Clients of teams that share compute slots, by weight.
#[derive(Clone, Debug)]
struct Sharing {
    slots: usize,
    quantum: u64,
    /// Of each team, and of each of its clients.
    teams: Vec<(u64, Vec<u64>)>,
    /// Of the pieces that come, in turn.
    costs: Vec<u64>,
}

fn sharing() -> impl Strategy<Value = Sharing> {
    let team = (1..5u64, vec(1..5u64, 1..4));
    (1..4usize, 50..300u64, vec(team, 1..4), vec(1..=LARGEST, 1..40))
        .prop_map(|(slots, quantum, teams, costs)| Sharing { slots, quantum, teams, costs })
}

fn team_name(team: usize) -> String {
    format!("team{team}")
}

fn client_name(team: usize, client: usize) -> String {
    format!("client{team}.{client}")
}

impl Sharing {
    fn weights(&self) -> Weights {
        let mut weights = Weights::default();
        for (team, (weight, clients)) in self.teams.iter().enumerate() {
            weights.teams.insert(team_name(team), *weight as f64);
            for (client, weight) in clients.iter().enumerate() {
                weights.clients.insert(client_name(team, client), *weight as f64);
            }
        }
        weights
    }

    fn slots(&self) -> ComputeSlots {
        let limits = ComputeLimits {
            slots: self.slots,
            queue_length: 10_000,
            quantum_rows: self.quantum,
            order: Order::InTurn,
            what: ["piece of work waiting", "pieces of work waiting"],
            limiting_factor: "compute_slots",
        };
        ComputeSlots::new(limits, self.weights())
    }

    fn requester(team: usize, client: usize) -> Requester {
        let name = client_name(team, client);
        Requester { team: team_name(team).into(), client: ClientKey::new(name, ""), due: Instant::now() }
    }
}

/// Rows whose reading has begun, by team and client.
type Begun = Arc<Mutex<BTreeMap<(usize, usize), u64>>>;

/// Keeps every client's line full: in each of its tasks pieces follow one another. There are two tasks more than slots: one
/// whose piece has just ended asks for the next only after the slot was given away, and another must wait at that moment.
fn keep_all_waiting(sharing: &Sharing, slots: &ComputeSlots) -> (tokio::task::JoinSet<()>, Begun) {
    let begun = Begun::default();
    let costs = Arc::new(Mutex::new(sharing.costs.clone().into_iter().cycle()));
    let mut tasks = tokio::task::JoinSet::new();
    for (team, (_, clients)) in sharing.teams.iter().enumerate() {
        for (client, _) in clients.iter().enumerate() {
            for _ in 0..sharing.slots + 2 {
                let (slots, costs, begun) = (slots.clone(), costs.clone(), begun.clone());
                tasks.spawn(async move {
                    loop {
                        let rows = costs.lock().unwrap().next().unwrap_or(1);
                        let permit = slots.acquire(&Sharing::requester(team, client), rows).await;
                        *begun.lock().unwrap().entry((team, client)).or_default() += rows;
                        tokio::time::sleep(ms(rows * 2)).await;
                        drop(permit);
                    }
                });
            }
        }
    }
    (tasks, begun)
}

/// Occupies every slot until it is dropped, so that all who share them wait before the first one is served.
async fn occupy(slots: &ComputeSlots) -> Vec<ComputePermit> {
    let mut permits = Vec::new();
    for _ in 0..slots.free_slots() {
        let nobody =
            Requester { team: "nobody".into(), client: ClientKey::new("nobody", ""), due: Instant::now() };
        permits.push(slots.acquire(&nobody, 1).await.unwrap());
    }
    permits
}

/// Goal: among clients that wait all the time, nobody is further from perfect sharing than deficit round robin allows.
///
/// With quantum Q, largest cost L, weights w and weight sum W, two siblings differ in rows over weight by at most
/// Q + L/w1 + L/w2. So one of them is at most Q + L/w + L/w_min from the mean of all, which the fluid server gives each. The
/// fluid server has read what the slots have read, of which up to L in each slot is begun and not yet read: slots L/W more for a
/// team. A client is as far from its share of the team, and the team's own distance, times its weight, comes on top.
#[test]
fn backlogged_clients_stay_within_the_deficit_round_robin_bound_of_the_fluid_reference() {
    for_all(60, sharing(), |sharing| {
        virtual_time(async {
            let slots = sharing.slots();
            let occupied = occupy(&slots).await;
            let (_tasks, begun) = keep_all_waiting(&sharing, &slots);
            tokio::time::sleep(ms(2)).await;
            let Weights { teams, clients } = sharing.weights();
            let mut fluid = Fluid::new(sharing.slots as f64 * ROWS_PER_MS, teams, clients);
            for (team, (_, clients)) in sharing.teams.iter().enumerate() {
                for client in 0..clients.len() {
                    fluid.arrive(&team_name(team), &client_name(team, client), 1e12);
                }
            }
            drop(occupied);
            tokio::time::sleep(ms(1)).await;
            fluid.advance(1.0);
            for _ in 0..400 {
                tokio::time::sleep(ms(24)).await;
                fluid.advance(24.0);
                check_shares(&sharing, &begun.lock().unwrap(), &fluid)?;
            }
            Ok(())
        })
    });
}

/// Q + L/w + L/w_min, in rows over weight.
fn sibling_bound(quantum: u64, weight: u64, weights: impl Iterator<Item = u64>) -> f64 {
    let lightest = weights.min().unwrap_or(1) as f64;
    quantum as f64 + LARGEST as f64 / weight as f64 + LARGEST as f64 / lightest
}

fn check_shares(
    sharing: &Sharing,
    begun: &BTreeMap<(usize, usize), u64>,
    fluid: &Fluid,
) -> Result<(), TestCaseError> {
    let total: u64 = sharing.teams.iter().map(|(weight, _)| weight).sum();
    let under_way = sharing.slots as f64 * LARGEST as f64 / total as f64;
    for (team, (team_weight, clients)) in sharing.teams.iter().enumerate() {
        let rows: u64 = begun.range((team, 0)..(team + 1, 0)).map(|(_, rows)| rows).sum();
        let fair = fluid.served_of_team(&team_name(team));
        let weights = sharing.teams.iter().map(|(weight, _)| *weight);
        let team_bound = sibling_bound(sharing.quantum, *team_weight, weights) + under_way;
        let off = (rows as f64 - fair).abs() / *team_weight as f64;
        prop_assert!(off <= team_bound, "team {} is {} off, bound {}", team, off, team_bound);
        let clients_total: u64 = clients.iter().sum();
        for (client, weight) in clients.iter().enumerate() {
            let rows = begun.get(&(team, client)).copied().unwrap_or(0);
            let fair = fluid.served(&client_name(team, client));
            let bound = sibling_bound(sharing.quantum, *weight, clients.iter().copied())
                + team_bound * *team_weight as f64 / clients_total as f64;
            let off = (rows as f64 - fair).abs() / *weight as f64;
            prop_assert!(off <= bound, "client {}.{} is {} off, bound {}", team, client, off, bound);
        }
    }
    Ok(())
}

/// Goal: nobody starves, with the bound in numbers. Method: a client asks for a piece now and then while the lines of all
/// others are full without end.
///
/// With Q, L, w as above, a piece of k rows is served within v = ceil(k / Qw) + 1 visits of its client. Before each of them a
/// sibling takes at most Qw + L rows, so its team reads at most R = v sum(Qw + L) + k rows first. The team has them within
/// ceil(R / Qw) + 1 visits of its own, before each of which another team takes at most Qw + L. These rows together, read by all
/// slots, and then the piece that the next free slot still reads: so long it waits at most.
#[test]
fn nobody_waits_longer_than_its_turns_take() {
    let asking = (any::<prop::sample::Index>(), 1..5u64, 1..=LARGEST, 0..150u64);
    for_all(40, (sharing(), asking), |(mut sharing, (team, weight, rows, pause))| {
        let team = team.index(sharing.teams.len());
        let bound_ms = longest_wait_ms(&sharing, team, weight, rows);
        virtual_time(async {
            let light = sharing.teams[team].1.len();
            sharing.teams[team].1.push(weight);
            let slots = sharing.slots();
            sharing.teams[team].1.pop();
            let (_tasks, _) = keep_all_waiting(&sharing, &slots);
            for _ in 0..20 {
                tokio::time::sleep(ms(pause * 2)).await;
                let asked = Instant::now();
                let permit = slots.acquire(&Sharing::requester(team, light), rows).await.unwrap();
                let waited = asked.elapsed().as_millis() as f64;
                prop_assert!(waited <= bound_ms, "waited {} ms, bound {}", waited, bound_ms);
                tokio::time::sleep(ms(rows * 2)).await;
                drop(permit);
            }
            Ok(())
        })
    });
}

/// See [`nobody_waits_longer_than_its_turns_take`].
fn longest_wait_ms(sharing: &Sharing, team: usize, weight: u64, rows: u64) -> f64 {
    let quantum = sharing.quantum;
    let turn = |weight: &u64| quantum * weight + LARGEST;
    let (team_weight, clients) = &sharing.teams[team];
    let visits = rows.div_ceil(quantum * weight) + 1;
    let of_team = visits * clients.iter().map(turn).sum::<u64>() + rows;
    let team_visits = of_team.div_ceil(quantum * team_weight) + 1;
    let others = sharing.teams.iter().enumerate().filter(|(other, _)| *other != team);
    let of_others: u64 = others.map(|(_, (weight, _))| turn(weight)).sum::<u64>() * team_visits;
    (of_team + of_others) as f64 / (sharing.slots as f64 * ROWS_PER_MS) + LARGEST as f64 / ROWS_PER_MS
}
