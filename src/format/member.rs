//! What a folder holds beside the bytes of its files: folders, links, permissions, times
//! (docs/format.md, section 4.6).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::Limits;
use crate::base::Result;
use crate::base::error::escaped;
use crate::format::file::FileRecord;
use crate::format::file::path_is_valid;

/// Bits of a mode that are stored.
pub(crate) const MODE_BITS: u32 = 0o7777;
/// Longest target of a link; Linux has no longer ones.
pub(crate) const TARGET_LEN_MAX: usize = 4095;
/// What the names of stored attributes begin with: those that belong to users.
pub(crate) const ATTRIBUTE_PREFIX: &str = "user.";
const ATTRIBUTE_NAME_LEN_MAX: usize = 255;
const ATTRIBUTE_LEN_MAX: u32 = 64 << 10;
/// Names of all attributes of one member, each with a zero behind it; Linux lists no more.
const ATTRIBUTE_NAMES_LEN_MAX: usize = 64 << 10;
const NANOSECONDS: u32 = 1_000_000_000;

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberKind {
    /// A file.
    File {
        /// The earlier path of the same file, if this is another name of it.
        first: Option<String>,
    },
    /// A folder.
    Folder,
    /// A symbolic link.
    Link {
        /// Where it leads, as it was written.
        target: String,
    },
}

/// A point in time, as disks have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds since 1970, rounded down.
    pub seconds: i64,
    /// What is left, below 1,000,000,000.
    pub nanoseconds: u32,
}

impl Time {
    /// The same as the standard library has it; one that is beyond that is the beginning of time.
    pub fn system(self) -> SystemTime {
        let seconds = Duration::from_secs(self.seconds.unsigned_abs());
        let whole = if self.seconds < 0 {
            SystemTime::UNIX_EPOCH.checked_sub(seconds)
        } else {
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        let rest = Duration::from_nanos(u64::from(self.nanoseconds));
        let time = whole.and_then(|whole| whole.checked_add(rest));
        time.unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// One thing in a folder, or the folder itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Path within the folder; empty for the folder itself.
    pub path: String,
    /// What it is.
    pub kind: MemberKind,
    /// Permissions, with the bits for setuid, setgid and sticky.
    pub mode: u32,
    /// Number of its owner.
    pub uid: u32,
    /// Number of its group.
    pub gid: u32,
    /// When its content changed last.
    pub modified: Time,
    /// Names and values of its users' attributes, by name.
    pub attributes: BTreeMap<String, Vec<u8>>,
}

impl Member {
    /// Whether it stays within the folder, as all does but some links.
    pub fn stays_within(&self) -> bool {
        match &self.kind {
            MemberKind::Link { target } => stays_within(&self.path, target),
            MemberKind::File { .. } | MemberKind::Folder => true,
        }
    }
}

/// Whether `target` may stand in a link.
pub(crate) fn target_is_valid(target: &str) -> bool {
    (1..=TARGET_LEN_MAX).contains(&target.len()) && !target.contains('\0')
}

/// Whether a link at `path` with this target stays within the folder wherever it stands. Its target
/// may go up as far as the folder only, and only at its beginning: what follows is names, and the
/// links among them stay within as well.
fn stays_within(path: &str, target: &str) -> bool {
    if target.starts_with('/') {
        return false;
    }
    let mut up = path.matches('/').count();
    let mut went_down = false;
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if went_down || up == 0 => return false,
            ".." => up = up.saturating_sub(1),
            _ => went_down = true,
        }
    }
    true
}

