//! The promises in the module's doc, over random arrivals, ends and departures, against a model that counts anew.

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::fair_queue::DEBT_LIMIT_QUANTA;
use super::*;

const TEAMS: [&str; 3] = ["blue", "green", "pink"];

fn plan(teams: u8, rows: u64) -> Plan {
    let touched = (0..TEAMS.len()).filter(|index| teams & (1 << index) != 0);
    touched.map(|index| (TEAMS[index].into(), rows)).collect()
}

fn client(index: usize) -> ClientKey {
    ClientKey::new(format!("address{}", index / 2), format!("id{index}"))
}

#[derive(Clone, Debug)]
enum Step {
    Arrive { client: usize, teams: u8, rows: u64 },
    Finish(usize),
    Leave(usize),
    Charge { client: usize, team: usize, rows: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..5usize, 0..8u8, 0..600_000u64)
            .prop_map(|(client, teams, rows)| Step::Arrive { client, teams, rows }),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => any::<usize>().prop_map(Step::Leave),
        1 => (0..5usize, 0..3usize, any::<i64>())
            .prop_map(|(client, team, rows)| Step::Charge { client, team, rows }),
    ]
}

fn limits() -> impl Strategy<Value = QueryLimits> {
    let fairness = prop_oneof![Just(Fairness::Strict), Just(Fairness::Weighted), Just(Fairness::Hybrid),];
    (1..12usize, 1..8usize, 0..4u32, fairness, vec(1..5u32, 3)).prop_map(
        |(max_active, per_team_limit, max_bypass, fairness, weights)| QueryLimits {
            max_active,
            per_team_limit,
            queue_length: 0,
            max_bypass,
            fairness,
            weights: Weights {
                teams: TEAMS.iter().zip(weights).map(|(t, w)| (t.to_string(), w.into())).collect(),
                clients: BTreeMap::new(),
            },
        },
    )
}

/// What the model knows: which queries wait and which run.
struct Model {
    limits: QueryLimits,
    waiting: BTreeMap<Ticket, (ClientKey, Plan)>,
    running: BTreeMap<Ticket, (ClientKey, Plan)>,
}

impl Model {
    fn used(&self, team: &str) -> usize {
        self.running.values().filter(|(_, plan)| plan.contains_key(team)).count()
    }

    fn wanted(&self, team: &str) -> usize {
        self.waiting.values().filter(|(_, plan)| plan.contains_key(team)).count()
    }

    fn below_share(&self, team: &str) -> bool {
        let weight = |team: &str| self.limits.weights.teams[team];
        let busy = TEAMS.iter().filter(|team| self.used(team) + self.wanted(team) > 0);
        let total: f64 = busy.map(|team| weight(team)).sum();
        (self.used(team) as f64) < self.limits.max_active as f64 * weight(team) / total
    }

    /// Whether a client, or its address, has as many slots as it may have beside others.
    fn has_its_share(&self, client: &ClientKey, plan: &Plan, limits_of_teams: bool) -> bool {
        let mut groups = vec![(None, self.limits.max_active)];
        if limits_of_teams {
            groups.extend(plan.keys().map(|team| (Some(team), self.limits.per_team_limit)));
        }
        groups.into_iter().any(|(team, slots)| {
            let counts = |plan: &Plan| team.is_none_or(|team| plan.contains_key(team));
            let of = |same: &dyn Fn(&ClientKey) -> bool| {
                self.running.values().filter(|(client, plan)| same(client) && counts(plan)).count()
            };
            of(&|other| other.address == client.address) >= slots - slots / 8
                || of(&|other| other == client) >= slots - slots / 4
        })
    }

    /// Moves a query from waiting to running; asserts that it may.
    fn grant(&mut self, ticket: Ticket) {
        let (client, plan) = self.waiting[&ticket].clone();
        assert!(self.running.len() < self.limits.max_active, "over max_active");
        let strict = self.limits.fairness == Fairness::Strict;
        assert!(!self.has_its_share(&client, &plan, strict), "{client:?} leaves too little to others");
        let mut earlier = self.waiting.range(..ticket).map(|(_, earlier)| earlier);
        let equal = |(c, p): &&(ClientKey, Plan)| *c == client && p.keys().eq(plan.keys());
        assert_eq!(earlier.find(equal), None, "first in, first out inside a client");
        for team in plan.keys() {
            if self.used(team) < self.limits.per_team_limit {
                continue;
            }
            let loaded = self.running.len() * 100 >= self.limits.max_active * 80;
            assert_ne!(self.limits.fairness, Fairness::Strict, "over the limit of {team}");
            assert!(
                self.limits.fairness == Fairness::Weighted || !loaded,
                "{team} over its limit under load"
            );
            let mut others = TEAMS.iter().filter(|other| !plan.contains_key(**other));
            let wronged = others.find(|other| self.wanted(other) > 0 && self.below_share(other));
            assert!(self.below_share(team) || wronged.is_none(), "{team} takes what {wronged:?} waits for");
        }
        self.waiting.remove(&ticket);
        self.running.insert(ticket, (client, plan));
    }

