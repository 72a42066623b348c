//! Which of several tensors of one name counts: the one in the file that the index of the shards
//! names, and the file itself rather than an image that stands beside it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::archive::shards;
use crate::archive::shards::Groups;
use crate::archive::shards::ShardIndex;
use crate::archive::shards::ShardLocation;
use crate::archive::shards::ShardNote;

/// One of several tensors of a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate<'a> {
    /// What tells it from the others.
    pub(super) number: usize,
    /// Where its file stands as restored: links give several.
    pub(super) locations: &'a [ShardLocation],
    /// Where its file is.
    pub(super) path: &'a Path,
    /// Whether that is an image.
    pub(super) is_image: bool,
}

/// The indexes of shards that decide: those in images, and those on the disk, not read yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Indexes<'a> {
    pub(super) in_images: &'a [ShardIndex],
    pub(super) on_disk: &'a BTreeSet<PathBuf>,
}

/// Which tensors do not count, and what is odd.
#[derive(Debug, Default)]
pub(super) struct Precedence {
    overruled: BTreeSet<usize>,
    pub(super) notes: Vec<ShardNote>,
}

impl Precedence {
    /// Whether a tensor counts.
    pub(super) fn counts(&self, number: usize) -> bool {
        !self.overruled.contains(&number)
    }
}

/// Decides for all names that several tensors have.
pub(super) fn decide<'a>(
    names: impl Iterator<Item = (&'a str, Vec<Candidate<'a>>)>,
    indexes: Indexes<'a>,
) -> Precedence {
    let mut decision = Decision {
        indexes,
        read: None,
        precedence: Precedence::default(),
        beside: BTreeSet::new(),
        undecided: Groups::default(),
    };
    for (name, candidates) in names {
        decision.decide(name, &candidates);
    }
    let Decision {
        mut precedence,
        beside,
        undecided,
        ..
    } = decision;
    precedence.notes.extend(undecided.notes());
    let beside = beside.into_iter();
    let beside = beside.map(|(file, image)| ShardNote::BesideImage(file, image));
    precedence.notes.extend(beside);
    precedence
}

struct Decision<'a> {
    indexes: Indexes<'a>,
    /// Those of each folder, read when the first is needed.
    read: Option<BTreeMap<PathBuf, Vec<ShardIndex>>>,
    precedence: Precedence,
    /// Files that stand beside their images.
    beside: BTreeSet<(PathBuf, PathBuf)>,
    undecided: Groups,
}

impl<'a> Decision<'a> {
    fn decide(&mut self, name: &str, candidates: &[Candidate<'a>]) {
        let mut by_folder: BTreeMap<&Path, Vec<(&OsStr, &Candidate<'_>)>> = BTreeMap::new();
        for candidate in candidates {
            for location in candidate.locations {
                let group = by_folder.entry(&location.folder).or_default();
                group.push((&location.name, candidate));
            }
        }
        let (mut counting, mut overruled) = (BTreeSet::new(), BTreeSet::new());
        for (folder, group) in by_folder {
            let numbers = group.iter().map(|(_, candidate)| candidate.number);
            let kept = if group.len() > 1 {
                self.of_folder(name, folder, &group)
            } else {
                numbers.clone().collect()
            };
            overruled.extend(numbers);
            counting.extend(kept);
        }
        // one that is in several folders counts if it does in any of them
        let overruled = overruled.difference(&counting).copied();
        self.precedence.overruled.extend(overruled);
    }

    /// Which of the tensors of one name in a folder count.
    fn of_folder(
        &mut self,
        name: &str,
        folder: &Path,
        group: &[(&OsStr, &Candidate<'_>)],
    ) -> Vec<usize> {
        let chosen = self.chosen(name, folder);
        let chosen = chosen.filter(|chosen| group.iter().any(|(file, _)| chosen == file));
        let in_question = group
            .iter()
            .filter(|(file, _)| chosen.as_deref().is_none_or(|chosen| chosen == *file));
        let mut kept: BTreeMap<&OsStr, &Candidate<'_>> = BTreeMap::new();
        for &(file, candidate) in in_question {
            let Some(before) = kept.insert(file, candidate) else {
                continue;
            };
            let (plain, image) = if before.is_image {
                (candidate, before)
            } else {
                (before, candidate)
            };
            kept.insert(file, plain);
            let paths = (plain.path.to_owned(), image.path.to_owned());
            self.beside.insert(paths);
        }
        if kept.len() > 1 {
            let files = kept.values().map(|candidate| candidate.path.to_owned());
            self.undecided.add(name, files.collect(), None);
        }
        kept.into_values().map(|one| one.number).collect()
    }

    /// The file that the index of the folder names for a tensor.
    fn chosen(&mut self, name: &str, folder: &Path) -> Option<OsString> {
        let Indexes { in_images, on_disk } = self.indexes;
        let notes = &mut self.precedence.notes;
        let read = self.read.get_or_insert_with(|| {
            let mut read: BTreeMap<PathBuf, Vec<ShardIndex>> = BTreeMap::new();
            for index in in_images.iter().cloned() {
                let folder = crate::base::atomic::folder_of(index.path()).to_owned();
                read.entry(folder).or_default().push(index);
            }
            for path in on_disk {
                let folder = crate::base::atomic::folder_of(path).to_owned();
                match ShardIndex::open(path) {
                    Ok(index) => read.entry(folder).or_default().push(index),
                    Err(error) => notes.push(shards::unreadable(path.clone(), &error)),
                }
            }
            read
        });
        let mut of_folder = read.get(folder).into_iter().flatten();
        of_folder.find_map(|index| index.file_of(name).map(OsString::from))
    }
}
