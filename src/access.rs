//! Who may call what: the only place that decides it, for every service of a node.
//!
//! | verbs | with tokens | with certificates | with neither |
//! |---|---|---|---|
//! | health, also over HTTP; the page itself | anybody | anybody | anybody |
//! | client verbs of both contracts and over HTTP, Arrow Flight, metrics, reflection | a token of role client or admin | anybody | anybody |
//! | peer verbs | a token of role peer or admin, or else: | a certificate of a neighbour or of the node itself | from a neighbour's host or this one |
//! | shutdown | a token of role admin | from this host | from this host |
//!
//! With neither, who does not speak gRPC has to call the node by an address, `localhost` or a name of the configuration.
//!
//! Where tokens are on, a client is its token's name, wherever it connects from; else it is its address.

mod guard;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

pub use guard::{Guard, GuardLayer};

use crate::config::{NodeId, Overlay, Process};
use crate::error::shown;
use crate::outside::{Connect, Peer};
use crate::security::{Credential, Security, Tokens};

/// Decides at one node.
pub struct Access {
    node: NodeId,
    tokens: Option<Arc<Tokens>>,
    /// Whose certificates are taken; `None` without TLS.
    certificates: Option<BTreeSet<NodeId>>,
    /// The addresses of this node and of its neighbours.
    peer_hosts: Hosts,
    /// The addresses of this node alone.
    own_host: Hosts,
    /// The hosts of the overlay that are names, in lower case.
    names: BTreeSet<String>,
}

/// Whoever calls, once it may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// The name of its token, or else its address without the port; empty where the network has no addresses.
    pub identity: String,
    /// Why it may not shut the node down; `None` if it may.
    pub not_admin: Option<String>,
}

/// Why a call is not taken. The words name what is needed, never what was shown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nothing was shown that could be good for it.
    #[error("{0}")]
    Unauthenticated(String),
    /// What was shown is not good for it.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// The node was called by a name that is none of its own.
    #[error("{0}")]
    Misdirected(String),
}

/// What a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Client,
    Peer,
}

impl Access {
    /// What `process` demands, as the configuration and its files have it.
    pub fn new(overlay: &Overlay, process: &Process, security: &Security) -> Self {
        let near = || process.neighbours.iter().filter_map(|id| overlay.process(id)).chain([process]);
        let ids = || near().map(|process| process.id.clone()).collect();
        Access {
            node: process.id.clone(),
            tokens: security.tokens().cloned(),
            certificates: security.tls().map(|_| ids()),
            peer_hosts: Hosts::new(near().map(|process| process.host.as_str())),
            own_host: Hosts::new([process.host.as_str()].into_iter()),
            names: overlay.processes.values().map(|process| process.host.to_ascii_lowercase()).collect(),
        }
    }

    /// Decides about a call of `path`, as `/package.Service/Method`, by what the caller shows.
    ///
    /// # Errors
    /// [`Denied`] with what is needed.
    pub fn check(&self, path: &str, authorization: Option<&str>, peer: &Peer) -> Result<Caller, Denied> {
        let address = peer.address.map(|address| address.ip().to_canonical().to_string()).unwrap_or_default();
        let token = self.tokens.as_ref().and_then(|tokens| tokens.find(authorization?));
        match need(path) {
            Need::Nothing => {}
            Need::Client => self.check_client(token.as_ref().map(|(_, role)| *role), authorization)?,
            Need::Peer => self.check_peer(token.as_ref().map(|(_, role)| *role), authorization, peer)?,
        }
        let not_admin = self.why_not_admin(token.as_ref().map(|(_, role)| *role), peer);
        let identity = token.map_or(address, |(name, _)| name.to_string());
        Ok(Caller { identity, not_admin })
    }

    fn check_client(&self, role: Option<Credential>, shown: Option<&str>) -> Result<(), Denied> {
        match (&self.tokens, role) {
            (None, _) | (_, Some(Credential::Client | Credential::Admin)) => Ok(()),
            (_, Some(Credential::Peer)) => {
                Err(Denied::NotAllowed("a token of role client or admin is needed".to_owned()))
            }
            (_, None) => Err(unauthenticated("a token of role client or admin is needed", shown)),
        }
    }

    /// What a page of a browser may ask, by where it asks: whoever visits it may be on a host that is trusted, and knows nothing of it.
    ///
    /// # Errors
    /// [`Denied::NotAllowed`] for what peers ask.
    pub fn check_page(&self, path: &str, caller: Caller) -> Result<Caller, Denied> {
        if self.tokens.is_some() {
            return Ok(caller);
        }
        match need(path) {
            Need::Peer => Err(Denied::NotAllowed("peer verbs are not for pages of a browser".to_owned())),
            _ => {
                Ok(Caller { not_admin: Some("shutdown is not for pages of a browser".to_owned()), ..caller })
            }
        }
    }

