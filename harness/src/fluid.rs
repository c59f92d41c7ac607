//! A server that divides itself: what perfectly fair sharing would give, to compare real schedulers with.
//!
//! Every moment its rows go to the teams that have work, by weight, and inside a team to the clients that have work, by
//! weight (generalised processor sharing). It knows no queries, no pieces and no turns, so nothing real can follow it
//! exactly; how far something may be behind or ahead is what a scheduler's bound says.
//!
//! It shares no code with the node. Rows and seconds are floats: a comparison needs a hair of tolerance.
//!
//! Source: A. Parekh, R. Gallager, A Generalized Processor Sharing Approach to Flow Control, 1993.

use std::collections::BTreeMap;

/// Rows that are as good as none: what rounding leaves of a backlog.
const NOTHING: f64 = 1e-6;

/// See the module.
#[derive(Clone, Debug)]
pub struct Fluid {
    rows_per_ms: f64,
    teams: BTreeMap<String, Team>,
    team_weights: BTreeMap<String, f64>,
    client_weights: BTreeMap<String, f64>,
}

#[derive(Clone, Debug, Default)]
struct Team {
    clients: BTreeMap<String, Account>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    backlog: f64,
    served: f64,
}

impl Fluid {
    /// A server without work that serves `rows_per_ms`; who has no weight has weight 1.
    pub fn new(
        rows_per_ms: f64,
        team_weights: BTreeMap<String, f64>,
        client_weights: BTreeMap<String, f64>,
    ) -> Self {
        Fluid { rows_per_ms, teams: BTreeMap::new(), team_weights, client_weights }
    }

    /// A client brings rows of a team.
    pub fn arrive(&mut self, team: &str, client: &str, rows: f64) {
        let team = self.teams.entry(team.to_owned()).or_default();
        team.clients.entry(client.to_owned()).or_default().backlog += rows;
    }

    /// Serves for so many milliseconds.
    pub fn advance(&mut self, ms: f64) {
        let mut left = ms;
        while left > 0.0 {
            let rates = self.rates();
            // Rates stay as they are until the first backlog is gone.
            let lasts = rates.iter().map(|((team, client), rate)| self.account(team, client).backlog / rate);
            let step = lasts.fold(left, f64::min);
            for ((team, client), rate) in &rates {
                let account = self.account_mut(team, client);
                account.served += rate * step;
                account.backlog -= rate * step;
                if account.backlog < NOTHING {
                    account.backlog = 0.0;
                }
            }
            if rates.is_empty() {
                return;
            }
            left -= step;
        }
    }

    /// Rows that a client has had of all teams.
    pub fn served(&self, client: &str) -> f64 {
        self.teams.values().filter_map(|team| team.clients.get(client)).map(|account| account.served).sum()
    }

    /// Rows that a team's clients have had together.
    pub fn served_of_team(&self, team: &str) -> f64 {
        let clients = self.teams.get(team).into_iter().flat_map(|team| team.clients.values());
        clients.map(|account| account.served).sum()
    }

    /// What each client with work gets of each team, in rows a millisecond.
    fn rates(&self) -> BTreeMap<(String, String), f64> {
        let weight = |weights: &BTreeMap<String, f64>, name: &str| weights.get(name).copied().unwrap_or(1.0);
        let busy = |team: &Team| -> Vec<String> {
            let clients = team.clients.iter().filter(|(_, account)| account.backlog > 0.0);
            clients.map(|(client, _)| client.clone()).collect()
        };
        let teams: Vec<(&String, Vec<String>)> = self
            .teams
            .iter()
            .map(|(name, team)| (name, busy(team)))
            .filter(|(_, busy)| !busy.is_empty())
            .collect();
        let team_total: f64 = teams.iter().map(|(name, _)| weight(&self.team_weights, name)).sum();
        let mut rates = BTreeMap::new();
        for (name, clients) in &teams {
            let of_team = self.rows_per_ms * weight(&self.team_weights, name) / team_total;
            let total: f64 = clients.iter().map(|client| weight(&self.client_weights, client)).sum();
            for client in clients {
                let rate = of_team * weight(&self.client_weights, client) / total;
                rates.insert(((*name).clone(), client.clone()), rate);
            }
        }
        rates
    }

    fn account(&self, team: &str, client: &str) -> Account {
        self.teams[team].clients[client]
    }

    fn account_mut(&mut self, team: &str, client: &str) -> &mut Account {
        let clients = self.teams.get_mut(team).map(|team| &mut team.clients);
        clients.and_then(|clients| clients.get_mut(client)).expect("whoever has a rate has an account")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(weights: &[(&str, f64)]) -> BTreeMap<String, f64> {
        weights.iter().map(|(name, weight)| (name.to_string(), *weight)).collect()
    }

    /// By hand: 10 rows a millisecond. First green alone, a and b equally; then pink takes three quarters; then b has
    /// had its 40 rows and a gets all of green's quarter.
    #[test]
    fn rows_are_divided_by_weight_among_those_who_have_work() {
        let mut fluid = Fluid::new(10.0, weights(&[("pink", 3.0)]), weights(&[]));
        fluid.arrive("green", "a", 1000.0);
        fluid.arrive("green", "b", 40.0);
        fluid.advance(4.0);
        assert_eq!((fluid.served("a"), fluid.served("b")), (20.0, 20.0));
        fluid.arrive("pink", "c", 1000.0);
        fluid.advance(16.0);
        assert_eq!([fluid.served("a"), fluid.served("b"), fluid.served("c")], [40.0, 40.0, 120.0]);
        fluid.advance(8.0);
        assert_eq!([fluid.served("a"), fluid.served("b"), fluid.served("c")], [60.0, 40.0, 180.0]);
        assert_eq!((fluid.served_of_team("green"), fluid.served_of_team("pink")), (100.0, 180.0));
    }

    #[test]
    fn client_of_twice_the_weight_gets_twice_the_rows_and_an_idle_server_waits() {
        let mut fluid = Fluid::new(3.0, weights(&[]), weights(&[("heavy", 2.0)]));
        fluid.arrive("green", "heavy", 20.0);
        fluid.arrive("green", "light", 4.0);
        fluid.advance(3.0);
        assert_eq!((fluid.served("heavy"), fluid.served("light")), (6.0, 3.0));
        fluid.advance(100.0);
        assert!((fluid.served("heavy") - 20.0).abs() < 1e-9 && (fluid.served("light") - 4.0).abs() < 1e-9);
    }
}
