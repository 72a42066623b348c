//! Requests, as they are read from the device. The kernel writes them; still nothing here trusts a
//! length.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::node::Changes;
use crate::node::SetTime;
use crate::node::Time;

/// Length of what every request begins with.
pub(crate) const HEADER_LEN: usize = 40;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request<'a> {
    /// Its number, which the reply repeats.
    pub(crate) unique: u64,
    /// The inode that it is about.
    pub(crate) node: u64,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) operation: Operation<'a>,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation<'a> {
    Init {
        major: u32,
        minor: u32,
        readahead_max: u32,
        features: u64,
    },
    Destroy,
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        times: u64,
    },
    /// Inodes, and how many times each is forgotten.
    BatchForget(Vec<(u64, u64)>),
    GetAttr {
        handle: Option<u64>,
    },
    SetAttr {
        handle: Option<u64>,
        changes: Changes,
    },
    ReadLink,
    Symlink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    MkNod {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    MkDir {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    RmDir {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        new_parent: u64,
        new_name: &'a OsStr,
        flags: u32,
    },
    Link {
        node: u64,
        name: &'a OsStr,
    },
    Open {
        flags: i32,
    },
    Create {
        name: &'a OsStr,
        flags: i32,
        mode: u32,
        umask: u32,
    },
    Read {
        handle: u64,
        offset: u64,
        size: u32,
    },
    Write {
        handle: u64,
        offset: u64,
        data: &'a [u8],
    },
    Fsync {
        handle: u64,
        data_only: bool,
    },
    Fallocate {
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    },
    Release {
        handle: u64,
    },
    OpenDir,
    ReadDir {
        handle: u64,
        offset: u64,
        size: u32,
        with_attributes: bool,
    },
    ReleaseDir {
        handle: u64,
    },
    FsyncDir,
    StatFs,
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        /// Those of `setxattr`.
        flags: u32,
        /// Whether who sets it may not give files of this group away: they are run as it no more.
        drops_setgid: bool,
    },
    GetXattr {
        name: &'a OsStr,
        size: u32,
    },
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a OsStr,
    },
    /// Somebody does not wait any more; the answer comes soon all the same.
    Interrupt,
    /// Whatever else; its code.
    Other(u32),
}

/// Why bytes are no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed {
    /// The number to answer with an error, if that much could be read.
    pub(crate) unique: Option<u64>,
}

/// Takes fields from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A name, which ends with a zero.
    fn name(&mut self) -> Option<&'a OsStr> {
        let end = self.0.iter().position(|&b| b == 0)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Some(OsStr::from_bytes(name))
    }
}

/// The codes of the operations that are served.
mod code {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const READLINK: u32 = 5;
    pub(super) const SYMLINK: u32 = 6;
    pub(super) const MKNOD: u32 = 8;
    pub(super) const MKDIR: u32 = 9;
    pub(super) const UNLINK: u32 = 10;
    pub(super) const RMDIR: u32 = 11;
    pub(super) const RENAME: u32 = 12;
    pub(super) const LINK: u32 = 13;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const SETXATTR: u32 = 21;
    pub(super) const GETXATTR: u32 = 22;
    pub(super) const LISTXATTR: u32 = 23;
    pub(super) const REMOVEXATTR: u32 = 24;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const FSYNCDIR: u32 = 30;
    pub(super) const CREATE: u32 = 35;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
    pub(super) const FALLOCATE: u32 = 43;
    pub(super) const READDIRPLUS: u32 = 44;
    pub(super) const RENAME2: u32 = 45;
}

impl<'a> Request<'a> {
    /// Reads one request, which is all of `bytes`.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut fields = Fields(bytes);
        let header = |fields: &mut Fields<'_>| {
            let (len, code, unique) = (fields.u32()?, fields.u32()?, fields.u64()?);
            let (node, uid, gid) = (fields.u64()?, fields.u32()?, fields.u32()?);
            let (_pid, extensions, _) = (fields.u32()?, fields.u16()?, fields.u16()?);
            Some((len, code, unique, node, uid, gid, extensions))
        };
        let (len, code, unique, node, uid, gid, extensions) =
            header(&mut fields).ok_or(Malformed { unique: None })?;
        let malformed = Malformed {
            unique: Some(unique),
        };
        // extensions, of which none is asked for, stand at the end and count in units of 8 bytes
        let body = (len as usize)
            .checked_sub(HEADER_LEN + usize::from(extensions) * 8)
            .filter(|_| len as usize == bytes.len())
            .and_then(|body| fields.0.get(..body));
        let mut fields = Fields(body.ok_or(malformed)?);
        let operation = operation(code, &mut fields).ok_or(malformed)?;
        Ok(Self {
            unique,
            node,
            uid,
            gid,
            operation,
        })
    }
}

