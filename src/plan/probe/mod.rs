//! Probes: they look at the machine, or measure it. One that fails gives the reason, and never a
//! figure in place of one; an error is only that somebody wants it to stop.

mod arena;
pub mod disk;
pub mod gpu;
mod kernels;
pub mod memory;
pub mod pace;
pub mod processor;
mod weights;

use std::fs;
use std::path::Path;
use std::path::PathBuf;

pub use kernels::rates;

/// Where probes look: tests have folders of their own for it.
#[derive(Debug, Clone)]
pub struct System {
    /// What `/proc`, `/sys`, `/dev` and so on are in.
    root: PathBuf,
    /// Where a linker looks for libraries before anything else.
    linker_folders: Vec<PathBuf>,
}

impl System {
    /// This machine.
    pub fn here() -> Self {
        let folders = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let folders = std::env::split_paths(&folders).filter(|folder| folder.is_absolute());
        Self {
            root: PathBuf::from("/"),
            linker_folders: folders.collect(),
        }
    }

    /// What lies in a folder, as if it were a machine.
    pub fn within(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            linker_folders: Vec::new(),
        }
    }

    /// `path`, which begins at no root.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// The text of a file; none if there is none.
    fn text(&self, path: &str) -> Option<String> {
        text_of(&self.path(path))
    }
}

/// The text of a file of the kernel's; none if there is none.
fn text_of(path: &Path) -> Option<String> {
    String::from_utf8(fs::read(path).ok()?).ok()
}

/// The names in a folder, sorted; none if there is no folder.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Writes a file of a machine that is a folder.
#[cfg(test)]
fn put(root: &Path, path: &str, bytes: impl AsRef<[u8]>) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes.as_ref()).unwrap();
}
