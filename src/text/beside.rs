//! The small files beside a model, or with it in an image: read within a limit, and never trusted.

use std::io;
use std::io::Read as _;
use std::path::Path;
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use crate::base::Error;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::file::open_regular;

/// Where the small files of a model are.
pub trait ModelFolder {
    /// All bytes of a file; `None` where there is none.
    ///
    /// # Errors
    /// A file of more than `len_max` bytes, and what the system says.
    fn read(&self, name: &str, len_max: u64) -> Result<Option<Vec<u8>>>;

    /// What a file is called in messages.
    fn path_of(&self, name: &str) -> PathBuf;
}

impl ModelFolder for Path {
    fn read(&self, name: &str, len_max: u64) -> Result<Option<Vec<u8>>> {
        let path = &self.join(name);
        let file = match open_regular(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("cannot be opened", path, e)),
        };
        let mut bytes = Vec::new();
        // one more, as the file may grow meanwhile
        file.take(len_max + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::io("cannot be read", path, e))?;
        if bytes.len() as u64 > len_max {
            return Err(too_long(len_max).file(path));
        }
        Ok(Some(bytes))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.join(name)
    }
}

impl ModelFolder for PathBuf {
    fn read(&self, name: &str, len_max: u64) -> Result<Option<Vec<u8>>> {
        self.as_path().read(name, len_max)
    }

    fn path_of(&self, name: &str) -> PathBuf {
        self.join(name)
    }
}

/// The error of a file that is longer than any such is.
pub(crate) fn too_long(len_max: u64) -> Error {
    Error::over_limit(format!(
        "longer than {len_max} bytes, which no such file needs"
    ))
}

/// A file as text.
pub(crate) fn read_text(
    folder: &(impl ModelFolder + ?Sized),
    name: &str,
    len_max: u64,
) -> Result<Option<String>> {
    let Some(bytes) = folder.read(name, len_max)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|e| Error::damaged(format!("not UTF-8: {e}")).file(&folder.path_of(name)))
}

/// The same as JSON.
pub(crate) fn read_json<T: DeserializeOwned>(
    folder: &(impl ModelFolder + ?Sized),
    name: &str,
    len_max: u64,
) -> Result<Option<T>> {
    let Some(bytes) = folder.read(name, len_max)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::damaged(escaped(&e.to_string())).file(&folder.path_of(name)))
}
