//! Models of a folder that have several names (hard links): one image is made, which gets a name
//! for each.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::Result;
use crate::base::identity::Identity;
use crate::ops::compress::plan::Planned;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::FirstNames;

/// Which images of a plan are of one file.
#[derive(Debug, Default)]
pub(super) struct FurtherNames {
    /// By the path of each image of a further name that of the first.
    first_of: BTreeMap<PathBuf, PathBuf>,
    /// Images of first names that are there now, and what the disk said of their files.
    made: BTreeMap<PathBuf, Identity>,
}

impl FurtherNames {
    /// Of what becomes an image; those that are `current` come first.
    pub(super) fn of(
        root: &Path,
        plan: &[Planned],
        current: &BTreeSet<PathBuf>,
        recodes: bool,
    ) -> Self {
        // an image records how the name of its file ends
        let mut by_suffix: BTreeMap<Option<&str>, FirstNames<PathBuf>> = BTreeMap::new();
        let mut names = Self::default();
        let is_current = |planned: &&Planned| current.contains(planned.made());
        let (there, missing): (Vec<_>, Vec<_>) = plan.iter().partition(is_current);
        for planned in there.into_iter().chain(missing) {
            let full = root.join(&planned.entry.path);
            let is_file = planned.entry.kind == EntryKind::File;
            let suffix = match &planned.image {
                Some((_, suffix)) if is_file => Some(suffix.as_str()),
                None if is_file && recodes && folder::is_image(&full) => None,
                _ => continue,
            };
            // one that has gone is missed when it is read
            let Ok(metadata) = fs::metadata(&full) else {
                continue;
            };
            let image = planned.made().to_owned();
            let first = by_suffix.entry(suffix).or_default();
            if let Some(first) = first.met(&metadata, || image.clone()) {
                names.first_of.insert(image, first.clone());
            }
        }
        names
    }

    /// The image of the first name of the file that this image is of, if that is another.
    pub(super) fn first_of(&self, image: &Path) -> Option<&Path> {
        self.first_of.get(image).map(PathBuf::as_path)
    }

    /// Notes that the image of the file `full` is there.
    pub(super) fn note(&mut self, image: &Path, full: &Path) -> Result<()> {
        self.made.insert(image.to_owned(), identity_of(full)?);
        Ok(())
    }

    /// The image that is there of the file `full`, whose image is to have this path; none if there
    /// is none, or the file is not as it was.
    pub(super) fn made(&self, image: &Path, full: &Path) -> Result<Option<&Path>> {
        let Some(first) = self.first_of(image) else {
            return Ok(None);
        };
        let Some(made) = self.made.get(first) else {
            return Ok(None);
        };
        let is_it = identity_of(full)?.has_content_of(made);
        Ok(is_it.then_some(first))
    }
}

fn identity_of(path: &Path) -> Result<Identity> {
    let metadata = fs::metadata(path).map_err(|e| Error::io("cannot stat", path, e))?;
    Ok(Identity::of(&metadata))
}
