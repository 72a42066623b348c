//! Files with several names (hard links): one file, which is looked at and counted once.

use std::collections::BTreeMap;
use std::fs::Metadata;

use crate::base::identity::Identity;

/// Files that were met, each with what was noted of its first name.
#[derive(Debug)]
pub(crate) struct FirstNames<T>(BTreeMap<[u64; 2], T>);

impl<T> Default for FirstNames<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> FirstNames<T> {
    /// What was noted of the first name of the file that the disk says this of; if this is the
    /// first, `new` is noted, and nothing returned.
    pub(crate) fn met(&mut self, metadata: &Metadata, new: impl FnOnce() -> T) -> Option<&T> {
        use std::collections::btree_map::Entry;
        match self.0.entry(Identity::of(metadata).device_and_inode()) {
            Entry::Occupied(there) => Some(there.into_mut()),
            Entry::Vacant(free) => {
                free.insert(new());
                None
            }
        }
    }
}
