//! An image of a folder put back as a folder. Files go first, each complete; links come when no
//! file is left to be written, so that nothing is ever written through one; folders get their times
//! and permissions last.

use std::fs;
use std::fs::DirBuilder;
use std::fs::File;
use std::fs::FileTimes;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::UtimensatFlags;
use nix::sys::stat::utimensat;
use nix::sys::time::TimeSpec;
use serde::Serialize;

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::attributes;
use crate::base::error::escaped;
use crate::base::output_file;
use crate::format::Member;
use crate::format::MemberKind;
use crate::ops::folder::OutputFolder;
use crate::ops::report;

/// What is given back of permissions: who may read, write and enter. Bits that lend somebody's
/// rights are not.
const MODE_BITS: u32 = 0o777;
/// What a folder may be while it is written.
const PRIVATE: u32 = 0o700;
/// What a folder is of which nothing is known, less what the user takes away from all new ones.
pub(super) const ANY_FOLDER_MODE: u32 = 0o777;

/// A link that was not made.
#[derive(Debug, Clone, Serialize)]
pub struct NotMade {
    /// Where it would be.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Where it would lead.
    pub target: String,
}

/// The folders, links and permissions of one image.
#[derive(Debug)]
pub(super) struct Unpacking<'a> {
    output: &'a OutputFolder,
    within: &'a Path,
    force: bool,
    /// Folders that were not there before.
    made: Vec<PathBuf>,
}

impl<'a> Unpacking<'a> {
    /// Of an image whose files go below `within` of a folder that is being written.
    pub(super) fn new(output: &'a OutputFolder, within: &'a Path, force: bool) -> Self {
        Self {
            output,
            within,
            force,
            made: Vec::new(),
        }
    }

    /// Where a path of the image goes, relative to the folder that is written.
    pub(super) fn output_path(&self, path: &str) -> PathBuf {
        // joined with nothing it would end with a slash
        if path.is_empty() {
            self.within.to_owned()
        } else {
            self.within.join(path)
        }
    }

    /// Makes the folder at `relative`, and those above it, with this mode. What is in the way is an
    /// error, a link, too: it may lead anywhere.
    pub(super) fn make_folder(&mut self, relative: &Path, mode: u32) -> Result<()> {
        let mut at = PathBuf::new();
        for part in relative.components() {
            at.push(part);
            let full = self.output.path(&at);
            match fs::symlink_metadata(&full) {
                Ok(there) if there.is_dir() => {}
                Ok(_) => {
                    let error = Error::invalid("is no folder, and files are to be written below");
                    return Err(error
                        .file(&full)
                        .hint("move it away, or choose another output"));
                }
                Err(_) => {
                    let made = DirBuilder::new().mode(mode).create(&full);
                    made.map_err(|e| Error::io("cannot make the folder", &full, e))?;
                    self.made.push(at.clone());
                }
            }
        }
        Ok(())
    }

    /// Makes the folders of an image, for nobody else until all is in them.
    pub(super) fn make_folders(&mut self, members: &[Member]) -> Result<()> {
        if self.is_whole_output() && !members.is_empty() {
            let root = self.output.path(Path::new(""));
            fs::set_permissions(&root, fs::Permissions::from_mode(PRIVATE))
                .map_err(|e| Error::io("cannot make the folder", &root, e))?;
        }
        for member in members {
            if member.kind == MemberKind::Folder {
                self.make_folder(&self.output_path(&member.path), PRIVATE)?;
            }
        }
        Ok(())
    }

    /// Makes another name of a file that was written; whether there may be one here.
    pub(super) fn make_name(&self, first: &Path, name: &Path) -> Result<bool> {
        let (first, name) = (self.output.path(first), self.output.path(name));
        output_file::link(&first, &name, self.force)
    }

