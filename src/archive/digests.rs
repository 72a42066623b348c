//! Digests of tensors that were taken before, kept in the user's cache folder: a search for a base
//! among a thousand files reads none of them twice. What is kept of a file counts only while the
//! disk says that it is still that file.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::ReadAt;
use crate::base::digest;
use crate::base::identity::Identity;
use crate::base::user_cache::user_cache_folder;

/// Which tensor of a file: the number of the original file in an image, and where it begins there.
pub(super) type TensorKey = (usize, u64);

/// A file that was changed less than this ago may be changed again without another time: what is
/// known of it is not kept.
const SETTLED_AGE: Duration = Duration::from_secs(2);
/// Longer pages are none of ours: that of a file of a hundred thousand tensors is shorter.
const PAGE_LEN_MAX: usize = 64 << 20;
const SCHEMA: &str = "bigsmall.digests/1";

/// What is kept of one file.
#[derive(Debug, Serialize, Deserialize)]
struct Page {
    schema: String,
    /// What it was called, for a person who looks.
    path: String,
    identity: Identity,
    /// File, start and BLAKE3-256 in hexadecimal.
    tensors: Vec<(usize, u64, String)>,
}

/// The folder of all pages, one for each file.
#[derive(Debug, Clone)]
pub struct DigestIndex {
    folder: PathBuf,
}

impl DigestIndex {
    /// The index in `folder`, which need not exist.
    pub fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// That of the user, in `bigsmall/digests` of the cache folder; none if there is no such
    /// folder.
    pub fn of_user() -> Option<Self> {
        Some(Self::new(&user_cache_folder()?.join("digests")))
    }

    /// Where the pages are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// By what does not change with the file's name.
    fn page(&self, identity: &Identity) -> PathBuf {
        let [device, inode] = identity.device_and_inode();
        self.folder.join(format!("{device:x}-{inode:x}.json"))
    }

    /// What is known of the file of this identity.
    pub(super) fn read(&self, identity: &Identity) -> BTreeMap<TensorKey, [u8; 32]> {
        self.try_read(identity).unwrap_or_default()
    }

    fn try_read(&self, identity: &Identity) -> Option<BTreeMap<TensorKey, [u8; 32]>> {
        // whatever lies there, it neither blocks nor fills the memory
        let file = FileSource::open(&self.page(identity)).ok()?;
        let mut page = vec![
            0;
            usize::try_from(file.len())
                .ok()
                .filter(|len| *len <= PAGE_LEN_MAX)?
        ];
        file.read_exact_at(0, &mut page).ok()?;
        let page: Page = serde_json::from_slice(&page).ok()?;
        if page.schema != SCHEMA || page.identity != *identity {
            return None;
        }
        let tensors = page.tensors.into_iter();
        tensors
            .map(|(file, start, hex)| Some(((file, start), digest::from_hex(&hex)?)))
            .collect()
    }

    /// Keeps what is known of the file at `path`. Nothing depends on it: a folder that cannot be
    /// written to costs time only.
    pub(super) fn write(
        &self,
        path: &Path,
        identity: &Identity,
        known: &BTreeMap<TensorKey, [u8; 32]>,
    ) {
        let is_settled = SystemTime::now()
            .duration_since(identity.changed())
            .is_ok_and(|age| age > SETTLED_AGE);
        if !is_settled {
            return;
        }
        let page = self.page(identity);
        let tensors = known.iter();
        let content = Page {
            schema: SCHEMA.to_owned(),
            path: path.to_string_lossy().into_owned(),
            identity: *identity,
            tensors: tensors
                .map(|(&(file, start), blake3)| (file, start, digest::hex(blake3)))
                .collect(),
        };
        let written = std::fs::create_dir_all(&self.folder).is_ok()
            && serde_json::to_vec(&content).is_ok_and(|bytes| {
                OutputFile::create(&page, true).is_ok_and(|mut output| {
                    output.file().write_all(&bytes).is_ok() && output.commit(None, None).is_ok()
                })
            });
        if !written {
            tracing::debug!(
                "digests are not kept: `{}` cannot be written",
                page.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_of_another_content_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let write = |bytes: &[u8], age: u64| {
            let mut file = std::fs::File::create(&path).unwrap();
            file.write_all(bytes).unwrap();
            let then = SystemTime::now() - Duration::from_secs(age);
            file.set_modified(then).unwrap();
            FileSource::open(&path).unwrap().on_disk()
        };
        let index = DigestIndex::new(&folder.path().join("digests"));
        let known = BTreeMap::from([((0, 8), [7; 32]), ((1, 9), [8; 32])]);
        // just written: what is seen now may not be what is there a moment later
        let identity = write(b"one", 0);
        index.write(&path, &identity, &known);
        assert!(index.read(&identity).is_empty());
        let identity = identity.aged(SETTLED_AGE * 2);
        index.write(&path, &identity, &known);
        assert_eq!(index.read(&identity), known);
        let other = write(b"two", 0);
        assert!(index.read(&other).is_empty());
        for page in std::fs::read_dir(folder.path().join("digests")).unwrap() {
            std::fs::File::create(page.unwrap().path()).unwrap();
        }
        assert!(index.read(&identity).is_empty());
        let page = index.page(&identity);
        std::fs::remove_file(&page).unwrap();
        nix::unistd::mkfifo(&page, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(index.read(&identity).is_empty());
    }
}