/// The payload of the section.
pub(super) fn encode(members: &[Member]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let (kind, target) = match &member.kind {
            MemberKind::File { first } => (0, first.as_deref().unwrap_or_default()),
            MemberKind::Folder => (1, ""),
            MemberKind::Link { target } => (2, target.as_str()),
        };
        out.extend_from_slice(&[kind, 0]);
        out.extend_from_slice(&((member.mode & MODE_BITS) as u16).to_le_bytes());
        out.extend_from_slice(&(member.path.len() as u16).to_le_bytes());
        out.extend_from_slice(&(target.len() as u16).to_le_bytes());
        for number in [
            member.attributes.len() as u32,
            member.uid,
            member.gid,
            member.modified.nanoseconds,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&member.modified.seconds.to_le_bytes());
        out.extend_from_slice(member.path.as_bytes());
        out.extend_from_slice(target.as_bytes());
        for (name, value) in &member.attributes {
            out.extend_from_slice(&(name.len() as u16).to_le_bytes());
            out.extend_from_slice(&[0; 2]);
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value);
        }
    }
    out
}

/// Reads the payload and compares it with the files of the image.
pub(super) fn parse(reader: &mut ByteReader<'_>, files: &[FileRecord]) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    while !reader.is_empty() {
        if members.len() >= Limits::FORMAT_1.member_count_max as usize {
            let most = Limits::FORMAT_1.member_count_max;
            return Err(Error::over_limit(format!("more than {most} members")));
        }
        members.push(parse_member(reader)?);
    }
    check(&members, files)?;
    Ok(members)
}

fn parse_member(reader: &mut ByteReader<'_>) -> Result<Member> {
    let kind = reader.u8()?;
    reader.take(1)?;
    let mode = u32::from(reader.u16()?);
    let (path_len, target_len) = (reader.u16()?, reader.u16()?);
    let attribute_count = reader.u32()?;
    let (uid, gid, nanoseconds) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let seconds = reader.u64()?.cast_signed();
    let path = reader.text(usize::from(path_len))?;
    let target = reader.text(usize::from(target_len))?;
    let wrong = |what: &str| {
        let path = escaped(&path);
        Err(Error::damaged(format!(
            "the member `{path}` of the image {what}"
        )))
    };
    let kind = match kind {
        0 => MemberKind::File {
            first: Some(target).filter(|first| !first.is_empty()),
        },
        1 if target.is_empty() => MemberKind::Folder,
        2 if target_is_valid(&target) => MemberKind::Link { target },
        1 | 2 => return wrong("leads where nothing can"),
        _ => return wrong("is of unknown kind"),
    };
    if !path.is_empty() && !path_is_valid(&path) {
        return wrong("has no relative path");
    }
    if mode & !MODE_BITS != 0 || nanoseconds >= NANOSECONDS {
        return wrong("has no mode or no time");
    }
    let Some(attributes) = parse_attributes(reader, attribute_count)? else {
        return wrong("has attributes that cannot be");
    };
    Ok(Member {
        path,
        kind,
        mode,
        uid,
        gid,
        modified: Time {
            seconds,
            nanoseconds,
        },
        attributes,
    })
}

/// Nothing if a name or a length cannot be.
fn parse_attributes(
    reader: &mut ByteReader<'_>,
    count: u32,
) -> Result<Option<BTreeMap<String, Vec<u8>>>> {
    let mut attributes = BTreeMap::new();
    let mut names_len = 0_usize;
    for _ in 0..count {
        let name_len = reader.u16()?;
        reader.take(2)?;
        let len = reader.u32()?;
        let name = reader.text(usize::from(name_len))?;
        let is_later = attributes
            .last_key_value()
            .is_none_or(|(last, _)| *last < name);
        names_len = names_len.saturating_add(name.len()).saturating_add(1);
        let is_few = names_len <= ATTRIBUTE_NAMES_LEN_MAX;
        if !attribute_is_valid(&name, len) || !is_later || !is_few {
            return Ok(None);
        }
        let value = reader.take(len as usize)?.to_vec();
        attributes.insert(name, value);
    }
    Ok(Some(attributes))
}

/// Whether an attribute of this name and of so many bytes can be stored.
pub(crate) fn attribute_is_valid(name: &str, len: u32) -> bool {
    let has_rest = name.len() > ATTRIBUTE_PREFIX.len() && name.starts_with(ATTRIBUTE_PREFIX);
    has_rest
        && name.len() <= ATTRIBUTE_NAME_LEN_MAX
        && !name.contains('\0')
        && len <= ATTRIBUTE_LEN_MAX
}

