//! Where the Hugging Face cache is.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;

/// The folder that was named, or that of the cache.
pub fn folder_or(named: Option<&Path>) -> Result<PathBuf> {
    named.map_or_else(folder, |named| Ok(named.to_owned()))
}

/// The folder of downloaded models; an error if there is none.
pub fn folder() -> Result<PathBuf> {
    let folder = path()?;
    let is_missing = match fs::metadata(&folder) {
        Ok(metadata) => !metadata.is_dir(),
        // what else is wrong with it, such as a mount whose daemon died, is seen by who uses it
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if is_missing {
        return Err(none().file(&folder));
    }
    Ok(folder)
}

/// Where that folder is, there or not; nothing is asked of the disk.
pub fn path() -> Result<PathBuf> {
    path_by(|name| std::env::var_os(name)).ok_or_else(none)
}

fn none() -> Error {
    Error::new(ErrorKind::NotFound, "there is no Hugging Face cache here")
        .hint("name its folder, or set HF_HUB_CACHE or HF_HOME")
}

/// As `huggingface_hub` finds it: `HF_HUB_CACHE` (once `HUGGINGFACE_HUB_CACHE`), `HF_HOME`/hub,
/// `XDG_CACHE_HOME`/huggingface/hub, ~/.cache/huggingface/hub.
fn path_by(variable: impl Fn(&OsStr) -> Option<OsString>) -> Option<PathBuf> {
    let named = |name: &str| {
        let path = variable(OsStr::new(name)).filter(|path| !path.is_empty())?;
        Some(expanded(&path, &variable))
    };
    named("HF_HUB_CACHE")
        .or_else(|| named("HUGGINGFACE_HUB_CACHE"))
        .or_else(|| Some(named("HF_HOME")?.join("hub")))
        .or_else(|| Some(named("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(named("HOME")?.join(".cache/huggingface/hub")))
}

/// A path in which `~` at the front and `$NAME` or `${NAME}` are what they stand for; a name that
/// stands for nothing stays.
fn expanded(path: &OsStr, variable: impl Fn(&OsStr) -> Option<OsString>) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = path.as_bytes();
    if let Some(after) = rest.strip_prefix(b"~")
        && (after.is_empty() || after.starts_with(b"/"))
        && let Some(home) = variable(OsStr::new("HOME"))
    {
        out.extend_from_slice(home.as_bytes());
        rest = after;
    }
    while let Some((&first, after)) = rest.split_first() {
        if first == b'$'
            && let Some((name, behind)) = variable_name(after)
            && let Some(value) = variable(OsStr::from_bytes(name))
        {
            out.extend_from_slice(value.as_bytes());
            rest = behind;
            continue;
        }
        out.push(first);
        rest = after;
    }
    OsString::from_vec(out).into()
}

/// The name of a variable that the text after a `$` begins with, and what stands behind it.
fn variable_name(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let is_not_of_name = |b: &u8| !b.is_ascii_alphanumeric() && *b != b'_';
    let (name, behind) = if let Some(braced) = text.strip_prefix(b"{") {
        let end = braced.iter().position(|b| *b == b'}')?;
        (&braced[..end], &braced[end + 1..])
    } else {
        let end = text.iter().position(is_not_of_name);
        text.split_at(end.unwrap_or(text.len()))
    };
    (!name.is_empty()).then_some((name, behind))
}

/// The root of the cache that `folder` is or lies in.
pub fn root_of(folder: &Path) -> Option<PathBuf> {
    let repository = folder.ancestors().find(|above| is_repository(above));
    if let Some(root) = repository.and_then(Path::parent) {
        return Some(root.to_owned());
    }
    let mut entries = fs::read_dir(folder).ok()?.flatten();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Option<PathBuf> {
        path_by(|name| {
            let mut all = variables.iter();
            all.find(|(known, _)| name == *known)
                .map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn the_cache_is_where_the_variables_of_the_client_say() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("HF_HOME", "/c"),
            ("XDG_CACHE_HOME", "/d"),
            ("HOME", "/e"),
        ];
        let expected = [
            "/a",
            "/b",
            "/c/hub",
            "/d/huggingface/hub",
            "/e/.cache/huggingface/hub",
        ];
        for (at, path) in expected.iter().enumerate() {
            assert_eq!(found(&all[at..]), Some(path.into()));
        }
        assert_eq!(found(&[]), None);
        let empty = [("HF_HUB_CACHE", ""), ("HF_HOME", "/c")];
        assert_eq!(found(&empty), Some("/c/hub".into()));
    }

    #[test]
    fn homes_and_variables_in_them_are_what_they_stand_for() {
        for (given, path) in [
            ("~/x", "/home/x"),
            ("~", "/home"),
            ("~other/x", "~other/x"),
            ("/a/~", "/a/~"),
            ("$DISK/x", "/disk/x"),
            ("/a/${DISK}x$", "/a//diskx$"),
            ("$DISKx/$", "$DISKx/$"),
            ("${DISK", "${DISK"),
            ("${}", "${}"),
        ] {
            let variables = [
                ("HF_HUB_CACHE", given),
                ("HOME", "/home"),
                ("DISK", "/disk"),
            ];
            assert_eq!(found(&variables), Some(path.into()), "{given}");
        }
    }
}