    /// What a browser may call the node, as `HOST` or `HOST:PORT`: a page of another site is let read what comes from that site's name,
    /// and whose name it is may say that it leads here. An address is nobody's name; credentials are not sent along, and a
    /// certificate has the node's own names alone.
    ///
    /// # Errors
    /// [`Denied::Misdirected`] with what the node may be called.
    pub fn check_name(&self, path: &str, authority: &str) -> Result<(), Denied> {
        if self.tokens.is_some() || self.certificates.is_some() || need(path) == Need::Nothing {
            return Ok(());
        }
        let host = host_of(authority).to_ascii_lowercase();
        let is_local = host == "localhost" || host.ends_with(".localhost");
        if is_local || host.parse::<IpAddr>().is_ok() || self.names.contains(&host) {
            return Ok(());
        }
        Err(Denied::Misdirected(format!(
            "`{}` is no name of this overlay: call the node by its address, `localhost` or a host of its configuration, or configure security.tokens, by which it is called anything",
            shown(&host)
        )))
    }

    fn check_peer(&self, role: Option<Credential>, shown: Option<&str>, peer: &Peer) -> Result<(), Denied> {
        if matches!(role, Some(Credential::Peer | Credential::Admin)) {
            return Ok(());
        }
        let node = &self.node;
        let token = if self.tokens.is_some() { ", or a token of role peer or admin," } else { "" };
        if let Some(trusted) = &self.certificates {
            let needed = format!("a certificate of node `{node}` or a neighbour of it{token} is needed");
            return match &peer.node {
                Some(shown) if trusted.contains(&**shown) => Ok(()),
                Some(_) => Err(Denied::NotAllowed(needed)),
                None if role.is_some() => Err(Denied::NotAllowed(needed)),
                None => Err(unauthenticated(&needed, shown)),
            };
        }
        match (&self.tokens, role) {
            (None, _) if self.peer_hosts.contain_peer(peer) => Ok(()),
            (None, _) => {
                Err(Denied::NotAllowed(format!("peer verbs are for the neighbours of node `{node}`")))
            }
            (_, Some(_)) => Err(Denied::NotAllowed("a token of role peer or admin is needed".to_owned())),
            (_, None) => Err(unauthenticated("a token of role peer or admin is needed", shown)),
        }
    }

    fn why_not_admin(&self, role: Option<Credential>, peer: &Peer) -> Option<String> {
        match (&self.tokens, role) {
            (Some(_), Some(Credential::Admin)) => None,
            (Some(_), _) => Some("shutdown needs a token of role admin".to_owned()),
            (None, _) if self.own_host.contain_peer(peer) => None,
            (None, _) => Some("shutdown is taken from loopback or the node's own address".to_owned()),
        }
    }

    /// Looks the hosts up again that are written as names.
    pub async fn resolve(&self, connect: &dyn Connect) {
        for hosts in [&self.peer_hosts, &self.own_host] {
            hosts.resolve(connect).await;
        }
    }
}

fn need(path: &str) -> Need {
    match path.trim_start_matches('/').split('/').next() {
        Some("grpc.health.v1.Health" | "livez" | "readyz" | "" | "page") => Need::Nothing,
        Some("overlay.v1.Peer") => Need::Peer,
        _ => Need::Client,
    }
}

/// The host of `HOST` or `HOST:PORT`, without the brackets of an IPv6 address and the dot that ends a full name.
fn host_of(authority: &str) -> &str {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    address.unwrap_or_else(|| host.strip_suffix('.').unwrap_or(host))
}

fn unauthenticated(needed: &str, shown: Option<&str>) -> Denied {
    let found = if shown.is_some() { "the token that was sent is unknown" } else { "none was sent" };
    Denied::Unauthenticated(format!("{needed}: {found}"))
}

/// The hosts of nodes: addresses, and names with the addresses that they had when last looked up.
struct Hosts {
    names: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    resolved: Mutex<BTreeSet<IpAddr>>,
}

