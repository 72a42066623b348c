//! Extended attributes: those of the disk, and of files that come from images what is known of the
//! original, and how it is stored.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use bigsmall::archive::FileRecord;
use bigsmall::archive::Image;
use bigsmall::base::Error;
use bigsmall::base::digest;
use nix::errno::Errno;

use crate::fs::catalog::EntryKind;
use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;

/// What the names of all of ours begin with.
const PREFIX: &str = "user.bigsmall.";

/// The list of who may do what, in the words of the disk.
const ACL: &str = "system.posix_acl_access";
/// What a program may do when it is run: a model is run by nobody, and the kernel asks at each
/// write.
const CAPABILITY: &str = "security.capability";
/// Longest list of names, and longest value, as the kernel has it.
const LEN_MAX: usize = 64 << 10;
/// Most are not longer than this.
const LEN_MOSTLY: usize = 512;

fn is_ours(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

fn errno(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

/// What a call gives that fills a buffer, whose length is not known before.
fn filled(fill: impl Fn(&mut [u8]) -> Result<usize, rustix::io::Errno>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; LEN_MOSTLY];
    let mut len = fill(&mut bytes);
    if len == Err(rustix::io::Errno::RANGE) {
        bytes.resize(LEN_MAX, 0);
        len = fill(&mut bytes);
    }
    bytes.truncate(len.map_err(errno)?);
    Ok(bytes)
}

impl Object {
    fn attribute(&self, name: &OsStr) -> Result<Vec<u8>> {
        let path = self.path();
        filled(|bytes| rustix::fs::getxattr(&path, name, bytes))
    }

    fn attribute_names(&self) -> Result<Vec<u8>> {
        let path = self.path();
        filled(|bytes| rustix::fs::listxattr(&path, bytes))
    }
}

impl Fs {
    /// Names and values of what is known of an image's file: none for what is no image.
    fn own_attributes(&self, node: &Node) -> Result<Vec<(String, String)>> {
        let number = match &node.what {
            NodeKind::Disk(EntryKind::Image { .. }) => 0,
            NodeKind::ImageFile(number, _) => *number,
            _ => return Ok(Vec::new()),
        };
        let Some(image) = self.image(node)? else {
            return Ok(Vec::new());
        };
        let file = image.files().get(number).ok_or(Errno::EIO)?;
        let mut found = vec![
            ("sha256", digest::hex(&file.sha256)),
            ("ratio", ratio(&image)),
            ("codec", codecs(&image, file).map_err(|e| self.fail(&e))?),
        ];
        if image.is_delta() {
            found.push(("base", image.base_path().to_owned()));
        }
        let named = |(name, value)| (format!("{PREFIX}{name}"), value);
        Ok(found.into_iter().map(named).collect())
    }

    /// What an image of a folder has noted of a member's attributes.
    fn noted_attributes(&self, node: &Node) -> Result<BTreeMap<String, Vec<u8>>> {
        let (NodeKind::ImageFolder(path)
        | NodeKind::ImageFile(_, path)
        | NodeKind::ImageLink(_, path)) = &node.what
        else {
            return Ok(BTreeMap::new());
        };
        let Some(image) = self.image(node)? else {
            return Ok(BTreeMap::new());
        };
        let members = image.members();
        let found = members.binary_search_by(|member| member.path.cmp(path));
        Ok(found.map_or_else(|_none| BTreeMap::new(), |at| members[at].attributes.clone()))
    }

    /// The value of one attribute. What is ours says what the image is; the rest says the disk.
    pub(crate) fn attribute(&self, ino: u64, name: &OsStr) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let is_plain = matches!(&node.what, NodeKind::Disk(kind) if kind.is_plain());
        if is_plain {
            return self.object(&node)?.attribute(name);
        }
        if is_ours(name) {
            let mut attributes = self.own_attributes(&node)?.into_iter();
            let found = attributes.find(|(known, _)| known.as_bytes() == name.as_bytes());
            return found
                .map(|(_, value)| value.into_bytes())
                .ok_or(Errno::ENODATA);
        }
        // what the disk has is of the image, and not of what lies in it
        if !matches!(node.what, NodeKind::Disk(_)) {
            let mut noted = self.noted_attributes(&node)?;
            let value = name.to_str().and_then(|name| noted.remove(name));
            return value.ok_or(Errno::ENODATA);
        }
        if name == CAPABILITY {
            return Err(Errno::ENODATA);
        }
        match self.object(&node) {
            Ok(object) => object.attribute(name),
            // read on though it is not on the disk any more
            Err(_) => Err(Errno::ENODATA),
        }
    }

    /// The names of all attributes, each with a zero behind it.
    pub(crate) fn attribute_names(&self, ino: u64) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        let is_plain = matches!(&node.what, NodeKind::Disk(kind) if kind.is_plain());
        let on_disk = self
            .object(&node)
            .and_then(|object| object.attribute_names());
        if is_plain {
            return on_disk;
        }
        let mut names = Vec::new();
        for (name, _) in self.own_attributes(&node)? {
            names.extend(name.into_bytes());
            names.push(0);
        }
        if !matches!(node.what, NodeKind::Disk(_)) {
            for name in self.noted_attributes(&node)?.into_keys() {
                names.extend(name.into_bytes());
                names.push(0);
            }
            return Ok(names);
        }
        for name in on_disk.unwrap_or_default().split_inclusive(|&b| b == 0) {
            if !is_ours(OsStr::from_bytes(name)) {
                names.extend(name);
            }
        }
        Ok(names)
    }

    /// What an attribute is to be changed of. What is ours says what the image is, and changes with
    /// that alone.
    fn attributed_for_change(&self, node: &Node, name: &OsStr) -> Result<Object> {
        self.check_writable()?;
        match &node.what {
            NodeKind::Disk(kind) if kind.is_plain() => self.object(node),
            NodeKind::Disk(_) if is_ours(name) => Err(Errno::EPERM),
            NodeKind::Disk(_) if !self.protects_models => self.object(node),
            _ => Err(Errno::EROFS),
        }
    }

    /// The disk says something else of an image after that.
    fn attribute_changed(&self, node: &Node, object: Object) -> Result<()> {
        if matches!(&node.what, NodeKind::Disk(kind) if !kind.is_plain()) {
            let stat = Object::of(object.fd)?.stat;
            self.tree.change(node.attr.ino, stat, self.is_writable());
        }
        Ok(())
    }

    /// Sets an attribute; `flags` are those of `setxattr`.
    pub(crate) fn set_attribute(
        &self,
        ino: u64,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        drops_setgid: bool,
    ) -> Result<()> {
        let node = self.node(ino)?;
        let object = self.attributed_for_change(&node, name)?;
        let flags = rustix::fs::XattrFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        rustix::fs::setxattr(object.path(), name, value, flags).map_err(errno)?;
        if drops_setgid && name == ACL {
            object.drop_setgid()?;
        }
        self.attribute_changed(&node, object)
    }

    /// Removes an attribute.
    pub(crate) fn remove_attribute(&self, ino: u64, name: &OsStr) -> Result<()> {
        let node = self.node(ino)?;
        let object = self.attributed_for_change(&node, name)?;
        rustix::fs::removexattr(object.path(), name).map_err(errno)?;
        self.attribute_changed(&node, object)
    }
}

/// The image's share of the original bytes, such as `0.659`.
#[expect(clippy::cast_precision_loss, reason = "three digits for people")]
fn ratio(image: &Image) -> String {
    let header = image.header();
    let share = header.image_len as f64 / header.original_len.max(1) as f64;
    format!("{share:.3}")
}

/// Blocks of the file by codec, such as `r32-bf16 x120 raw x2`.
fn codecs(image: &Image, file: &FileRecord) -> Result<String, Error> {
    let counts = image.codecs(file).map_err(|e| e.file(image.path()))?;
    let mut text = String::new();
    for (codec, count) in counts {
        let blank = if text.is_empty() { "" } else { " " };
        let _ = write!(text, "{blank}{codec} x{count}");
    }
    Ok(text)
}
