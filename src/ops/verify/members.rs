//! What was noted of a folder, compared with the folder that it was made from.

use std::fs;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::archive::Archive;
use crate::base::attributes;
use crate::base::error::escaped;
use crate::format::Member;
use crate::format::MemberKind;
use crate::format::member::MODE_BITS;

/// Notes of one image, before the rest is only counted.
const NOTES_MAX: usize = 20;

/// What is other in `folder` than an image has noted, one line for each thing. The bytes of files
/// are for others to compare.
pub(super) fn differences(archive: &Archive, folder: &Path) -> Vec<String> {
    let members = archive.index().members.iter();
    let mut notes: Vec<String> = members
        .filter_map(|member| {
            let what = difference(member, &folder.join(&member.path))?;
            let path = escaped(&member.path);
            let name = if path.is_empty() { "the folder" } else { &path };
            Some(format!("{name} {what}"))
        })
        .collect();
    if notes.len() > NOTES_MAX {
        let more = notes.len() - NOTES_MAX;
        notes.truncate(NOTES_MAX);
        notes.push(format!("and {more} more"));
    }
    notes
}

fn difference(member: &Member, full: &Path) -> Option<String> {
    // a link to a file outside was stored as that file
    let metadata = match member.kind {
        MemberKind::File { .. } => fs::metadata(full),
        _ => fs::symlink_metadata(full),
    };
    let Ok(metadata) = metadata else {
        return Some("is not there any more".to_owned());
    };
    let is_same_kind = match &member.kind {
        MemberKind::File { .. } => metadata.is_file(),
        MemberKind::Folder => metadata.is_dir(),
        MemberKind::Link { target } => {
            let there = fs::read_link(full).ok();
            if let Some(there) = there.filter(|there| there != Path::new(target)) {
                let (there, target) = (escaped(&there.to_string_lossy()), escaped(target));
                return Some(format!("leads to `{there}`, and led to `{target}`"));
            }
            metadata.is_symlink()
        }
    };
    if !is_same_kind {
        return Some("is of another kind now".to_owned());
    }
    let mode = metadata.mode() & MODE_BITS;
    if mode != member.mode && !metadata.is_symlink() {
        return Some(format!("has mode {mode:04o}, and had {:04o}", member.mode));
    }
    // links have none, and an image that kept none says nothing of them
    if !member.attributes.is_empty()
        && attributes::of_users(full).is_ok_and(|there| there != member.attributes)
    {
        return Some("has other extended attributes".to_owned());
    }
    (!has_same_time(member, &metadata)).then(|| "has another time of change".to_owned())
}

fn has_same_time(member: &Member, metadata: &Metadata) -> bool {
    let noted = member.modified;
    (metadata.mtime(), metadata.mtime_nsec()) == (noted.seconds, i64::from(noted.nanoseconds))
}
