//! What a file has besides its bytes and its time: owner, permissions, access lists and extended
//! attributes, carried to another file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

/// The attribute by which an image is known that `convert` has put in the place of a file, wherever
/// it is moved.
pub const MARK: &str = "user.bigsmall.converted";
/// The attribute that says which source an image or a copy was made from.
pub const ORIGIN: &str = "user.bigsmall.origin";
/// The access list of a file.
const ACL: &str = "system.posix_acl_access";
/// Attributes that are about the very bytes of a file: on other bytes they would be wrong.
const OF_BYTES: &[&str] = &["security.ima", "security.evm"];
/// Bits beside those of `rwxrwxrwx`.
const SPECIAL: u32 = 0o7000;

/// Gives `to` the owner, permissions, access list and extended attributes of `from`; what the
/// system refuses is named. Attributes of ours, [`MARK`] and [`ORIGIN`], stay where they are.
pub fn carry(from: &Path, to: &Path) -> io::Result<Vec<String>> {
    let (of_from, of_to) = (
        std::fs::symlink_metadata(from)?,
        std::fs::symlink_metadata(to)?,
    );
    let mut refused = Vec::new();
    // first, as it takes away special bits
    if (of_from.uid(), of_from.gid()) != (of_to.uid(), of_to.gid()) {
        carry_owner(&of_from, to, &mut refused);
    }
    let owners = |metadata: &Metadata| (metadata.uid(), metadata.gid());
    let has_owner = owners(&std::fs::symlink_metadata(to)?) == owners(&of_from);
    let names = names_of(from)?;
    if !names.iter().any(|name| name == ACL) && names_of(to)?.iter().any(|name| name == ACL) {
        // one that the folder gave it
        rustix::fs::lremovexattr(to, ACL)?;
    }
    carry_mode(&of_from, to, has_owner, &mut refused)?;
    // an access list after the permissions, which would change it
    for name in names {
        if [MARK, ORIGIN].contains(&name.as_str()) || OF_BYTES.contains(&name.as_str()) {
            continue;
        }
        if let Err(error) = carry_attribute(from, to, &name) {
            refused.push(format!("`{name}` ({error})"));
        }
    }
    Ok(refused)
}

fn carry_owner(from: &Metadata, to: &Path, refused: &mut Vec<String>) {
    let (owner, group) = (Some(from.uid()), Some(from.gid()));
    // as with every copy, who may not give files away keeps them, in the group if he is in it
    let given = std::os::unix::fs::lchown(to, owner, group);
    if given.is_err() && std::os::unix::fs::lchown(to, None, group).is_err() {
        refused.push("owner and group".to_owned());
    } else if given.is_err() {
        refused.push("owner".to_owned());
    }
}

fn carry_mode(
    from: &Metadata,
    to: &Path,
    has_owner: bool,
    refused: &mut Vec<String>,
) -> io::Result<()> {
    let wanted = from.mode() & 0o7777;
    // with another owner they would let others act as him
    let wanted = if has_owner { wanted } else { wanted & !SPECIAL };
    std::fs::set_permissions(to, PermissionsExt::from_mode(wanted))?;
    let got = std::fs::symlink_metadata(to)?.mode();
    if got & SPECIAL != from.mode() & SPECIAL {
        refused.push("setuid, setgid or sticky".to_owned());
    }
    Ok(())
}

fn carry_attribute(from: &Path, to: &Path, name: &str) -> io::Result<()> {
    let value = value_of(from, name)?;
    if value_of(to, name).is_ok_and(|there| there == value) {
        return Ok(());
    }
    Ok(rustix::fs::lsetxattr(
        to,
        name,
        &value,
        XattrFlags::empty(),
    )?)
}

/// The names of a file's extended attributes; none where there are none at all. One that is no text
/// is passed over.
fn names_of(path: &Path) -> io::Result<Vec<String>> {
    let list = match read(|list| rustix::fs::llistxattr(path, list)) {
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        list => list?,
    };
    let names = list
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty());
    let names = names.filter_map(|name| OsStr::from_bytes(name).to_str());
    Ok(names.map(str::to_owned).collect())
}

/// What the names of attributes begin with that belong to users.
pub const OF_USERS: &str = "user.";
/// What the names of ours begin with, which are about one file on one disk.
const OURS: &str = "user.bigsmall.";

