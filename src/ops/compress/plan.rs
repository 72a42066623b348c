//! What becomes of each file of a folder that is compressed into another: decided before anything
//! is written.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::archive;
use crate::archive::naming;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::progress::Reason;
use crate::base::progress::Skipped;
use crate::ops::compress::no_model::no_model;
use crate::ops::compress::sources::open_source;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::origin;
use crate::ops::origin::Origin;

/// Longest name that file systems take.
const NAME_LEN_MAX: usize = 255;

/// A file of the source folder and what becomes of it.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// The image's path and suffix; none for what is copied.
    pub(super) image: Option<(PathBuf, String)>,
}

impl Planned {
    /// Where what is made of it lies in the output.
    pub(super) fn made(&self) -> &Path {
        match &self.image {
            Some((image, _)) => image,
            None => &self.entry.path,
        }
    }
}

/// Decides for every entry. What is called a model and is none is copied as it is; what cannot be
/// read, or would be taken for something else, is left out. `target` is where the images go: those
/// that are there keep their names.
pub(super) fn plan_mirror(
    root: &Path,
    target: &Path,
    opaque: bool,
    progress: &dyn Progress,
) -> Result<Vec<Planned>> {
    let entries = folder::walk(root, progress)?;
    let mut names = Names {
        root,
        target,
        taken: BTreeSet::new(),
        own: BTreeMap::new(),
    };
    let (mut models, mut left_out) = (BTreeSet::new(), BTreeSet::new());
    let mut skipped = Vec::new();
    for entry in &entries {
        let full = root.join(&entry.path);
        let is_file = entry.kind == EntryKind::File;
        if is_file && folder::is_model(&full) {
            match open_source(&full, String::new(), opaque) {
                Ok(_) => {
                    models.insert(entry.path.clone());
                    continue;
                }
                Err(error) => {
                    let what = no_model(&full, &error);
                    if what.reason == Reason::Unreadable || names.image_of(&entry.path).is_some() {
                        left_out.insert(entry.path.clone());
                    }
                    skipped.push(what);
                }
            }
        } else if is_file && let Some(what) = image_in_the_way(&full) {
            left_out.insert(entry.path.clone());
            skipped.push(what);
        }
        if !left_out.contains(&entry.path) {
            names.taken.insert(entry.path.clone());
        }
    }
    for path in &models {
        names.claim(path);
    }
    let mut plan = Vec::new();
    for entry in entries {
        let mut image = None;
        if models.contains(&entry.path) {
            image = names.choose(&entry.path);
            if image.is_none() {
                let why = "no name for its image is free and short enough: copied as it is";
                skipped.push(Skipped::new(&root.join(&entry.path), Reason::Name, why));
            }
        }
        if !left_out.contains(&entry.path) {
            plan.push(Planned { entry, image });
        }
    }
    progress.skip_all(skipped)?;
    Ok(plan)
}

/// An image in the source is copied as it is. If the file that it stands for is there, too, the
/// copy could not be told from the image of that file: only one of both would come back.
fn image_in_the_way(full: &Path) -> Option<Skipped> {
    if !folder::is_image(full) {
        return None;
    }
    let header = archive::peek(&FileSource::open(full).ok()?, full).ok()?;
    let original = full.with_file_name(naming::original_name(full.file_name()?, &header)?);
    fs::symlink_metadata(&original).ok()?;
    let name = original.file_name()?.to_string_lossy();
    let why = format!("an image of `{name}`, which is there, too: left out");
    Some(Skipped::new(full, Reason::Name, why))
}

/// The names of images.
struct Names<'a> {
    root: &'a Path,
    target: &'a Path,
    taken: BTreeSet<PathBuf>,
    /// Images of the models that are there.
    own: BTreeMap<PathBuf, PathBuf>,
}

impl Names<'_> {
    /// `x.bs` for `x.safetensors`; `x.safetensors.bs`, which stands for the same, if `x.bs` is
    /// taken.
    fn choose(&mut self, path: &Path) -> Option<(PathBuf, String)> {
        let (candidates, suffix) = candidates(path.file_name().unwrap_or_default());
        if let Some(image) = self.own.get(path) {
            return Some((image.clone(), suffix));
        }
        let image = candidates
            .into_iter()
            .filter(|name| name.len() <= NAME_LEN_MAX)
            .map(|name| path.with_file_name(name))
            .find(|image| !self.taken.contains(image))?;
        self.taken.insert(image.clone());
        Some((image, suffix))
    }

    /// The image in the output that was made from this file.
    fn image_of(&self, path: &Path) -> Option<PathBuf> {
        let source = self.root.join(path);
        let (names, _) = candidates(path.file_name().unwrap_or_default());
        let mut images = names.into_iter().map(|name| path.with_file_name(name));
        images.find(|image| origin::of(&self.target.join(image), &source) == Origin::Same)
    }

    /// The image that is there keeps its name.
    fn claim(&mut self, path: &Path) {
        let there = self
            .image_of(path)
            .filter(|image| !self.taken.contains(image));
        if let Some(image) = there {
            self.taken.insert(image.clone());
            self.own.insert(path.to_owned(), image);
        }
    }
}

/// The names that the image of a file may have, and its suffix.
fn candidates(name: &OsStr) -> ([OsString; 2], String) {
    let (short, suffix) = naming::image_name(name);
    ([short, naming::long_image_name(name)], suffix.to_owned())
}