    /// Asserts that no query waits whose slots are all free and unreserved.
    fn check_nobody_waits_in_vain(&self, slots: &Slots<()>) {
        for (ticket, (client, plan)) in &self.waiting {
            let before = slots.reservations.iter().take_while(|other| other.ticket != *ticket);
            let before: Vec<_> = before.collect();
            let node_free = self.running.len() + before.len() < self.limits.max_active;
            let team_free = |team: &Arc<str>| {
                let claims = before.iter().filter(|other| other.plan.contains_key(team)).count();
                self.used(team) + claims < self.limits.per_team_limit
            };
            let free = node_free && plan.keys().all(team_free) && !self.has_its_share(client, plan, true);
            assert!(!free, "{ticket:?} waits for free slots");
        }
    }

    fn settle(&mut self, slots: &mut Slots<()>) {
        while let Some((ticket, waiting)) = slots.grant_next() {
            assert_eq!(self.waiting[&ticket].1, waiting.plan);
            self.grant(ticket);
        }
        assert_eq!(slots.active(), self.running.len());
        assert_eq!(slots.queue().len(), self.waiting.len());
        assert!(slots.reservations.len() <= RESERVATION_LIMIT);
        self.check_nobody_waits_in_vain(slots);
    }
}

proptest! {
    // Each case replays hundreds of steps against a model.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn grants_respect_every_limit_and_waste_no_slot(limits in limits(), steps in vec(step(), 0..300)) {
        let mut slots = Slots::new(limits.clone());
        let mut model = Model { limits, waiting: BTreeMap::new(), running: BTreeMap::new() };
        for step in steps {
            match step {
                Step::Arrive { client: index, teams, rows } => {
                    let plan = plan(teams, rows);
                    let ticket = slots.arrive(client(index), plan.clone(), ());
                    model.waiting.insert(ticket, (client(index), plan));
                }
                Step::Finish(index) => {
                    let ticket = model.running.keys().nth(index % model.running.len().max(1)).copied();
                    if let Some((client, plan)) = ticket.and_then(|ticket| model.running.remove(&ticket)) {
                        slots.finish(&client, &plan);
                    }
                }
                Step::Leave(index) => {
                    let ticket = model.waiting.keys().nth(index % model.waiting.len().max(1)).copied();
                    if let Some(ticket) = ticket {
                        prop_assert!(slots.leave(ticket).is_some());
                        prop_assert!(slots.leave(ticket).is_none());
                        model.waiting.remove(&ticket);
                    }
                }
                Step::Charge { client: index, team, rows } => {
                    slots.charge(&client(index), &TEAMS[team].into(), rows);
                }
            }
            model.settle(&mut slots);
        }
        // Liveness: without newcomers everybody gets a turn, and nothing is left behind.
        while let Some((_, (client, plan))) = model.running.pop_first() {
            slots.finish(&client, &plan);
            model.settle(&mut slots);
        }
        prop_assert!(model.waiting.is_empty());
        let held = &slots.held;
        prop_assert!(held.running.is_empty() && held.waiting.is_empty() && slots.reservations.is_empty());
        prop_assert!(held.clients.is_empty());
    }

    /// Goal: the bound in the module's doc. Method: clients ask again as soon as they are served, a query runs for at
    /// most `LONGEST` steps and costs each team a quantum. In a round a team has at most its weight and one more
    /// grants; its turn comes, debts paid, every `DEBT_LIMIT_QUANTA + 1` rounds; and each turn serves one of those who ask.
    #[test]
    fn nobody_starves(
        limits in limits(),
        plans in vec(1..8u8, 2..4),
        durations in vec(1..=LONGEST, 1..50),
    ) {
        let mut slots = Slots::new(limits.clone());
        let mut durations = durations.into_iter().cycle();
        let mut waiting = BTreeMap::new();
        let mut running: Vec<(u64, usize, Plan)> = Vec::new();
        let mut arrivals: Vec<usize> = (0..plans.len()).flat_map(|index| [index; 2]).collect();
        let asking = arrivals.len() as u64;
        let round: u64 = limits.weights.teams.values().map(|weight| *weight as u64 + 1).sum();
        let turns = u64::from(limits.max_bypass) + 1 + DEBT_LIMIT_QUANTA;
        let bound = (turns * round * asking + asking + 1) * LONGEST;
        for now in 0..bound + 500 {
            for index in arrivals.drain(..) {
                let ticket = slots.arrive(client(index), plan(plans[index], QUANTUM_ROWS), ());
                waiting.insert(ticket, (now, index));
            }
            while let Some((ticket, query)) = slots.grant_next() {
                let (_, index) = waiting.remove(&ticket).unwrap();
                running.push((now + durations.next().unwrap(), index, query.plan));
            }
            let longest = waiting.values().map(|(since, _)| now - since).max();
            prop_assert!(longest <= Some(bound), "waits {longest:?} steps, bound {bound}");
            let ended = running.extract_if(.., |(end, ..)| *end <= now + 1);
            for (_, index, plan) in ended {
                slots.finish(&client(index), &plan);
                arrivals.push(index);
            }
        }
    }
}