/// The folder itself comes first, every member after the folder that it is in, and the files are
/// those of the image.
fn check(members: &[Member], files: &[FileRecord]) -> Result<()> {
    let wrong = |member: &Member, what: &str| {
        let path = escaped(&member.path);
        Error::damaged(format!("the member `{path}` of the image {what}"))
    };
    let mut before: BTreeMap<&str, &Member> = BTreeMap::new();
    let mut rest = files.iter();
    for member in members {
        let path = member.path.as_str();
        let is_folder = member.kind == MemberKind::Folder;
        let last = before.last_key_value();
        if last.is_some_and(|(last, _)| *last >= path) || path.is_empty() && !is_folder {
            return Err(wrong(member, "is out of order or repeated"));
        }
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        let is_below_folder = before
            .get(parent)
            .is_some_and(|parent| parent.kind == MemberKind::Folder);
        if !path.is_empty() && !is_below_folder {
            return Err(wrong(member, "is in no folder of it"));
        }
        if let MemberKind::File { first } = &member.kind {
            let file = rest.next().filter(|file| file.path == path);
            let file = file.ok_or_else(|| wrong(member, "is no file of it"))?;
            let of_first = first.as_deref().and_then(|first| before.get(first));
            let is_name = of_first
                .is_some_and(|first| matches!(first.kind, MemberKind::File { first: None }));
            let content = |file: &FileRecord| (file.len, file.sha256);
            let same = first.as_deref().and_then(|first| find_file(files, first));
            let is_same = same.is_some_and(|same| content(same) == content(file));
            if first.is_some() && !(is_name && is_same) {
                return Err(wrong(member, "is another name of another file"));
            }
        }
        before.insert(path, member);
    }
    match rest.next() {
        Some(file) => Err(Error::damaged(format!(
            "the file `{}` is no member of the image",
            escaped(&file.path)
        ))),
        None if members.is_empty() => Err(Error::damaged("an image of a folder without it")),
        None => Ok(()),
    }
}

