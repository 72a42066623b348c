//! Repair: a damaged file put together again from what is left of it and its parity.

use std::fs;
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

/// What the parity beside a file says; none if there is none.
pub fn look(path: &Path, progress: &dyn Progress) -> Result<Option<ParityState>> {
    let parity = parity_path(path);
    if !parity.exists() {
        return Ok(None);
    }
    let sidecar = match open_parity(&parity) {
        Ok(sidecar) => sidecar,
        Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported) => {
            return Ok(Some(ParityState {
                ok: false,
                lost: 0,
                parity_lost: 0,
                repairable: false,
                faults: vec![error.to_string()],
            }));
        }
        Err(error) => return Err(error),
    };
    let file = FileSource::open(path)?;
    let located = parity::locate(&file, &sidecar, progress)?;
    let is_whole = is_whole(&file, &sidecar, &located);
    Ok(Some(ParityState {
        ok: is_whole && located.parity_lost == 0 && sidecar.faults.is_empty(),
        lost: located.lost() + located.moved(&sidecar.header.layout),
        parity_lost: located.parity_lost,
        repairable: located.is_repairable,
        faults: sidecar.faults,
    }))
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
    if in_place && (located.parity_lost > 0 || !sidecar.faults.is_empty()) {
        renew(path, parity_path == &beside, &sidecar, options.threads)?;
        report.parity_renewed = true;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Writes the parity of a file that is whole now once more.
fn renew(path: &Path, is_beside: bool, sidecar: &Sidecar, threads: usize) -> Result<()> {
    if !is_beside {
        return Ok(());
    }
    let file = FileSource::open(path)?;
    let layout = &sidecar.header.layout;
    let written = protect::write_parity(path, &file, layout, true, threads, &Silent)?;
    // the same bytes give the same parity
    let is_there = fs::metadata(&written.parity).is_ok();
    debug_assert!(is_there, "it was committed");
    Ok(())
}
