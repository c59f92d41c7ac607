//! The sites that a thread met, by the bytes that stand for them in a row.
//!
//! Files name the same sites in nearly the same order, hour after hour, and their texts are more than half of the bytes.
//! So the site that followed last time is tried first: where a row has its bytes, they are neither split
//! nor looked up again. A guess costs two comparisons and never decides what a row says.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::split::Margins;
use crate::store::SiteEntry;

#[derive(Default)]
pub(super) struct KnownSites {
    sites: Vec<KnownSite>,
    by_key: HashMap<Rc<[u8]>, usize, BuildHasherDefault<BytesHasher>>,
    /// Index of the site of the row before.
    last: usize,
    key: Vec<u8>,
}

struct KnownSite {
    /// As [`join`] makes it.
    key: Rc<[u8]>,
    /// Bytes of the key that are the head.
    head_bytes: usize,
    entry: SiteEntry,
    /// Index of the site whose rows came after the rows of this one when they were last met.
    next: usize,
}

impl KnownSite {
    fn margins(&self) -> Margins<'_> {
        Margins { head: &self.key[..self.head_bytes], tail: &self.key[self.head_bytes + 1..] }
    }
}

impl KnownSites {
    /// A site whose rows begin as `data` does, with its margins and the index that [`Self::met`] takes.
    pub(super) fn guess(&self, data: &[u8]) -> Option<(usize, SiteEntry, Margins<'_>)> {
        let last = self.sites.get(self.last)?;
        [self.last, last.next].into_iter().find_map(|index| {
            let site = &self.sites[index];
            let margins = site.margins();
            data.starts_with(margins.head).then_some((index, site.entry, margins))
        })
    }

    /// The site of a row with these margins, if one was inserted.
    pub(super) fn find(&mut self, margins: Margins<'_>) -> Option<SiteEntry> {
        join(&mut self.key, margins);
        let index = *self.by_key.get(self.key.as_slice())?;
        self.met(index);
        Some(self.sites[index].entry)
    }

    /// Remembers the site of a row. Without its line end a row is no example for others.
    pub(super) fn insert(&mut self, margins: Margins<'_>, entry: SiteEntry) {
        if !margins.tail.ends_with(b"\n") {
            return;
        }
        join(&mut self.key, margins);
        let (index, key) = (self.sites.len(), Rc::<[u8]>::from(self.key.as_slice()));
        self.by_key.insert(key.clone(), index);
        self.sites.push(KnownSite { key, head_bytes: margins.head.len(), entry, next: index });
        self.met(index);
    }

    /// Takes note that a row has this site.
    pub(super) fn met(&mut self, index: usize) {
        if index != self.last {
            self.sites[self.last].next = index;
            self.last = index;
        }
    }
}

/// Joins margins into a key. 0xff is in no UTF-8 text, so keys that are remembered are unambiguous.
fn join(key: &mut Vec<u8>, margins: Margins<'_>) {
    key.clear();
    key.extend_from_slice(margins.head);
    key.push(0xff);
    key.extend_from_slice(margins.tail);
}

/// XXH3 for the keys, which are about a hundred bytes long.
#[derive(Default)]
pub(super) struct BytesHasher(u64);

impl Hasher for BytesHasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    // The length before a slice; the slice's own hash covers it.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}
