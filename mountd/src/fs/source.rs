//! What is mounted: a folder, or one image of it.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use bigsmall::base::Error;
use bigsmall::base::Result;
use nix::errno::Errno;

use crate::fs::catalog;
use crate::fs::catalog::EntryKind;
use crate::fs::root::Root;
use crate::fs::tree::Node;

/// An open folder, and the one image in it that is shown, if not all is.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) root: Root,
    /// Path of the folder or image, for messages and for the places of bases.
    pub(crate) path: PathBuf,
    /// Name of the image.
    pub(crate) only: Option<OsString>,
}

impl Source {
    /// Opens what is at `path`, which is absolute. A mount over it leads to nothing else.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |e| Error::io("cannot open", path, e);
        let is_folder = std::fs::metadata(path).map_err(failed)?.is_dir();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let folder = if is_folder { path } else { parent };
        Ok(Self {
            root: Root::open(folder).map_err(failed)?,
            path: path.to_owned(),
            only: path.file_name().filter(|_| !is_folder).map(Into::into),
        })
    }

    /// The node of the mount's root: the folder, or the image of one.
    pub(super) fn top(&self) -> Result<Node> {
        let failed =
            |errno: Errno| Error::io("cannot open", &self.path, std::io::Error::from(errno));
        let here = Path::new("");
        let stat = self.root.stat(here).map_err(failed)?;
        let folder = Node::root(here.to_owned(), EntryKind::Folder, stat);
        let Some(name) = &self.only else {
            return Ok(folder);
        };
        let item = catalog::at(&self.root, here, name).map_err(failed)?;
        match item.as_ref().map(|item| &item.kind) {
            Some(EntryKind::Image { .. }) => Ok(folder),
            Some(EntryKind::ImageFolder) => {
                let stat = item.map_or(stat, |item| item.stat);
                Ok(Node::root(name.into(), EntryKind::ImageFolder, stat))
            }
            Some(EntryKind::Broken(error)) => Err(error.clone()),
            _ => {
                let error = Error::invalid("is neither a folder nor an image (`.bs`)");
                Err(error.file(&self.path))
            }
        }
    }
}
