//! What the disk says of a folder that goes into one image, beside the bytes of its files.

use std::collections::BTreeMap;
use std::fs;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::base::Error;
use crate::base::Limits;
use crate::base::Progress;
use crate::base::Result;
use crate::base::attributes;
use crate::format::Member;
use crate::format::MemberKind;
use crate::format::file::path_is_valid;
use crate::format::member::MODE_BITS;
use crate::format::member::Time;
use crate::format::member::target_is_valid;
use crate::ops::folder::FirstNames;

/// What goes into an image of a folder, as far as it was met.
#[derive(Debug)]
pub(super) struct Members {
    /// Each with what the disk says of it, if it is a file that has several names.
    members: Vec<(Member, Option<Metadata>)>,
    /// Whether users' attributes are kept, too.
    keeps_attributes: bool,
}

impl Members {
    /// Of the folder `root` itself.
    pub(super) fn of(root: &Path, keeps_attributes: bool) -> Result<Self> {
        let mut members = Self {
            members: Vec::new(),
            keeps_attributes,
        };
        let metadata = fs::metadata(root).map_err(|e| Error::io("cannot stat", root, e))?;
        members.push((root, String::new()), MemberKind::Folder, &metadata)?;
        Ok(members)
    }

    /// A folder below it.
    pub(super) fn folder(&mut self, full: &Path, path: String) -> Result<()> {
        let metadata = stat(full)?;
        self.push((full, path), MemberKind::Folder, &metadata)
    }

    /// A link. One that leads out of the folder is kept, and nobody will make it anew.
    pub(super) fn link(
        &mut self,
        (full, path): (&Path, String),
        target: &Path,
        progress: &dyn Progress,
    ) -> Result<()> {
        let metadata = stat(full)?;
        let target = target.to_str().filter(|target| target_is_valid(target));
        let target = target
            .ok_or_else(|| Error::invalid("the target of the link cannot be stored").file(full))?
            .to_owned();
        self.push((full, path), MemberKind::Link { target }, &metadata)?;
        let last = self.members.last();
        if last.is_some_and(|(member, _)| !member.stays_within()) {
            progress.warn(&format!(
                "`{}` leads out of the folder, to no file: the link is noted, and will not be made when the image is restored",
                full.display()
            ));
        }
        Ok(())
    }

    /// A file, or what a link to a file outside leads to.
    pub(super) fn file(&mut self, full: &Path, path: String) -> Result<()> {
        let metadata = fs::metadata(full).map_err(|e| Error::io("cannot stat", full, e))?;
        self.push((full, path), MemberKind::File { first: None }, &metadata)
    }

    fn push(
        &mut self,
        (full, path): (&Path, String),
        kind: MemberKind,
        metadata: &Metadata,
    ) -> Result<()> {
        // links have none
        let has_attributes = self.keeps_attributes && !matches!(kind, MemberKind::Link { .. });
        let attributes = if has_attributes {
            attributes::of_users(full)
                .map_err(|e| Error::io("cannot read the extended attributes", full, e))?
        } else {
            BTreeMap::new()
        };
        let has_names = matches!(kind, MemberKind::File { .. }) && metadata.nlink() > 1;
        let names = has_names.then(|| metadata.clone());
        let member = Member {
            path,
            kind,
            mode: metadata.mode() & MODE_BITS,
            uid: metadata.uid(),
            gid: metadata.gid(),
            modified: Time {
                seconds: metadata.mtime(),
                nanoseconds: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
            },
            attributes,
        };
        self.members.push((member, names));
        Ok(())
    }

    /// All of them in the order in which they are stored, and of each file with several names the
    /// first one.
    pub(super) fn finish(mut self, root: &Path) -> Result<Vec<Member>> {
        let most = Limits::FORMAT_1.member_count_max as usize;
        if self.members.len() > most {
            let count = self.members.len();
            let what = format!("{count} files, folders and links, an image holds {most}");
            let error = Error::over_limit(what).file(root);
            return Err(error.hint("compress it to a folder instead (`-o FOLDER`)"));
        }
        self.members.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let mut names: FirstNames<String> = FirstNames::default();
        for (member, metadata) in &mut self.members {
            let Some(metadata) = metadata else {
                continue;
            };
            if let Some(first) = names.met(metadata, || member.path.clone()) {
                let first = Some(first.clone());
                member.kind = MemberKind::File { first };
            }
        }
        Ok(self.members.into_iter().map(|(member, _)| member).collect())
    }
}

fn stat(full: &Path) -> Result<Metadata> {
    fs::symlink_metadata(full).map_err(|e| Error::io("cannot stat", full, e))
}

/// The permissions of an image with these members, which has those of the folder otherwise: nobody
/// may read it who could not read all that is in it.
pub(super) fn image_mode(folder_mode: u32, members: &[Member]) -> u32 {
    const OTHERS_READ: u32 = 0o044;
    const OTHERS_WRITE: u32 = 0o022;
    const OTHERS_ENTER: u32 = 0o011;
    let open = members
        .iter()
        .fold(OTHERS_READ | OTHERS_WRITE, |open, member| {
            let mode = match member.kind {
                // everybody may read a link
                MemberKind::Link { .. } => return open,
                MemberKind::File { .. } => member.mode,
                MemberKind::Folder => {
                    let enter = member.mode & OTHERS_ENTER;
                    member.mode & (enter << 1 | enter << 2)
                }
            };
            open & mode
        });
    folder_mode & (0o600 | open)
}

/// The path within an image of what is at `relative` in a folder.
pub(super) fn stored_path(relative: &Path, full: &Path) -> Result<String> {
    let path = relative.to_str().filter(|path| path_is_valid(path));
    path.map(str::to_owned).ok_or_else(|| {
        Error::invalid("the name cannot be stored in an image").file(full).hint(
            "names in an image are UTF-8 without `\\`; compress to a folder instead (`-o FOLDER`)",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_as_private_as_the_most_private_thing_in_it() {
        let member = |kind, mode| Member {
            path: String::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            modified: Time {
                seconds: 0,
                nanoseconds: 0,
            },
            attributes: BTreeMap::new(),
        };
        let file = |mode| member(MemberKind::File { first: None }, mode);
        let folder = |mode| member(MemberKind::Folder, mode);
        let link = || {
            let target = "x".to_owned();
            member(MemberKind::Link { target }, 0o777)
        };
        for (members, expected) in [
            (vec![folder(0o755), file(0o644), link()], 0o644),
            (vec![folder(0o775), file(0o664)], 0o664),
            (vec![folder(0o775), file(0o644)], 0o644),
            (vec![folder(0o755), file(0o600)], 0o600),
            (vec![folder(0o755), folder(0o700), file(0o644)], 0o600),
            (vec![folder(0o755), folder(0o711), file(0o644)], 0o600),
            (vec![folder(0o755), folder(0o744), file(0o644)], 0o600),
            (vec![folder(0o750), file(0o640)], 0o640),
            (vec![folder(0o555), file(0o444)], 0o444),
        ] {
            let mode = members[0].mode;
            assert_eq!(image_mode(mode, &members), expected, "{members:?}");
        }
    }
}