impl Hosts {
    /// Hosts as the configuration writes them. Names have no address until [`Self::resolve`].
    fn new<'a>(hosts: impl Iterator<Item = &'a str>) -> Self {
        let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for host in hosts {
            match host.parse::<IpAddr>() {
                Ok(ip) => drop(addresses.insert(ip.to_canonical())),
                Err(_) => drop(names.insert(host.to_owned())),
            }
        }
        Hosts { names, addresses, resolved: Mutex::default() }
    }

    /// Looks the names up again. A name that has no address now keeps none.
    async fn resolve(&self, connect: &dyn Connect) {
        if self.names.is_empty() {
            return;
        }
        let lookups = self.names.iter().map(|name| connect.resolve(name));
        let found = futures::future::join_all(lookups).await;
        let found = found.into_iter().flatten().map(|ip| ip.to_canonical()).collect();
        *self.resolved.lock().expect("storing addresses does not panic") = found;
    }

    /// Whether a caller is on one of them, or on this host, or in a network without addresses.
    fn contain_peer(&self, peer: &Peer) -> bool {
        peer.address.is_none_or(|address: SocketAddr| {
            let ip = address.ip().to_canonical();
            ip.is_loopback() || self.contain(ip)
        })
    }

    fn contain(&self, ip: IpAddr) -> bool {
        self.addresses.contains(&ip)
            || self.resolved.lock().expect("storing addresses does not panic").contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Ipv4Addr;

    use futures::future::BoxFuture;

    use super::*;
    use crate::outside::Stream;

    /// A network with one name, `node-b`.
    struct Named(Ipv4Addr);

    impl Connect for Named {
        fn connect(&self, _address: &str) -> BoxFuture<'static, io::Result<Box<dyn Stream>>> {
            unreachable!("nothing is connected to")
        }

        fn resolve(&self, host: &str) -> BoxFuture<'static, Vec<IpAddr>> {
            let found = if host == "node-b" { vec![IpAddr::V4(self.0)] } else { Vec::new() };
            Box::pin(std::future::ready(found))
        }
    }

    const PEER: &str = "/overlay.v1.Peer/Count";
    const CLIENT: &str = "/OverlayNode/Query";
    const FLIGHT: &str = "/arrow.flight.protocol.FlightService/DoGet";

    /// Node B of the six, by default without tokens and certificates.
    fn access() -> Access {
        let text = include_str!("../configs/two_hosts_config.json");
        let overlay = Overlay::parse(text, "two hosts").unwrap().overlay;
        Access::new(&overlay, overlay.process("B").unwrap(), &Security::default())
    }

    fn from(address: [u8; 4]) -> Peer {
        Peer { address: Some((address, 50_000).into()), node: None }
    }

    /// B is on 192.168.1.2, its neighbour C on 192.168.1.1.
    #[test]
    fn stranger_may_neither_stop_a_node_nor_ask_as_a_peer() {
        let access = access();
        let stranger = from([192, 0, 2, 1]);
        let denied = access.check(PEER, None, &stranger).unwrap_err();
        assert_eq!(denied, Denied::NotAllowed("peer verbs are for the neighbours of node `B`".to_owned()));
        let asking = access.check(CLIENT, None, &stranger).unwrap();
        assert_eq!(asking.identity, "192.0.2.1");
        assert!(asking.not_admin.is_some());
        let neighbour = access.check(PEER, None, &from([192, 168, 1, 1])).unwrap();
        assert!(neighbour.not_admin.is_some(), "a neighbour's host is not the node's own");
        for own in [[127, 0, 0, 1], [192, 168, 1, 2]] {
            assert_eq!(access.check(PEER, None, &from(own)).unwrap().not_admin, None);
        }
    }

    #[test]
    fn certificate_of_a_neighbour_is_good_for_peer_verbs_wherever_it_comes_from() {
        let access =
            Access { certificates: Some(BTreeSet::from(["A", "B", "C", "D"].map(NodeId::from))), ..access() };
        let shown = |node: &str| Peer { node: Some(node.into()), ..from([192, 0, 2, 1]) };
        for node in ["B", "C"] {
            access.check(PEER, None, &shown(node)).unwrap();
        }
        assert!(matches!(access.check(PEER, None, &shown("E")), Err(Denied::NotAllowed(_))), "no neighbour");
        let own_host = from([192, 168, 1, 2]);
        assert!(
            matches!(access.check(PEER, None, &own_host), Err(Denied::Unauthenticated(_))),
            "no certificate"
        );
        for path in [CLIENT, FLIGHT] {
            access.check(path, None, &own_host).expect("clients need none");
        }
    }

    #[test]
    fn node_may_be_called_by_the_hosts_of_its_configuration_or_anything_where_credentials_decide() {
        let named = Access { names: BTreeSet::from(["node-b.example".to_owned()]), ..access() };
        for name in
            ["node-b.example", "NODE-B.example:60052", "node-b.example.", "192.168.1.2:1", "[fe80::1]:2"]
        {
            assert_eq!(named.check_name("/api/v1/query", name), Ok(()), "{name}");
        }
        let other = "node-c.example";
        let why = named.check_name("/api/v1/query", other).unwrap_err().to_string();
        assert!(why.starts_with("`node-c.example` is no name of this overlay"), "{why}");
        assert_eq!(named.check_name("/livez", other), Ok(()));
        let certified = Access { certificates: Some(BTreeSet::new()), ..access() };
        assert_eq!(certified.check_name("/api/v1/query", other), Ok(()));
    }

    #[tokio::test]
    async fn host_that_is_a_name_has_the_address_that_it_was_last_found_at() {
        let hosts = Hosts::new(["10.0.0.1", "node-b", "nobody"].into_iter());
        let [first, second, third] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert!(hosts.contain(first) && !hosts.contain(second));
        hosts.resolve(&Named(Ipv4Addr::new(10, 0, 0, 2))).await;
        assert!(hosts.contain(first) && hosts.contain(second) && !hosts.contain(third));
        hosts.resolve(&Named(Ipv4Addr::new(10, 0, 0, 3))).await;
        assert!(!hosts.contain(second) && hosts.contain(third));
    }
}