fn find_file<'a>(files: &'a [FileRecord], path: &str) -> Option<&'a FileRecord> {
    let number = files.partition_point(|file| file.path.as_str() < path);
    files.get(number).filter(|file| file.path == path)
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn links_that_can_lead_out_are_told_from_those_that_cannot() {
        for (path, target, stays) in [
            ("snapshots/r/m", "../../blobs/x", true),
            ("a", "b", true),
            ("a", "./b/./c/", true),
            ("a", ".", true),
            ("a/b", "..", true),
            ("a", "..", false),
            ("a", "../x", false),
            ("a/b", "../../x", false),
            ("a", "/etc/passwd", false),
            // `d` may be a link to `.`
            ("a", "d/../../x", false),
            ("a", "d/..", false),
            ("a", "", true),
        ] {
            assert_eq!(stays_within(path, target), stays, "{path} -> {target}");
        }
    }

    #[test]
    fn times_before_1970_and_beyond_all_bounds() {
        let time = |seconds, nanoseconds| {
            Time {
                seconds,
                nanoseconds,
            }
            .system()
        };
        let half = Duration::from_millis(500);
        assert_eq!(
            time(-1, 500_000_000),
            SystemTime::UNIX_EPOCH.checked_sub(half).unwrap()
        );
        assert_eq!(
            time(1, 500_000_000),
            SystemTime::UNIX_EPOCH + Duration::from_millis(1500)
        );
        time(i64::MIN, 0);
        time(i64::MAX, 999_999_999);
    }

    fn file(path: &str, sha256: u8) -> FileRecord {
        FileRecord {
            path: path.to_owned(),
            is_safetensors: false,
            len: 3,
            spans: 0..0,
            sha256: [sha256; 32],
        }
    }

    fn member(path: &str, kind: MemberKind) -> Member {
        Member {
            path: path.to_owned(),
            kind,
            mode: 0o644,
            uid: 1000,
            gid: 1000,
            modified: Time {
                seconds: -1,
                nanoseconds: 7,
            },
            attributes: BTreeMap::from([("user.x".to_owned(), vec![0, 255])]),
        }
    }

    fn link(target: &str) -> MemberKind {
        let target = target.to_owned();
        MemberKind::Link { target }
    }

    fn named(first: &str) -> MemberKind {
        let first = Some(first.to_owned());
        MemberKind::File { first }
    }

    const FILE: MemberKind = MemberKind::File { first: None };

    /// A folder with `a`, `b/` with `c` and another name of `a`, and the link `l`.
    fn whole() -> (Vec<Member>, Vec<FileRecord>) {
        let members = vec![
            member("", MemberKind::Folder),
            member("a", FILE),
            member("b", MemberKind::Folder),
            member("b/c", FILE),
            member("b/d", named("a")),
            member("l", link("b/c")),
        ];
        (members, vec![file("a", 1), file("b/c", 2), file("b/d", 1)])
    }

    fn read(members: &[Member], files: &[FileRecord]) -> Result<Vec<Member>> {
        parse(
            &mut ByteReader::new(&encode(members), "list of members"),
            files,
        )
    }

    #[test]
    fn members_come_back() {
        let (members, files) = whole();
        assert_eq!(read(&members, &files).unwrap(), members);
    }

    #[test]
    fn members_that_contradict_themselves_or_the_files_are_refused() {
        let refused = |what: &str, change: &dyn Fn(&mut Vec<Member>, &mut Vec<FileRecord>)| {
            let (mut members, mut files) = whole();
            change(&mut members, &mut files);
            let error = read(&members, &files).map(|_| ()).expect_err(what);
            assert_eq!(error.kind(), crate::base::ErrorKind::Damaged, "{what}");
        };
        refused("nothing", &|members, _| members.clear());
        refused("no folder", &|members, _| drop(members.remove(0)));
        refused("a file is no member", &|members, _| drop(members.remove(1)));
        refused("a member is no file", &|_, files| drop(files.remove(1)));
        refused("a folder is missing", &|members, _| drop(members.remove(2)));
        refused("below a link", &|members, _| members[2].kind = link("x"));
        refused("repeated", &|members, _| members[5] = members[4].clone());
        refused("out of order", &|members, _| members.swap(3, 4));
        refused("another content", &|_, files| files[2].sha256 = [2; 32]);
        refused("name of a name", &|members, _| {
            members[1].kind = named("b/d");
        });
        refused("name of a link", &|members, _| members[4].kind = named("l"));
        refused("up", &|members, _| members[5].path = "m/../x".to_owned());
        refused("absolute", &|members, _| members[0].path = "/".to_owned());
        refused("no target", &|members, _| members[5].kind = link(""));
        refused("NUL", &|members, _| members[5].kind = link("a\0"));
        refused("long", &|members, _| {
            members[5].kind = link(&"x".repeat(4096));
        });
        refused("nanoseconds", &|members, _| {
            members[1].modified.nanoseconds = 1_000_000_000;
        });
        for name in ["user.", "security.capability", "trusted.x", "user.\0"] {
            refused(name, &|members, _| {
                members[1].attributes = BTreeMap::from([(name.to_owned(), vec![])]);
            });
        }
        refused("too many attributes", &|members, _| {
            let name = |number: usize| (format!("user.{number:0245}"), vec![]);
            members[1].attributes = (0..262).map(name).collect();
        });
        refused("too long an attribute", &|members, _| {
            members[1].attributes = BTreeMap::from([("user.x".to_owned(), vec![0; 65_537])]);
        });
        let (members, files) = whole();
        let bytes = encode(&members);
        for len in 0..bytes.len() {
            let cut = &bytes[..len];
            let read = parse(&mut ByteReader::new(cut, "list"), &files);
            // between two records it is a list, too, of fewer: how long it is says its section
            let is_fewer = |read: Vec<Member>| read.len() < members.len();
            assert!(read.map_or(true, is_fewer), "{len}");
        }
    }
}
