//! What a convert would do: every model under a folder, with what becomes of it or why it stays.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use nix::unistd::AccessFlags;
use nix::unistd::access;
use nix::unistd::geteuid;
use rustix::fs::AtFlags;
use rustix::fs::CWD;
use rustix::fs::StatxAttributes;
use rustix::fs::StatxFlags;
use serde::Serialize;

use crate::archive;
use crate::archive::ImageKind;
use crate::archive::naming;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::Unused;
use crate::base::atomic;
use crate::base::in_use::FinishedCheck;
use crate::base::in_use::Unfinished;
use crate::base::units::human_bytes;
use crate::ops::estimate::Estimate;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::FirstNames;
use crate::ops::folder::Stamp;
use crate::ops::report;

/// A model, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Path within the folder.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Path of the image within the folder.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Its other names (hard links) within the folder, each with that of its image.
    pub links: Vec<Name>,
    /// Its bytes.
    pub bytes: u64,
    /// About how many bytes its image has; as many as before if it stays.
    pub estimated_bytes: u64,
    /// Why it stays as it is, if it does.
    pub stays: Option<String>,
    /// What the disk said of it when it was looked at.
    #[serde(skip)]
    stamp: Stamp,
}

/// One more name of a model.
#[derive(Debug, Clone, Serialize)]
pub struct Name {
    /// Path within the folder.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Path of the image of this name.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
}

impl Planned {
    /// All its names with those of their images.
    pub fn names(&self) -> impl Iterator<Item = (&Path, &Path)> {
        let others = self.links.iter();
        let others = others.map(|name| (name.path.as_path(), name.image.as_path()));
        std::iter::once((self.path.as_path(), self.image.as_path())).chain(others)
    }

    /// An error if it is not as it was when it was looked at.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        self.stamp.check()
    }
}

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder.
    #[serde(serialize_with = "report::path")]
    pub folder: PathBuf,
    /// Every model in it.
    pub files: Vec<Planned>,
    /// Hidden folders in it, whose models are left alone.
    #[serde(serialize_with = "report::paths")]
    pub left_alone: Vec<PathBuf>,
    /// Links to folders, and to what is not there: they are not followed.
    #[serde(serialize_with = "report::paths")]
    pub not_followed: Vec<PathBuf>,
    /// Bytes of all models.
    pub bytes: u64,
    /// About how many of them would be saved.
    pub estimated_saved_bytes: u64,
}

impl Plan {
    /// The models that are to be converted.
    pub fn chosen(&self) -> impl Iterator<Item = &Planned> {
        self.files.iter().filter(|file| file.stays.is_none())
    }
}

/// Looks at all models under `root`, and at a sample of each.
pub fn plan(root: &Path, finished_check: &FinishedCheck, progress: &dyn Progress) -> Result<Plan> {
    let root = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    folder::check_not_mounted(&root)?;
    if !root.is_dir() {
        return Err(Error::invalid("is no folder").file(&root));
    }
    let mut planner = Planner {
        device: metadata_of(&root)?.dev(),
        root: &root,
        finished_check,
        taken: BTreeSet::new(),
    };
    let mut files: Vec<Planned> = Vec::new();
    let (mut left_alone, mut not_followed) = (BTreeSet::new(), Vec::new());
    // the first name of each file, and where it stands in the plan
    let mut known: FirstNames<usize> = FirstNames::default();
    progress.begin("looking at the models", 0);
    for entry in folder::walk(&root, progress)? {
        progress.check()?;
        if let Some(hidden) = hidden_folder(&entry) {
            left_alone.insert(hidden);
            continue;
        }
        let full = root.join(&entry.path);
        if is_not_followed(&full, &entry.kind) {
            not_followed.push(entry.path);
        } else if entry.kind == EntryKind::File && folder::is_model(&full) {
            let metadata = metadata_of(&full)?;
            match known.met(&metadata, || files.len()) {
                Some(&number) if !metadata.is_symlink() => {
                    let name = planner.name(entry.path);
                    files[number].links.push(name);
                }
                _ => files.push(planner.first_look(&entry, &metadata)?),
            }
        }
    }
    for file in &mut files {
        progress.check()?;
        planner.estimate(file)?;
    }
    progress.end();
    let saved = |file: &Planned| file.bytes.saturating_sub(file.estimated_bytes);
    Ok(Plan {
        bytes: files.iter().map(|file| file.bytes).sum(),
        estimated_saved_bytes: files.iter().map(saved).sum(),
        left_alone: left_alone.into_iter().collect(),
        not_followed,
        folder: root,
        files,
    })
}

fn metadata_of(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).map_err(|e| Error::io("cannot stat", path, e))
}

/// The topmost hidden folder that an entry is or lies in: `.git`, `.cache`, `.Trash` and their like
/// are other programs' business.
fn hidden_folder(entry: &Entry) -> Option<PathBuf> {
    let folder = match entry.kind {
        EntryKind::Folder => Some(entry.path.as_path()),
        _ => entry.path.parent(),
    };
    let mut top = PathBuf::new();
    for component in folder?.components() {
        top.push(component);
        let is_hidden =
            matches!(component, Component::Normal(name) if name.as_bytes().starts_with(b"."));
        if is_hidden {
            return Some(top);
        }
    }
    None
}

