//! Repair: a damaged file put together again from what is left of it and its parity. An image whose
//! own checksums hold is never replaced, nor one whose header says that this is the parity of
//! another.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::in_use;
use crate::base::progress::Silent;
use crate::ops::companions;
use crate::ops::folder;
use crate::ops::folder::Stamp;
use crate::ops::folder::parity_path;
use crate::ops::origin::Replacing;
use crate::ops::own_parity;
use crate::ops::own_parity::ParityOwner;
use crate::ops::protect;
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
    /// Replace an output that exists, and in its place a file that was written to since its parity
    /// was made.
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

/// Repairs a file, and its parity if that was damaged, too.
pub fn repair(
    path: &Path,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<RepairReport> {
    let begun = Instant::now();
    let beside = parity_path(path);
    let parity_path = options.parity.as_ref().unwrap_or(&beside);
    let stamp = Stamp::of(path)?;
    let file = FileSource::open(path)?;
    let sidecar = own_parity::open(parity_path)?;
    let layout = sidecar.header.layout;
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("looking at {label}"), layout.data_len);
    let located = parity::locate(&file, &sidecar, progress)?;
    progress.end();
    let is_whole = own_parity::is_whole(&file, &sidecar, &located)
        || !needs_repair(&file, &sidecar, &located, options, progress)?;
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
        let mut output = output_at(target, in_place, options.force)?;
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
        if in_place {
            // what was looked at is what is replaced
            stamp.check()?;
            folder::carry_attributes(path, output.temporary(), progress)?;
            output.commit(mtime, None)?;
        } else {
            let mode = Some(metadata.permissions().mode());
            companions::commit(output, (mtime, mode), options.threads, progress)?;
        }
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

/// Not in the place of what somebody is fetching still.
fn output_at(target: &Path, in_place: bool, force: bool) -> Result<OutputFile> {
    in_use::check_finished(target)?;
    if !in_place {
        Replacing::forced(force).check_other(target)?;
    }
    OutputFile::create(target, in_place || force)
}

/// Whether a file that is not as it was protected is to be put together again. An error where that
/// would put another file in its place, or might.
fn needs_repair(
    file: &FileSource,
    sidecar: &Sidecar,
    located: &Located,
    options: &RepairOptions,
    progress: &dyn Progress,
) -> Result<bool> {
    let path = file.path();
    let owner = own_parity::owner(file, sidecar, located)?;
    let holds = || own_parity::own_checks_hold(path, options.threads, progress);
    let is_image = owner != ParityOwner::Unknown || archive::claims_to_be_image(file);
    match owner {
        ParityOwner::Another => return Err(of_another(path)),
        ParityOwner::This => return Ok(!holds()?),
        ParityOwner::Unknown if is_image && holds()? => return Err(of_another(path)),
        ParityOwner::Unknown => {}
    }
    if options.output.is_none() && !options.force && is_newer(path, sidecar.path())? {
        let error = Error::invalid(
            "was written to after its parity was made: if that was no damage, repair would undo it",
        );
        return Err(error.file(path).hint(
            "write what was protected elsewhere with `-o FILE`, or put it in place with `--force`",
        ));
    }
    Ok(true)
}

fn of_another(path: &Path) -> Error {
    let error = Error::invalid(
        "is not what this parity was made of: this parity is of another file, or another version",
    );
    error.file(path).hint(
        "nothing was changed; `bigsmall verify` says whether the file is right, and for one that \
         is, `bigsmall protect --force` makes its own parity",
    )
}

fn is_newer(path: &Path, than: &Path) -> Result<bool> {
    let changed = |path: &Path| {
        let metadata = fs::metadata(path).and_then(|metadata| metadata.modified());
        metadata.map_err(|e| Error::io("cannot stat", path, e))
    };
    Ok(changed(path)? > changed(than)?)
}
