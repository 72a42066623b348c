//! Which of several tensors of one name counts: the one in the file that the index of the shards
//! names, and the file itself rather than an image that stands beside it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::archive::digests::Place;
use crate::archive::shards;
use crate::archive::shards::Groups;
use crate::archive::shards::ShardIndex;
use crate::archive::shards::ShardNote;
use crate::archive::tensors::Tensor;
use crate::archive::tensors::Tensors;

/// Where a file with tensors stands: its folder, and its name there as restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Home {
    pub(super) folder: PathBuf,
    pub(super) name: OsString,
}

/// Which tensors do not count, and what is odd.
#[derive(Debug, Default)]
pub(super) struct Standing {
    overruled: BTreeSet<(usize, Place)>,
    pub(super) notes: Vec<ShardNote>,
}

impl Standing {
    /// Whether a tensor counts.
    pub(super) fn counts(&self, tensor: &Tensor) -> bool {
        !self.overruled.contains(&key(tensor))
    }
}

fn key(tensor: &Tensor) -> (usize, Place) {
    (tensor.file, tensor.place)
}

/// Decides for all tensors of what was named.
pub(super) fn decide(tensors: &Tensors) -> Standing {
    let mut decision = Decision {
        tensors,
        indexes: None,
        standing: Standing::default(),
        beside: BTreeSet::new(),
        undecided: Groups::default(),
    };
    for (name, alike) in &tensors.by_name {
        let named: Vec<&Tensor> = alike.iter().filter(|tensor| tensor.is_named).collect();
        if named.len() > 1 {
            decision.decide(name, &named);
        }
    }
    let Decision {
        mut standing,
        beside,
        undecided,
        ..
    } = decision;
    standing.notes.extend(undecided.notes());
    let beside = beside.into_iter();
    let beside = beside.map(|(file, image)| ShardNote::BesideImage(file, image));
    standing.notes.extend(beside);
    standing
}

struct Decision<'a> {
    tensors: &'a Tensors,
    /// Those of each folder, read when the first is needed.
    indexes: Option<BTreeMap<PathBuf, Vec<ShardIndex>>>,
    standing: Standing,
    /// Files that stand beside their images.
    beside: BTreeSet<(PathBuf, PathBuf)>,
    undecided: Groups,
}

impl<'a> Decision<'a> {
    fn decide(&mut self, name: &str, named: &[&'a Tensor]) {
        let mut by_folder: BTreeMap<&Path, Vec<(&OsStr, &Tensor)>> = BTreeMap::new();
        for tensor in named {
            let homes = self.tensors.files[tensor.file].homes.get(&tensor.place.0);
            for home in homes.into_iter().flatten() {
                let group = by_folder.entry(&home.folder).or_default();
                group.push((&home.name, tensor));
            }
        }
        let (mut counting, mut overruled) = (BTreeSet::new(), BTreeSet::new());
        for (folder, group) in by_folder {
            let kept = if group.len() > 1 {
                self.of_folder(name, folder, &group)
            } else {
                group.iter().map(|(_, tensor)| key(tensor)).collect()
            };
            overruled.extend(group.iter().map(|(_, tensor)| key(tensor)));
            counting.extend(kept);
        }
        // one that is in several folders counts if it does in any of them
        let overruled = overruled.difference(&counting).copied();
        self.standing.overruled.extend(overruled);
    }

    /// Which of the tensors of one name in a folder count.
    fn of_folder(
        &mut self,
        name: &str,
        folder: &Path,
        group: &[(&OsStr, &Tensor)],
    ) -> Vec<(usize, Place)> {
        let chosen = self.chosen(name, folder);
        let chosen = chosen.filter(|chosen| group.iter().any(|(file, _)| chosen == file));
        let in_question = group
            .iter()
            .filter(|(file, _)| chosen.as_deref().is_none_or(|chosen| chosen == *file));
        let mut kept: BTreeMap<&OsStr, &Tensor> = BTreeMap::new();
        for &(file, tensor) in in_question {
            let Some(before) = kept.insert(file, tensor) else {
                continue;
            };
            let is_image = |tensor: &Tensor| self.tensors.files[tensor.file].header.is_some();
            let (plain, image) = if is_image(before) {
                (tensor, before)
            } else {
                (before, tensor)
            };
            kept.insert(file, plain);
            self.beside.insert((self.path(plain), self.path(image)));
        }
        if kept.len() > 1 {
            let files = kept.values().map(|tensor| self.path(tensor)).collect();
            self.undecided.add(name, files, None);
        }
        kept.into_values().map(key).collect()
    }

    fn path(&self, tensor: &Tensor) -> PathBuf {
        self.tensors.files[tensor.file].path.clone()
    }

    /// The file that the index of the folder names for a tensor.
    fn chosen(&mut self, name: &str, folder: &Path) -> Option<OsString> {
        let indexes = self.indexes.get_or_insert_with(|| {
            let mut indexes: BTreeMap<PathBuf, Vec<ShardIndex>> = BTreeMap::new();
            for index in self.tensors.in_images.iter().cloned() {
                let folder = crate::base::atomic::folder_of(index.path()).to_owned();
                indexes.entry(folder).or_default().push(index);
            }
            for path in &self.tensors.indexes {
                let folder = crate::base::atomic::folder_of(path).to_owned();
                match ShardIndex::open(path) {
                    Ok(index) => indexes.entry(folder).or_default().push(index),
                    Err(error) => {
                        let note = shards::unreadable(path.clone(), &error);
                        self.standing.notes.push(note);
                    }
                }
            }
            indexes
        });
        let mut of_folder = indexes.get(folder).into_iter().flatten();
        of_folder.find_map(|index| index.file_of(name).map(OsString::from))
    }
}
