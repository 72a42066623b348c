//! Whether fine-tunes need what is to go: a base that is the last of its kind stays.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive;
use bigsmall::archive::Bases;
use bigsmall::archive::Files;
use bigsmall::archive::Image;
use bigsmall::archive::naming;
use nix::errno::Errno;

use crate::fs::Fs;
use crate::fs::root::Kind;
use crate::fs::root::Result;

/// Which images are fine-tunes, by what the disk says of them: each is opened once for that.
pub(super) type Deltas = BTreeMap<[u8; 40], bool>;

impl Fs {
    /// `EBUSY`, and a line in the log that names them, if fine-tunes in the source could not be
    /// read any more without what is at `path`.
    pub(super) fn check_unneeded(&self, path: &Path) -> Result<()> {
        let below = self.root.path_below();
        let (mut files, mut images) = (BTreeSet::new(), BTreeSet::new());
        self.walk(&mut files, &mut images);
        files.remove(path);
        images.remove(path);
        if images.is_empty() {
            return Ok(());
        }
        let full = |paths: BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
            paths.iter().map(|path| below.join(path)).collect()
        };
        let files = Files {
            going: &full(BTreeSet::from([path.to_owned()])),
            images: &full(images),
            staying: &full(files),
        };
        let none = || {
            let mut bases = Bases::new(Arc::clone(&self.cache), self.digests.clone());
            bases.follow_no_links();
            for place in self.base_places.iter().filter(|place| **place != below) {
                // one that is not there holds no base
                let _ = bases.add(place);
            }
            bases
        };
        let needed = archive::needed(&files, &none, &|| Ok(())).map_err(|e| self.fail(&e))?;
        if needed.lost.is_empty() {
            return Ok(());
        }
        let shown = |path: &PathBuf| {
            let relative = path.strip_prefix(&below).unwrap_or(path);
            format!("`{}`", self.root.shown(relative).display())
        };
        let lost: Vec<String> = needed.lost.iter().map(shown).collect();
        tracing::error!(
            "`{}` stays: {} could not be read any more, being stored as differences from it",
            self.root.shown(path).display(),
            lost.join(", ")
        );
        Err(Errno::EBUSY)
    }

    /// All files of the source, and those of them that are fine-tunes. Folders that cannot be
    /// listed hide what is in them from everybody.
    fn walk(&self, files: &mut BTreeSet<PathBuf>, images: &mut BTreeSet<PathBuf>) {
        let mut deltas = self.deltas.lock();
        let mut known = Deltas::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for name in self.root.list(&folder).unwrap_or_default() {
                let path = folder.join(&name);
                let Ok(stat) = self.root.stat(&path) else {
                    continue;
                };
                match stat.kind {
                    Kind::Folder => folders.push(path),
                    Kind::File => {
                        files.insert(path.clone());
                        if !naming::is_image_name(&name) {
                            continue;
                        }
                        let identity = stat.identity();
                        let before = deltas.get(&identity).copied();
                        let is_delta = before.unwrap_or_else(|| self.is_delta(&path));
                        known.insert(identity, is_delta);
                        if is_delta {
                            images.insert(path);
                        }
                    }
                    _ => {}
                }
            }
        }
        *deltas = known;
    }

    fn is_delta(&self, path: &Path) -> bool {
        // one that cannot be opened is no fine-tune that could lose anything
        let image = Image::open(&self.root.path_below().join(path));
        image.is_ok_and(|image| image.is_delta())
    }
}