fn operation<'a>(code: u32, f: &mut Fields<'a>) -> Option<Operation<'a>> {
    Some(match code {
        code::INIT => init(f)?,
        code::DESTROY => Operation::Destroy,
        code::LOOKUP => Operation::Lookup { name: f.name()? },
        code::FORGET => Operation::Forget { times: f.u64()? },
        code::BATCH_FORGET => batch_forget(f)?,
        code::GETATTR => {
            let (flags, _, handle) = (f.u32()?, f.u32()?, f.u64()?);
            Operation::GetAttr {
                handle: (flags & 1 == 1).then_some(handle),
            }
        }
        code::SETATTR => set_attr(f)?,
        code::READLINK => Operation::ReadLink,
        code::SYMLINK | code::MKNOD | code::MKDIR | code::CREATE => make(code, f)?,
        code::UNLINK => Operation::Unlink { name: f.name()? },
        code::RMDIR => Operation::RmDir { name: f.name()? },
        code::RENAME | code::RENAME2 => rename(code, f)?,
        code::LINK => Operation::Link {
            node: f.u64()?,
            name: f.name()?,
        },
        code::OPEN => Operation::Open { flags: f.i32()? },
        code::READ => {
            let (handle, offset, size) = (f.u64()?, f.u64()?, f.u32()?);
            Operation::Read {
                handle,
                offset,
                size,
            }
        }
        code::WRITE => write(f)?,
        code::FSYNC => Operation::Fsync {
            handle: f.u64()?,
            data_only: f.u32()? & 1 == 1,
        },
        code::FALLOCATE => Operation::Fallocate {
            handle: f.u64()?,
            offset: f.u64()?,
            len: f.u64()?,
            mode: f.i32()?,
        },
        code::RELEASE => Operation::Release { handle: f.u64()? },
        code::OPENDIR => Operation::OpenDir,
        code::READDIR | code::READDIRPLUS => Operation::ReadDir {
            handle: f.u64()?,
            offset: f.u64()?,
            size: f.u32()?,
            with_attributes: code == code::READDIRPLUS,
        },
        code::RELEASEDIR => Operation::ReleaseDir { handle: f.u64()? },
        code::FSYNCDIR => Operation::FsyncDir,
        code::STATFS => Operation::StatFs,
        code::SETXATTR => set_xattr(f)?,
        code::GETXATTR => {
            let (size, _) = (f.u32()?, f.u32()?);
            Operation::GetXattr {
                name: f.name()?,
                size,
            }
        }
        code::LISTXATTR => Operation::ListXattr { size: f.u32()? },
        code::REMOVEXATTR => Operation::RemoveXattr { name: f.name()? },
        code::INTERRUPT => Operation::Interrupt,
        other => Operation::Other(other),
    })
}

fn init<'a>(f: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (major, minor, readahead_max, low) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
    // kernels without a second word send less
    let high = f.u32().unwrap_or(0);
    Some(Operation::Init {
        major,
        minor,
        readahead_max,
        features: u64::from(low) | u64::from(high) << 32,
    })
}

fn rename<'a>(code: u32, f: &mut Fields<'a>) -> Option<Operation<'a>> {
    let new_parent = f.u64()?;
    let flags = if code == code::RENAME2 {
        let (flags, _) = (f.u32()?, f.u32()?);
        flags
    } else {
        0
    };
    Some(Operation::Rename {
        name: f.name()?,
        new_parent,
        new_name: f.name()?,
        flags,
    })
}

fn batch_forget<'a>(f: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (count, _) = (f.u32()?, f.u32()?);
    // what is claimed and what is there may differ: only what is there takes memory
    let mut forgotten = Vec::new();
    for _ in 0..count {
        forgotten.push((f.u64()?, f.u64()?));
    }
    Some(Operation::BatchForget(forgotten))
}

fn make<'a>(code: u32, f: &mut Fields<'a>) -> Option<Operation<'a>> {
    if code == code::SYMLINK {
        return Some(Operation::Symlink {
            name: f.name()?,
            target: f.name()?,
        });
    }
    let (first, second) = (f.u32()?, f.u32()?);
    if code == code::MKDIR {
        return Some(Operation::MkDir {
            name: f.name()?,
            mode: first,
            umask: second,
        });
    }
    let (umask, _) = (f.u32()?, f.u32()?);
    let name = f.name()?;
    Some(if code == code::MKNOD {
        Operation::MkNod {
            name,
            mode: first,
            umask,
        }
    } else {
        Operation::Create {
            name,
            flags: first.cast_signed(),
            mode: second,
            umask,
        }
    })
}

/// With flags of its own, as newer kernels write it, or without: which of both the lengths tell, as
/// every name of an attribute is longer than what stands in its place then.
fn set_xattr<'a>(f: &mut Fields<'a>) -> Option<Operation<'a>> {
    const DROPS_SETGID: u32 = 1;
    let (size, flags) = (f.u32()? as usize, f.u32()?);
    let name_len = f.0.iter().position(|&b| b == 0)?;
    let is_older = f.0.len().checked_sub(size) == Some(name_len + 1);
    let own = if is_older {
        0
    } else {
        let (own, _) = (f.u32()?, f.u32()?);
        own
    };
    Some(Operation::SetXattr {
        name: f.name()?,
        value: f.bytes(size)?,
        flags,
        drops_setgid: own & DROPS_SETGID != 0,
    })
}

