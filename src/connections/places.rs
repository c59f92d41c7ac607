//! Places for connections, in all and from one address.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::Limits;

/// A handle; all clones share the same places.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    limit_by_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    address: Option<IpAddr>,
    shared: Arc<Shared>,
}

/// Why a connection finds no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{open} connections are open{from}, limit {open} ({limit_name})")]
pub struct Full {
    open: usize,
    from: &'static str,
    limit_name: &'static str,
}

impl Places {
    /// As many places as `limits` says.
    pub fn new(limits: &Limits) -> Self {
        Places(Arc::new(Shared {
            limit: limits.connections,
            limit_by_address: limits.address_connections,
            taken: Mutex::default(),
        }))
    }

    /// Takes a place for a connection from `address`; one without counts among all only.
    ///
    /// # Errors
    /// [`Full`] if none is left, in all or from there.
    pub fn take(&self, address: Option<IpAddr>) -> Result<Place, Full> {
        let shared = &self.0;
        let address = address.map(counted_as);
        let mut taken = shared.lock();
        if taken.all >= shared.limit {
            return Err(Full { open: taken.all, from: "", limit_name: "limits.connections" });
        }
        if let Some(address) = address {
            let from_there = taken.by_address.entry(address).or_default();
            if *from_there >= shared.limit_by_address {
                let (open, limit_name) = (*from_there, "limits.address_connections");
                return Err(Full { open, from: " from this address", limit_name });
            }
            *from_there += 1;
        }
        taken.all += 1;
        Ok(Place { address, shared: shared.clone() })
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.0.lock().all
    }
}

/// Whoever has one IPv6 address has all of its network of 64 bits.
pub(super) fn counted_as(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        address => address,
    }
}

impl Shared {
    /// A panic elsewhere cannot leave the numbers half changed: nothing in here runs foreign code.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shared.lock();
        taken.all -= 1;
        if let Some(address) = self.address
            && let Some(from_there) = taken.by_address.get_mut(&address)
        {
            *from_there -= 1;
            if *from_there == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places::new(&Limits { connections: 3, address_connections: 2, ..Limits::default() })
    }

    #[test]
    fn one_address_leaves_places_to_others() {
        let (places, here, there) = (places(), IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.take(Some(here)).unwrap();
        let _second = places.take(Some(here)).unwrap();
        let full = places.take(Some(here)).unwrap_err().to_string();
        assert_eq!(full, "2 connections are open from this address, limit 2 (limits.address_connections)");
        let _third = places.take(Some(there)).unwrap();
        let full = places.take(Some(there)).unwrap_err().to_string();
        assert_eq!(full, "3 connections are open, limit 3 (limits.connections)");
        drop(first);
        assert!(places.take(Some(here)).is_ok());
    }

    #[test]
    fn place_that_is_given_back_leaves_nothing_behind() {
        let places = places();
        drop(places.take(Some(IpAddr::from([10, 0, 0, 1]))));
        drop(places.take(None));
        let taken = places.0.lock();
        assert_eq!((taken.all, taken.by_address.len()), (0, 0));
    }

    #[test]
    fn network_of_64_bits_is_one_address() {
        let places = places();
        let address = |text: &str| Some(text.parse().unwrap());
        let _first = places.take(address("2001:db8::1")).unwrap();
        let _second = places.take(address("2001:db8::ffff:1")).unwrap();
        assert!(places.take(address("2001:db8::2")).is_err());
        assert!(places.take(address("2001:db8:0:1::1")).is_ok());
    }
}
