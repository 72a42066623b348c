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

/// The folder of downloaded models, as `huggingface_hub` finds it: `HF_HUB_CACHE`, `HF_HOME`/hub, `XDG_CACHE_HOME`/huggingface/hub,
/// ~/.cache/huggingface/hub.
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
