//! Repair: a damaged file put together again from what is left of it and its parity.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic::OutputFile;
use crate::base::digest;
use crate::base::progress::Silent;
use crate::ops::protect;
use crate::ops::protect::parity_path;
use crate::ops::report;
use crate::parity;
use crate::parity::Located;
use crate::parity::Sidecar;

/// How to repair.
#[derive(Debug, Clone)]
pub struct RepairOptions {
    /// Where the whole file goes; without it, in the place of the damaged one.
    pub output: Option<PathBuf>,
    /// Its parity, if that is not beside it.
    pub parity: Option<PathBuf>,
    /// Replace an output that exists.
    pub force: bool,
    /// Threads to use.
    pub threads: usize,
}

/// What was found and done.
#[derive(Debug, Clone, Serialize)]
pub struct RepairReport {
    /// The file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Whether it was written anew; else nothing was wrong with it.
    pub repaired: bool,
    /// Bytes of the whole file.
    pub bytes: u64,
    /// Shards in all, and bytes of one.
    pub shards: usize,
    /// Bytes of one.
    pub shard_bytes: u32,
    /// Shards that were lost.
    pub lost: usize,
    /// Shards that stood elsewhere, because bytes were put in or taken out.
    pub moved: usize,
    /// Parity shards that were lost.
    pub parity_lost: usize,
    /// What else was wrong with the parity file.
    pub parity_faults: Vec<String>,
    /// Whether the parity was written anew.
    pub parity_renewed: bool,
    /// Wall time.
    pub seconds: f64,
}

/// What the parity of a file says of both.
#[derive(Debug, Clone, Serialize)]
pub struct ParityState {
    /// Whether the file and its parity are whole.
    pub ok: bool,
    /// Shards of the file that are lost or elsewhere.
    pub lost: usize,
    /// Parity shards that are lost.
    pub parity_lost: usize,
    /// Whether `repair` can put the file together again.
    pub repairable: bool,
    /// What else is wrong with the parity file.
    pub faults: Vec<String>,
}

fn open_parity(path: &Path) -> Result<Sidecar> {
    let source = FileSource::open(path).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            return error.hint("parity is made with `bigsmall protect`, while a file is whole");
        }
        error
    })?;
    Sidecar::open(Arc::new(source), path)
}

fn is_whole(file: &dyn ReadAt, sidecar: &Sidecar, located: &Located) -> bool {
    let layout = &sidecar.header.layout;
    located.lost() == 0 && located.moved(layout) == 0 && file.len() == layout.data_len
}

/// What the parity beside a file says; none if there is none. One that cannot be read is a fault in the report, and no error: the file
/// may be right all the same, and in a library others come after it.
pub fn look(path: &Path, progress: &dyn Progress) -> Result<Option<ParityState>> {
    let parity = parity_path(path);
    if !parity.exists() {
        return Ok(None);
    }
    match look_into(path, &parity, progress) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Ok(Some(ParityState {
            ok: false,
            lost: 0,
            parity_lost: 0,
            repairable: false,
            faults: vec![error.to_string()],
        })),
        state => state.map(Some),
    }
}

fn look_into(path: &Path, parity: &Path, progress: &dyn Progress) -> Result<ParityState> {
    let sidecar = open_parity(parity)?;
    let file = FileSource::open(path)?;
    let located = parity::locate(&file, &sidecar, progress)?;
    let is_whole = is_whole(&file, &sidecar, &located);
    let mut faults = sidecar.faults;
    if located.lost() > located.offsets.len() / 2 {
        let what = "most of the file is not what it protects: it may be the parity of another one";
        faults.push(what.to_owned());
    }
    Ok(ParityState {
        ok: is_whole && located.parity_lost == 0 && faults.is_empty(),
        lost: located.lost() + located.moved(&sidecar.header.layout),
        parity_lost: located.parity_lost,
        repairable: located.is_repairable,
        faults,
    })
}

/// Whether the parity beside an open file is that file's, as far as its length and its first and last shard tell.
pub(super) fn is_of(file: &FileSource, parity: &Path) -> bool {
    let Ok(sidecar) = open_parity(parity) else {
        return false;
    };
    let layout = sidecar.header.layout;
    let is_right = |number: usize| {
        let range = layout.shard(number);
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = file.read_exact_at(range.start, &mut bytes);
        let mark = sidecar.table.marks.get(number).copied().flatten();
        read.is_ok() && mark.is_some_and(|mark| mark.hash == digest::xxh3(&bytes))
    };
    file.len() == layout.data_len && is_right(0) && is_right(layout.shards() - 1)
}

/// Repairs a file, and its parity if that was damaged, too.
pub fn repair(
    path: &Path,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let begun = Instant::now();
    let beside = parity_path(path);
    let parity_path = options.parity.as_ref().unwrap_or(&beside);
    let sidecar = open_parity(parity_path)?;
    let layout = sidecar.header.layout;
    let file = FileSource::open(path)?;
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("looking at {label}"), layout.data_len);
    let located = parity::locate(&file, &sidecar, progress)?;
    progress.end();
    let is_whole = is_whole(&file, &sidecar, &located);
    let mut report = RepairReport {
        path: path.to_owned(),
        repaired: false,
        bytes: layout.data_len,
        shards: layout.shards(),
        shard_bytes: layout.shard_len,
        lost: located.lost(),
        moved: located.moved(&layout),
        parity_lost: located.parity_lost,
        parity_faults: sidecar.faults.clone(),
        parity_renewed: false,
        seconds: 0.0,
    };
    let target = options.output.as_deref().unwrap_or(path);
    let in_place = target == path;
    if !is_whole || !in_place {
        progress.begin(&format!("repairing {label}"), layout.data_len);
        let metadata = file.file().metadata();
        let metadata = metadata.map_err(|e| Error::io("cannot stat", path, e))?;
        let mut output = OutputFile::create(target, in_place || options.force)?;
        parity::rebuild(
            &file,
            &sidecar,
            &located,
            &mut output,
            options.threads,
            progress,
        )
        .map_err(|e| e.file(path))?;
        let mtime = metadata.modified().ok();
        output.commit(mtime, Some(metadata.permissions().mode()))?;
        progress.end();
        report.repaired = true;
    }
    let is_beside = parity_path == &beside;
    if in_place && is_beside && (located.parity_lost > 0 || !sidecar.faults.is_empty()) {
        // the same bytes give the same parity, and other bytes are none to make it of
        let file = FileSource::open(path)?;
        let blake3 = Some(sidecar.header.blake3);
        protect::write_parity(
            path,
            &file,
            &layout,
            (true, blake3),
            options.threads,
            &Silent,
        )?;
        report.parity_renewed = true;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}
