//! Where the Hugging Face cache is.

use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;

/// The folder that was named, or that of the cache.
pub fn folder_or(named: Option<&Path>) -> Result<PathBuf> {
    named.map_or_else(folder, |named| Ok(named.to_owned()))
}

/// The folder of downloaded models, as `huggingface_hub` finds it: `HF_HUB_CACHE`, `HF_HOME`/hub,
/// `XDG_CACHE_HOME`/huggingface/hub, ~/.cache/huggingface/hub.
pub fn folder() -> Result<PathBuf> {
    let named = |name| {
        let path = std::env::var_os(name).filter(|path| !path.is_empty());
        path.map(PathBuf::from)
    };
    let folder = named("HF_HUB_CACHE")
        .or_else(|| Some(named("HF_HOME")?.join("hub")))
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(named("HOME")?.join(".cache/huggingface/hub")));
    let folder = folder.filter(|folder| folder.is_dir());
    folder.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "there is no Hugging Face cache here")
            .hint("name its folder, or set HF_HUB_CACHE or HF_HOME")
    })
}

/// The root of the cache that `folder` is or lies in.
pub fn root_of(folder: &Path) -> Option<PathBuf> {
    let repository = folder.ancestors().find(|above| is_repository(above));
    if let Some(root) = repository.and_then(Path::parent) {
        return Some(root.to_owned());
    }
    let mut entries = std::fs::read_dir(folder).ok()?.flatten();
    let is_root = entries.any(|entry| is_repository(&entry.path()));
    is_root.then(|| folder.to_owned())
}

/// Whether a folder is that of one model, data set or space in a cache.
pub fn is_repository(folder: &Path) -> bool {
    let name = folder.file_name().unwrap_or_default().as_encoded_bytes();
    let kinds: [&[u8]; 3] = [b"models--", b"datasets--", b"spaces--"];
    kinds.iter().any(|kind| name.starts_with(kind))
        && ["blobs", "snapshots"]
            .iter()
            .any(|part| folder.join(part).is_dir())
}