const LONGEST: u64 = 3;

/// Goal: a query that needs two teams starts although each alone is taken again at once.
/// Method: green and pink are never free together, until a reservation keeps them.
#[test]
fn query_that_needs_two_busy_teams_starts_after_max_bypass() {
    let mut slots = Slots::new(QueryLimits {
        max_active: 10,
        per_team_limit: 1,
        queue_length: 0,
        max_bypass: 3,
        fairness: Fairness::Strict,
        weights: Weights::default(),
    });
    let (green, pink, both) = (plan(2, 1), plan(4, 1), plan(6, 1));
    slots.arrive(client(0), green.clone(), ());
    slots.arrive(client(0), pink.clone(), ());
    while slots.grant_next().is_some() {}
    let ticket = slots.arrive(client(2), both, ());
    assert_eq!(slots.limiting_factor(ticket), Some(LimitingFactor::Team("green".into())));
    for turn in 0.. {
        assert!(turn <= 4, "passed over too often");
        let ending = if turn % 2 == 0 { &green } else { &pink };
        slots.arrive(client(0), ending.clone(), ());
        slots.finish(&client(0), ending);
        let granted: Vec<_> = std::iter::from_fn(|| slots.grant_next()).collect();
        if granted.is_empty() {
            break;
        }
        assert_ne!(granted[0].0, ticket);
    }
    assert_eq!(slots.position(ticket), Some(0));
    // Either team's slot is kept now; the other one ends, and the query has both.
    let ending = if slots.held.running.contains_key("green") { &green } else { &pink };
    slots.finish(&client(0), ending);
    assert_eq!(slots.grant_next().map(|(granted, _)| granted), Some(ticket));
}

/// Goal: a query costs its client its turns in every team that it reads. Method: one slot; the first query of client 0 waits
/// under green, where it reads a row, and reads four turns' worth of pink. Then both clients ask for a turn of pink each
/// time: after the next one of client 0, whose turn it is, client 1 has four.
#[test]
fn query_is_charged_to_each_of_its_teams() {
    let mut slots = Slots::new(QueryLimits {
        max_active: 1,
        per_team_limit: 1,
        queue_length: 0,
        max_bypass: 100,
        fairness: Fairness::Strict,
        weights: Weights::default(),
    });
    let [first, second] = [0, 2].map(client);
    let (pink, both) = (plan(4, QUANTUM_ROWS), [("green".into(), 1), ("pink".into(), 4 * QUANTUM_ROWS)]);
    slots.arrive(first.clone(), both.clone().into(), ());
    for _ in 0..5 {
        slots.arrive(second.clone(), pink.clone(), ());
        slots.arrive(first.clone(), pink.clone(), ());
    }
    let mut order = String::new();
    while let Some((_, granted)) = slots.grant_next() {
        order.push(if granted.client == first { '0' } else { '1' });
        slots.finish(&granted.client, &granted.plan);
    }
    assert_eq!(order, "01011110000");
}

#[test]
fn weighted_team_exceeds_its_limit_only_while_the_others_leave_room() {
    let weighted = |fairness| {
        let mut slots = Slots::new(QueryLimits {
            max_active: 10,
            per_team_limit: 3,
            queue_length: 0,
            max_bypass: 100,
            fairness,
            weights: Weights::default(),
        });
        let mut started = Vec::new();
        for (asker, teams) in [2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 4, 4].into_iter().enumerate() {
            // Each at an address of its own, so that none has more than it may.
            slots.arrive(client(2 * asker), plan(teams, 1), ());
            while slots.grant_next().is_some() {}
            started.push(slots.active());
        }
        (slots.held.used(&"green".into()), slots.held.used(&"pink".into()))
    };
    assert_eq!(weighted(Fairness::Strict), (3, 3));
    assert_eq!(weighted(Fairness::Weighted), (9, 1));
    assert_eq!(weighted(Fairness::Hybrid), (8, 2));
}