fn write<'a>(f: &mut Fields<'a>) -> Option<Operation<'a>> {
    let (handle, offset, size) = (f.u64()?, f.u64()?, f.u32()?);
    let _flags = (f.u32()?, f.u64()?, f.u32()?, f.u32()?);
    Some(Operation::Write {
        handle,
        offset,
        data: f.bytes(size as usize)?,
    })
}

fn set_attr<'a>(f: &mut Fields<'a>) -> Option<Operation<'a>> {
    const MODE: u32 = 1;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const HANDLE: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    let (valid, _) = (f.u32()?, f.u32()?);
    let (handle, size, _lock_owner) = (f.u64()?, f.u64()?, f.u64()?);
    let (atime, mtime, _ctime) = (f.u64()?, f.u64()?, f.u64()?);
    let (atime_ns, mtime_ns, _ctime_ns) = (f.u32()?, f.u32()?, f.u32()?);
    let (mode, _, uid, gid) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
    let is = |bit: u32| valid & bit != 0;
    let time = |bit, now, seconds, ns| match (is(bit), is(now)) {
        (false, _) => None,
        (true, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::At(at(seconds, ns))),
    };
    let changes = Changes {
        mode: is(MODE).then_some(mode),
        uid: is(UID).then_some(uid),
        gid: is(GID).then_some(gid),
        size: is(SIZE).then_some(size),
        atime: time(ATIME, ATIME_NOW, atime, atime_ns),
        mtime: time(MTIME, MTIME_NOW, mtime, mtime_ns),
    };
    Some(Operation::SetAttr {
        handle: is(HANDLE).then_some(handle),
        changes,
    })
}

/// Seconds are signed, nanoseconds count up from them.
fn at(seconds: u64, ns: u32) -> Time {
    Time {
        seconds: seconds.cast_signed(),
        ns: ns.min(999_999_999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(code: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((HEADER_LEN as u32 + body.len() as u32).to_le_bytes());
        bytes.extend(code.to_le_bytes());
        bytes.extend(77_u64.to_le_bytes());
        bytes.extend(5_u64.to_le_bytes());
        bytes.extend([1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn requests_are_understood() {
        let lookup = bytes(code::LOOKUP, b"a.safetensors\0");
        let request = Request::parse(&lookup).unwrap();
        assert_eq!((request.unique, request.node), (77, 5));
        assert_eq!((request.uid, request.gid), (1, 2));
        let name = OsStr::new("a.safetensors");
        assert_eq!(request.operation, Operation::Lookup { name });
        let body: Vec<u8> = [9_u64, 4096]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .chain([0, 16, 0, 0])
            .collect();
        let read = bytes(code::READ, &[&body[..], &[0; 20]].concat());
        let expected = Operation::Read {
            handle: 9,
            offset: 4096,
            size: 4096,
        };
        assert_eq!(Request::parse(&read).unwrap().operation, expected);
    }

    #[test]
    fn attributes_are_set_with_and_without_flags_of_their_own() {
        let head = [3_u32.to_le_bytes(), 1_u32.to_le_bytes()].concat();
        for (own, drops_setgid) in [
            (&[][..], false),
            (&[0; 8], false),
            (&[1, 0, 0, 0, 0, 0, 0, 0], true),
        ] {
            let set = bytes(code::SETXATTR, &[&head, own, b"user.a\0b\0c"].concat());
            let expected = Operation::SetXattr {
                name: OsStr::new("user.a"),
                value: b"b\0c",
                flags: 1,
                drops_setgid,
            };
            assert_eq!(Request::parse(&set).unwrap().operation, expected);
        }
    }

    #[test]
    fn every_cut_is_an_error_and_none_a_panic() {
        for code in 0..60 {
            let whole = bytes(code, &[b"name\0other\0".as_slice(), &[3; 150]].concat());
            for len in 0..whole.len() {
                let cut = &mut whole[..len].to_vec();
                assert!(
                    Request::parse(cut).is_err(),
                    "the length tells of {code} cut at {len}"
                );
                if len >= HEADER_LEN {
                    cut[..4].copy_from_slice(&(len as u32).to_le_bytes());
                    let _ = Request::parse(cut);
                }
            }
        }
    }

    #[test]
    fn a_claim_of_many_takes_no_memory() {
        let body = [&u32::MAX.to_le_bytes()[..], &[0; 4], &[1; 32]].concat();
        let forget = bytes(code::BATCH_FORGET, &body);
        let malformed = Malformed { unique: Some(77) };
        assert_eq!(Request::parse(&forget), Err(malformed));
    }
}
