//! The small files beside a model: read within a limit, and never trusted.

use std::io;
use std::io::Read as _;
use std::path::Path;

use serde::de::DeserializeOwned;

use crate::base::Error;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::file::open_regular;

/// All bytes of a file; `None` where there is none.
///
/// # Errors
/// A file of more than `len_max` bytes, and what the system says.
pub(crate) fn read(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>> {
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
        let what = format!("longer than {len_max} bytes, which no such file needs");
        return Err(Error::over_limit(what).file(path));
    }
    Ok(Some(bytes))
}

/// The same as text.
pub(crate) fn read_text(path: &Path, len_max: u64) -> Result<Option<String>> {
    let Some(bytes) = read(path, len_max)? else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes);
    text.map(Some)
        .map_err(|e| Error::damaged(format!("not UTF-8: {e}")).file(path))
}

/// The same as JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, len_max: u64) -> Result<Option<T>> {
    let Some(bytes) = read(path, len_max)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|e| Error::damaged(escaped(&e.to_string())).file(path))
}