/// Links to files in the tree need no following, and those to files outside are models of their own
/// that stay.
fn is_not_followed(full: &Path, kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::Link(_)) && !fs::metadata(full).is_ok_and(|m| m.is_file())
}

struct Planner<'a> {
    root: &'a Path,
    device: u64,
    finished_check: &'a FinishedCheck,
    /// Names of images that are given away.
    taken: BTreeSet<PathBuf>,
}

impl Planner<'_> {
    fn first_look(&mut self, entry: &Entry, metadata: &Metadata) -> Result<Planned> {
        let name = self.name(entry.path.clone());
        let full = self.root.join(&entry.path);
        Ok(Planned {
            path: name.path,
            image: name.image,
            links: Vec::new(),
            bytes: metadata.len(),
            estimated_bytes: metadata.len(),
            stays: None,
            stamp: Stamp::of(&full)?,
        })
    }

    /// A model with the name of its image: the short one, or the long one if that is another
    /// file's.
    fn name(&mut self, path: PathBuf) -> Name {
        let own = path.file_name().unwrap_or_default();
        let (short, _) = naming::image_name(own);
        let both = [short, naming::long_image_name(own)].map(|name| path.with_file_name(name));
        let is_free = |image: &PathBuf| {
            let full = self.root.join(image);
            !self.taken.contains(image)
                && (fs::symlink_metadata(&full).is_err() || stands_for(&full, own).unwrap_or(false))
        };
        let free = both.iter().find(|image| is_free(image));
        let image = free.unwrap_or(&both[0]).clone();
        self.taken.insert(image.clone());
        Name { path, image }
    }

    /// Decides whether a model stays, and if it does not, about how large its image would be.
    fn estimate(&self, file: &mut Planned) -> Result<()> {
        let full = self.root.join(&file.path);
        let metadata = metadata_of(&full)?;
        file.stays = self.stays(file, &full, &metadata);
        if file.stays.is_some() {
            return Ok(());
        }
        match Estimate::of_file(&full).and_then(|estimate| estimate.worth(metadata.len())) {
            Ok(bytes) => file.estimated_bytes = bytes,
            // the hint would be for compress
            Err(error) => file.stays = Some(error.what()),
        }
        Ok(())
    }

    fn stays(&self, file: &Planned, full: &Path, metadata: &Metadata) -> Option<String> {
        if metadata.is_symlink() {
            return Some("a link to a file elsewhere".to_owned());
        }
        if metadata.dev() != self.device {
            return Some("on another file system".to_owned());
        }
        if metadata.nlink() != 1 + file.links.len() as u64 {
            return Some(
                "it has names (hard links) outside the folder, which would keep its space"
                    .to_owned(),
            );
        }
        let ending = |path: &Path| {
            let name = path.file_name().unwrap_or_default();
            naming::image_name(name).1.to_owned()
        };
        if file
            .names()
            .any(|(path, _)| ending(path) != ending(&file.path))
        {
            // an image records one
            return Some("it has several names (hard links) that end differently".to_owned());
        }
        for (path, image) in file.names() {
            let at = self.root.join(image);
            let name = path.file_name().unwrap_or_default();
            if fs::symlink_metadata(&at).is_ok() && !stands_for(&at, name).unwrap_or(false) {
                return Some(format!("`{}` is a link, or no image of it", at.display()));
            }
            if let Some(why) = cannot_go(&self.root.join(path)) {
                return Some(why);
            }
        }
        self.finished_check
            .unfinished(full, metadata)
            .map(|why| why_unfinished(&why))
            .or_else(|| Unused::hold(full).err().map(|error| error.what()))
    }
}

/// In words, why a file looks unfinished.
fn why_unfinished(why: &Unfinished) -> String {
    match why {
        Unfinished::Companion(why) => why.clone(),
        Unfinished::Young(age) => format!(
            "it was written {} s ago, less than `--min-age`: somebody may be at it still",
            age.as_secs()
        ),
        Unfinished::Hole(at) => format!(
            "parts of it were never written, the first after {}: \
             an unfinished download, or one for `--sparse`",
            human_bytes(*at)
        ),
    }
}

/// Why whoever runs this may not replace the file, if so.
fn cannot_go(full: &Path) -> Option<String> {
    let folder = atomic::folder_of(full);
    if access(folder, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        return Some("its folder cannot be written".to_owned());
    }
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    let asked = rustix::fs::statx(CWD, full, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty());
    if asked.is_ok_and(|told| told.stx_attributes.intersects(fixed)) {
        return Some("it is marked as one that may not be changed (`chattr`)".to_owned());
    }
    let (of_file, of_folder) = (metadata_of(full).ok()?, metadata_of(folder).ok()?);
    let user = geteuid().as_raw();
    let is_sticky = of_folder.mode() & 0o1000 != 0;
    let may = user == 0 || user == of_file.uid() || user == of_folder.uid();
    (is_sticky && !may).then(|| "it is another user's, in a folder that protects it".to_owned())
}

/// Whether there is an image, and no link, that a mount would show under this name.
fn stands_for(image: &Path, name: &OsStr) -> Result<bool> {
    let header = archive::peek(&FileSource::open(image)?, image)?;
    let shown = naming::original_name(image.file_name().unwrap_or_default(), &header);
    let is_link = fs::symlink_metadata(image).is_ok_and(|metadata| metadata.is_symlink());
    Ok(!is_link && shown.as_deref() == Some(name) && header.kind == ImageKind::File)
}
