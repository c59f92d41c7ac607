//! A map that holds at most so many bytes and forgets what was used longest ago.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// Bounded by the bytes that its values are said to have. What does not fit is not kept.
pub struct ByteCache<K, V> {
    capacity_bytes: usize,
    inner: Mutex<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: BTreeMap<K, Slot<V>>,
    /// Keys by their last use, oldest first.
    uses: BTreeMap<u64, K>,
    next_use: u64,
    bytes: usize,
}

struct Slot<V> {
    value: V,
    bytes: usize,
    used: u64,
}

impl<K: Ord + Clone, V: Clone> ByteCache<K, V> {
    /// An empty cache that holds at most `capacity_bytes`.
    pub fn new(capacity_bytes: usize) -> Self {
        ByteCache {
            capacity_bytes,
            inner: Mutex::new(Inner {
                entries: BTreeMap::new(),
                uses: BTreeMap::new(),
                next_use: 0,
                bytes: 0,
            }),
        }
    }

    /// The value kept for `key`, which is thereby the most recently used.
    pub fn get(&self, key: &K) -> Option<V> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        let slot = inner.entries.get_mut(key)?;
        inner.uses.remove(&slot.used);
        inner.next_use += 1;
        slot.used = inner.next_use;
        inner.uses.insert(slot.used, key.clone());
        Some(slot.value.clone())
    }

    /// Whether there is a value for `key`, which is no use of it.
    pub fn contains(&self, key: &K) -> bool {
        self.lock().entries.contains_key(key)
    }

    /// Keeps `value`, said to have `bytes`, and forgets the least recently used until all fit.
    pub fn insert(&self, key: K, value: V, bytes: usize) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.remove(&key);
        if bytes > self.capacity_bytes {
            return;
        }
        while inner.bytes + bytes > self.capacity_bytes {
            let Some((_, oldest)) = inner.uses.first_key_value() else {
                break;
            };
            let oldest = oldest.clone();
            inner.remove(&oldest);
        }
        inner.next_use += 1;
        let used = inner.next_use;
        inner.bytes += bytes;
        inner.uses.insert(used, key.clone());
        inner.entries.insert(key, Slot { value, bytes, used });
    }

    /// The most bytes that it holds.
    pub fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().expect("a cache's own code does not panic")
    }
}

impl<K: Ord + Clone, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(slot) = self.entries.remove(key) {
            self.uses.remove(&slot.used);
            self.bytes -= slot.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_is_forgotten_first() {
        let cache = ByteCache::new(10);
        cache.insert("a", 1, 4);
        cache.insert("b", 2, 4);
        assert_eq!(cache.get(&"a"), Some(1));
        assert!(cache.contains(&"b") && !cache.contains(&"c"), "looking is no use");
        cache.insert("c", 3, 4);
        assert_eq!((cache.get(&"a"), cache.get(&"b"), cache.get(&"c")), (Some(1), None, Some(3)));
        assert_eq!(cache.bytes(), 8);
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_takes_nothing_away() {
        let cache = ByteCache::new(10);
        cache.insert("a", 1, 4);
        cache.insert("b", 2, 11);
        assert_eq!((cache.get(&"a"), cache.get(&"b")), (Some(1), None));
        cache.insert("a", 5, 10);
        assert_eq!((cache.get(&"a"), cache.bytes()), (Some(5), 10));
    }
}