/// The users' attributes (`user.*`) of a file or folder, links to it followed; none of ours.
pub fn of_users(path: &Path) -> io::Result<BTreeMap<String, Vec<u8>>> {
    let path = std::fs::canonicalize(path)?;
    let mut attributes = BTreeMap::new();
    for name in names_of(&path)?
        .into_iter()
        .filter(|name| is_of_users(name))
    {
        match value_of(&path, &name) {
            Ok(value) => drop(attributes.insert(name, value)),
            // gone since it was listed
            Err(error) if error.raw_os_error() == Some(Errno::NODATA.raw_os_error()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(attributes)
}

fn is_of_users(name: &str) -> bool {
    name.starts_with(OF_USERS) && !name.starts_with(OURS)
}

/// Gives an open file or folder users' attributes, and none that are not; what the system refuses
/// is named.
pub fn give_of_users(file: &File, attributes: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let mut refused = Vec::new();
    for (name, value) in attributes.iter().filter(|(name, _)| is_of_users(name)) {
        if let Err(error) = rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()) {
            refused.push(format!("`{name}` ({})", io::Error::from(error)));
        }
    }
    refused
}

fn value_of(path: &Path, name: &str) -> io::Result<Vec<u8>> {
    Ok(read(|value| rustix::fs::lgetxattr(path, name, value))?)
}

/// Neither a list of names nor a value is longer than the kernel's bound for both.
fn read(read: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    const LEN_MAX: usize = 1 << 16;
    let mut bytes = vec![0; LEN_MAX];
    let len = read(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// Marks an image as one that `convert` has put in the place of a file. Where there are no
/// attributes, its record alone tells.
pub fn mark(image: &Path) {
    let _ = rustix::fs::lsetxattr(image, MARK, b"1", XattrFlags::empty());
}

/// Whether an image has that mark.
pub fn is_marked(image: &Path) -> bool {
    value_of(image, MARK).is_ok()
}

/// Whether it has a mark that says what it was made from.
pub fn has_origin(path: &Path) -> bool {
    value_of(path, ORIGIN).is_ok()
}

/// The permissions of a file as they are without its access list, of which they show the widest:
/// what a new file may have for which that list is not set yet.
pub fn mode_without_acl(path: &Path, mode: u32) -> u32 {
    /// The entry of the owning group.
    const GROUP: u16 = 4;
    const HEADER_LEN: usize = 4;
    const ENTRY_LEN: usize = 8;
    let Ok(acl) = value_of(path, ACL) else {
        return mode;
    };
    let entries = acl.get(HEADER_LEN..).unwrap_or_default();
    let entries = entries.as_chunks::<ENTRY_LEN>().0.iter();
    let mut group = entries
        .filter(|entry| u16::from_le_bytes([entry[0], entry[1]]) == GROUP)
        .map(|entry| u32::from(u16::from_le_bytes([entry[2], entry[3]])));
    let group = group.next_back().unwrap_or(0) & 0o7;
    mode & !0o070 | mode & (group << 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An access list: owner rw, user 1 rw, group nothing, mask rw, others nothing.
    const LIST: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 6, 1),
        (4, 0, u32::MAX),
        (16, 6, u32::MAX),
        (32, 0, u32::MAX),
    ];

    fn list() -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in LIST {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_a_file_has_besides_its_bytes_is_carried() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for path in [&from, &to] {
            File::create(path).unwrap();
        }
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o2640)).unwrap();
        mark(&to);
        let set = |name: &str, value: &[u8]| {
            rustix::fs::lsetxattr(&from, name, value, XattrFlags::empty()).is_ok()
        };
        // some file systems have neither
        let has_attributes = set("user.origin", b"here");
        let has_acl = set(ACL, &list());
        assert_eq!(carry(&from, &to).unwrap(), Vec::<String>::new());
        assert_eq!(is_marked(&to), has_attributes);
        assert_eq!(value_of(&to, "user.origin").is_ok(), has_attributes);
        assert_eq!(value_of(&to, ACL).is_ok(), has_acl);
        let mode = std::fs::metadata(&from).unwrap().mode();
        assert_eq!(std::fs::metadata(&to).unwrap().mode(), mode);
        if has_acl {
            assert_eq!(mode & 0o7777, 0o2660);
            assert_eq!(mode_without_acl(&from, mode) & 0o777, 0o600);
            rustix::fs::lremovexattr(&from, ACL).unwrap();
            carry(&from, &to).unwrap();
            assert!(value_of(&to, ACL).is_err());
        }
        assert_eq!(carry(&to, &from).unwrap(), Vec::<String>::new());
        assert!(!is_marked(&from));
    }

    #[test]
    fn nothing_is_given_but_what_belongs_to_users() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = File::create(&path).unwrap();
        let mut hostile = BTreeMap::new();
        for name in [
            "user.good",
            MARK,
            ORIGIN,
            "trusted.x",
            "security.capability",
            "x",
        ] {
            hostile.insert(name.to_owned(), b"1".to_vec());
        }
        let refused = give_of_users(&file, &hostile);
        let has_attributes = refused.is_empty();
        let names = names_of(&path).unwrap();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let given = names.iter().filter(|name| hostile.contains_key(**name));
        let expected: &[&&str] = if has_attributes { &[&"user.good"] } else { &[] };
        assert_eq!(given.collect::<Vec<_>>(), expected);
        // what does not fit is named
        let large = BTreeMap::from([("user.large".to_owned(), vec![0; 1 << 17])]);
        let refused = give_of_users(&file, &large);
        assert!(refused.iter().all(|what| what.contains("`user.large`")));
        assert_eq!(refused.len(), 1);
    }
}
