//! Whose the parity beside a file is, and what it says of that file. An image that was replaced may
//! lie beside the parity of the one before: that tells nothing of it, and what could be put
//! together by it is not the image that is there.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::archive;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::folder::parity_path;
use crate::ops::stream;
use crate::parity;
use crate::parity::Located;
use crate::parity::Sidecar;

/// What the parity of a file says of both.
#[derive(Debug, Clone, Serialize)]
pub struct ParityState {
    /// Whether the file and its parity are whole.
    pub ok: bool,
    /// Whether it is the parity of another file, or of another version of this one, and so tells
    /// nothing of it.
    pub is_of_another_file: bool,
    /// Shards of the file that are lost or elsewhere.
    pub lost: usize,
    /// Parity shards that are lost.
    pub parity_lost: usize,
    /// Whether `repair` can put the file together again.
    pub repairable: bool,
    /// What else is wrong with the parity file.
    pub faults: Vec<String>,
}

/// Whose a parity file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParityOwner {
    /// That of this very image: what it makes of its beginning is the header that stands there,
    /// with the checksum of the same index.
    This,
    /// That of another file, or of another version of this one.
    Another,
    /// Nobody can tell: the file is no image, or too much is lost.
    Unknown,
}

/// Opens the parity file at `path`.
pub(super) fn open(path: &Path) -> Result<Sidecar> {
    let source = FileSource::open(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return error.hint("parity is made with `bigsmall protect`, while a file is whole");
        }
        error
    })?;
    Sidecar::open(Arc::new(source), path)
}

/// Whether every shard of the file is where it should be, and nothing else is there.
pub(super) fn is_whole(file: &dyn ReadAt, sidecar: &Sidecar, located: &Located) -> bool {
    let layout = &sidecar.header.layout;
    located.lost() == 0 && located.moved(layout) == 0 && file.len() == layout.data_len
}

/// Whose parity this is, as far as the headers tell.
pub(super) fn owner(
    file: &dyn ReadAt,
    sidecar: &Sidecar,
    located: &Located,
) -> Result<ParityOwner> {
    let Some((own, bytes)) = archive::header_left(file) else {
        return Ok(ParityOwner::Unknown);
    };
    let same = |is_same: bool| {
        if is_same {
            ParityOwner::This
        } else {
            ParityOwner::Another
        }
    };
    if let Some(head) = sidecar.header.head {
        return Ok(same(head == digest::xxh3(&bytes)));
    }
    // parity of earlier days does not say what its file begins with
    if own.image_len == file.len() && file.len() != sidecar.header.layout.data_len {
        return Ok(ParityOwner::Another);
    }
    let Some(bytes) = parity::beginning(file, sidecar, located, HEADER_LEN)? else {
        return Ok(ParityOwner::Unknown);
    };
    let protected = bytes.first_chunk().map(Header::parse);
    let protected = protected.and_then(Result::ok);
    Ok(same(protected.is_some_and(|header| header == own)))
}

/// Whether an image is whole by its own checksums: header and index twice, every block, and the
/// sha256 of every file. Ends with the first that is not right. One whose base is not at hand is
/// not known to be.
pub(super) fn own_checks_hold(
    path: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<bool> {
    match check_all(path, threads, progress) {
        Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
        checked => Ok(checked.unwrap_or(false)),
    }
}

fn check_all(path: &Path, threads: usize, progress: &dyn Progress) -> Result<bool> {
    let bases = Arc::new(SearchPaths::new(&[], path).or_beside(path));
    let archive = base::open_archive(path, &bases, threads, progress)?;
    if !archive.check_copies().is_empty() {
        return Ok(false);
    }
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("verifying {label}"), archive.header().original_len);
    for file in archive.files() {
        if stream::sha256_of(&archive, file, threads, progress)? != file.sha256 {
            return Ok(false);
        }
    }
    progress.end();
    Ok(true)
}

/// What the parity beside a file says; none if there is none. `holds` says whether the file was
/// found whole by its own checksums, all of them; none if not all were looked at. Parity that
/// cannot be read is a fault in the report, and no error: the file may be right all the same, and
/// in a library others come after it.
pub(crate) fn look(
    path: &Path,
    holds: Option<bool>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Option<ParityState>> {
    let parity = parity_path(path);
    if !parity.exists() {
        return Ok(None);
    }
    match look_into(path, &parity, holds, threads, progress) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Ok(Some(ParityState {
            ok: false,
            is_of_another_file: false,
            lost: 0,
            parity_lost: 0,
            repairable: false,
            faults: vec![error.to_string()],
        })),
        state => state.map(Some),
    }
}

fn look_into(
    path: &Path,
    parity: &Path,
    holds: Option<bool>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ParityState> {
    let sidecar = open(parity)?;
    let file = FileSource::open(path)?;
    let located = parity::locate(&file, &sidecar, progress)?;
    let mut state = ParityState {
        ok: located.parity_lost == 0 && sidecar.faults.is_empty(),
        is_of_another_file: false,
        lost: located.lost() + located.moved(&sidecar.header.layout),
        parity_lost: located.parity_lost,
        repairable: located.is_repairable,
        faults: sidecar.faults.clone(),
    };
    if is_whole(&file, &sidecar, &located) {
        return Ok(state);
    }
    let owner = owner(&file, &sidecar, &located)?;
    let holds = match (owner, holds) {
        (_, Some(holds)) => holds,
        (ParityOwner::Unknown, None) => own_checks_hold(path, threads, progress)?,
        _ => false,
    };
    match owner {
        // what differs are bytes between blocks, which hold nothing
        ParityOwner::This if holds => {}
        ParityOwner::This => state.ok = false,
        ParityOwner::Unknown if !holds => {
            state.ok = false;
            if located.lost() > located.offsets.len() / 2 {
                let what = "most of the file is not what it protects: it may be that of another";
                state.faults.push(what.to_owned());
            }
        }
        ParityOwner::Another | ParityOwner::Unknown => {
            state.is_of_another_file = true;
            (state.ok, state.lost, state.repairable) = (false, 0, false);
        }
    }
    Ok(state)
}

/// Whether the parity beside an open file is that file's, as far as its length and its first and
/// last shard tell.
pub(super) fn is_of(file: &FileSource, parity: &Path) -> bool {
    let Ok(sidecar) = open(parity) else {
        return false;
    };
    let layout = sidecar.header.layout;
    let is_right = |number: usize| {
        let range = layout.shard(number);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = file.read_exact_at(range.start, &mut bytes);
        let record = sidecar.table.records.get(number).copied().flatten();
        read.is_ok() && record.is_some_and(|record| record.hash == digest::xxh3(&bytes))
    };
    file.len() == layout.data_len && is_right(0) && is_right(layout.shards() - 1)
}