    /// Makes the links of an image; those that could lead out of its folder are not made.
    pub(super) fn make_links(&self, members: &[Member]) -> Result<Vec<NotMade>> {
        let mut not_made = Vec::new();
        for member in members {
            let MemberKind::Link { target } = &member.kind else {
                continue;
            };
            let relative = self.output_path(&member.path);
            if !member.stays_within() {
                not_made.push(NotMade {
                    path: self.output.target_path(&relative),
                    target: target.clone(),
                });
                continue;
            }
            self.output
                .make_link(&relative, Path::new(target), self.force)?;
            let full = self.output.path(&relative);
            let failed = |e| Error::io("cannot finish the link", &full, e);
            let owner = fs::symlink_metadata(&full).map_err(failed)?.uid();
            if let Some((uid, gid)) = owner_for(member, owner) {
                std::os::unix::fs::lchown(&full, uid, gid).map_err(failed)?;
            }
            let modified = TimeSpec::new(
                member.modified.seconds,
                i64::from(member.modified.nanoseconds),
            );
            let flags = UtimensatFlags::NoFollowSymlink;
            // a disk on which links have no time of their own keeps the link all the same
            let _ = utimensat(AT_FDCWD, &full, &TimeSpec::UTIME_OMIT, &modified, flags);
        }
        Ok(not_made)
    }

    /// Whether the folder that is written is the image's, and was not there before.
    fn is_whole_output(&self) -> bool {
        !self.output.is_in_place() && self.within.as_os_str().is_empty()
    }

    /// Gives the folders that were made their owners, permissions and times, the innermost first,
    /// and makes all durable.
    pub(super) fn finish(mut self, members: &[Member], progress: &dyn Progress) -> Result<()> {
        self.made.sort();
        if self.is_whole_output() {
            self.made.insert(0, PathBuf::new());
        }
        for relative in self.made.iter().rev() {
            let full = self.output.path(relative);
            let failed = |e| Error::io("cannot finish the folder", &full, e);
            let folder = File::open(&full).map_err(failed)?;
            let inner = relative.strip_prefix(self.within).ok();
            let inner = inner.and_then(Path::to_str);
            let find = |path: &str| {
                let number = members.binary_search_by(|member| member.path.as_str().cmp(path));
                number.ok().and_then(|number| members.get(number))
            };
            if let Some(member) = inner.and_then(find) {
                give_attributes((&folder, full.as_path()), member, progress);
                finish_folder(&folder, member).map_err(failed)?;
            }
            folder.sync_all().map_err(failed)?;
            // where the folder above was there before, nobody else makes its new name durable
            if let Some(above) = relative.parent() {
                atomic::sync_folder(&self.output.path(above))?;
            }
        }
        Ok(())
    }
}

/// Gives a file or folder that was made its users' attributes; what the system refuses is told of.
fn give_attributes((file, path): (&File, &Path), member: &Member, progress: &dyn Progress) {
    let refused = attributes::give_of_users(file, &member.attributes);
    if !refused.is_empty() {
        progress.warn(&format!(
            "`{}`: the system refused the attributes {}",
            path.display(),
            escaped(&refused.join(", "))
        ));
    }
}

fn finish_folder(folder: &File, member: &Member) -> io::Result<()> {
    if let Some((uid, gid)) = owner_for(member, folder.metadata()?.uid()) {
        std::os::unix::fs::fchown(folder, uid, gid)?;
    }
    let permissions = fs::Permissions::from_mode(member.mode & MODE_BITS);
    folder.set_permissions(permissions)?;
    folder.set_times(FileTimes::new().set_modified(member.modified.system()))
}

/// Owner and group that something new gets, if whoever made it is root: others cannot give away
/// what is theirs.
fn owner_for(member: &Member, made_by: u32) -> Option<(Option<u32>, Option<u32>)> {
    (made_by == 0).then_some((Some(member.uid), Some(member.gid)))
}

/// Gives a file that is not in place yet the owner and attributes that the member has; time and
/// mode for when it is.
pub(super) fn prepare_file(
    output: &mut OutputFile,
    member: &Member,
    progress: &dyn Progress,
) -> Result<(Option<SystemTime>, Option<u32>)> {
    let target = output.target().to_owned();
    let failed = |e| Error::io("cannot write", &target, e);
    let file: &File = output.file();
    if let Some((uid, gid)) = owner_for(member, file.metadata().map_err(failed)?.uid()) {
        std::os::unix::fs::fchown(file, uid, gid).map_err(failed)?;
    }
    give_attributes((file, target.as_path()), member, progress);
    // last, as nobody may read it who could not: before, it was the writer's alone
    Ok((
        Some(member.modified.system()),
        Some(member.mode & MODE_BITS),
    ))
}
