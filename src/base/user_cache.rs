//! Where this user's caches are.

use std::path::PathBuf;

/// `bigsmall` in the user's cache folder (`XDG_CACHE_HOME`, else `.cache` at home); it need not
/// exist. None if neither is known.
pub(crate) fn user_cache_folder() -> Option<PathBuf> {
    let named = |name| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let cache = named("XDG_CACHE_HOME").or_else(|| Some(named("HOME")?.join(".cache")))?;
    Some(cache.join("bigsmall"))
}
