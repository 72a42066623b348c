//! Profile: what this machine has, and how fast it reads, decodes and multiplies weights. What
//! takes time to measure is kept, and shown again until the machine is another.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Serialize;

use crate::archive::ShardIndex;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::ops::folder;
use crate::ops::report;
use crate::plan::facts::Disk;
use crate::plan::facts::Gpu;
use crate::plan::facts::Memory;
use crate::plan::facts::Processor;
use crate::plan::facts::Rates;
use crate::plan::kept::Disks;
use crate::plan::kept::Kept;
use crate::plan::kept::KeptDisk;
use crate::plan::machine::MachineIdentity;
use crate::plan::measured::Measured;
use crate::plan::measured::Percent;
use crate::plan::probe;
use crate::plan::probe::System;
use crate::plan::probe::pace::Pace;
use crate::plan::store::Store;

/// What is measured, and where it is kept.
#[derive(Debug, Clone)]
pub struct ProfileOptions {
    /// A model, whose disk is measured: a file or a folder.
    pub model: Option<PathBuf>,
    /// What is kept is measured anew.
    pub refresh: bool,
    /// Threads that compute, at most.
    pub threads: usize,
    /// Where it is kept; none: nowhere.
    pub store: Option<Store>,
    /// Where the machine's own files are.
    pub system: System,
    /// How long is measured.
    pub pace: Pace,
}

impl ProfileOptions {
    /// This machine, kept for this user.
    pub fn new(threads: usize) -> Self {
        Self {
            model: None,
            refresh: false,
            threads,
            store: Store::of_user(),
            system: System::here(),
            pace: Pace::default(),
        }
    }
}

/// What is known of the machine.
#[derive(Debug, Clone, Serialize)]
pub struct ProfileReport {
    /// Its processor.
    pub processor: Processor,
    /// Its memory, as it is now.
    pub memory: Memory,
    /// Its GPUs, as they are now.
    pub gpu: Gpu,
    /// What rates depend on; none if this machine cannot be told from others.
    pub machine: Option<MachineIdentity>,
    /// When the rates were measured, in seconds since 1970.
    pub measured_at: u64,
    /// How long ago that is; 0 if they were measured now.
    pub age_seconds: u64,
    /// Which share of their time the threads had meanwhile: less where others were at work.
    pub processor_share: Measured<Percent>,
    /// How fast it computes.
    pub rates: Rates,
    /// The disk of the model.
    pub disk: Disk,
    /// How long ago it was measured; none if it was not.
    pub disk_age_seconds: Option<u64>,
    /// All disks that were measured so far.
    pub disks: Disks,
    /// Where this is kept; none if it is not.
    #[serde(serialize_with = "report::optional_path")]
    pub kept_in: Option<PathBuf>,
    /// Why it is not.
    pub not_kept: Option<String>,
}

/// Looks at this machine, and measures what is not kept of it.
pub fn profile(options: &ProfileOptions, progress: &dyn Progress) -> Result<ProfileReport> {
    let files = options.model.as_deref().map(files_of).transpose()?;
    let (system, threads) = (&options.system, options.threads.max(1));
    let processor = probe::processor::processor(system);
    let memory = probe::memory::memory(system);
    let build = probe::processor::build();
    let machine = MachineIdentity::new(&processor, &memory, threads, build);
    let known = machine.value().and_then(|machine| {
        let store = options.store.as_ref()?;
        store.read(machine, now())
    });
    let (measured_at, (rates, processor_share)) = match &known {
        Some(known) if !options.refresh => {
            let rates = (known.rates.clone(), known.processor_share.clone());
            (known.measured_at, rates)
        }
        _ => {
            let with = (threads, &options.pace);
            let rates = probe::rates(&processor.caches, &memory, with, progress)?;
            (now(), rates)
        }
    };
    let mut disks = known
        .as_ref()
        .map_or_else(Disks::default, |it| it.disks.clone());
    let disk = disk(files.as_deref(), &mut disks, options, progress)?;
    let mut report = ProfileReport {
        gpu: probe::gpu::gpu(system),
        processor,
        memory,
        machine: machine.value().cloned(),
        measured_at,
        age_seconds: now().saturating_sub(measured_at),
        processor_share,
        rates,
        disk_age_seconds: (disk.disk.read.value()).map(|_| now().saturating_sub(disk.measured_at)),
        disk: disk.disk,
        disks,
        kept_in: None,
        not_kept: None,
    };
    match keep(&report, (options.store.as_ref(), &machine), known.as_ref()) {
        Ok(path) => report.kept_in = Some(path),
        Err(reason) => {
            progress.warn(&format!("not kept for the next time: {reason}"));
            report.not_kept = Some(reason);
        }
    }
    Ok(report)
}

/// What is known of the disk of these files, measured if it is not kept.
fn disk(
    files: Option<&[PathBuf]>,
    disks: &mut Disks,
    options: &ProfileOptions,
    progress: &dyn Progress,
) -> Result<KeptDisk> {
    let measured_now = |disk| KeptDisk {
        measured_at: now(),
        disk,
    };
    let Some(files) = files else {
        return Ok(measured_now(Disk::not("no model was given")));
    };
    if let (Some(first), false) = (files.first(), options.refresh)
        && let Some(kept) = disks.find(&probe::disk::place(first))
    {
        return Ok(kept.clone());
    }
    let disk = measured_now(probe::disk::disk(files, &options.pace, progress)?);
    disks.keep(disk.clone());
    Ok(disk)
}

/// Keeps what was measured: where, or why not. What could not be measured is tried again next time,
/// and what was kept before stays.
fn keep(
    report: &ProfileReport,
    (store, machine): (Option<&Store>, &Measured<MachineIdentity>),
    known: Option<&Kept>,
) -> Result<PathBuf, String> {
    let Some(store) = store else {
        return Err("there is no cache folder, as HOME is not set".to_owned());
    };
    let machine = match machine {
        Measured::Value(machine) => machine.clone(),
        Measured::Not(reason) => {
            return Err(format!("this machine cannot be told from others: {reason}"));
        }
    };
    if !report.rates.is_whole() {
        return Err("not everything could be measured".to_owned());
    }
    let kept = Kept {
        machine,
        measured_at: report.measured_at,
        processor_share: report.processor_share.clone(),
        rates: report.rates.clone(),
        disks: report.disks.clone(),
    };
    if known != Some(&kept) {
        store.write(&kept).map_err(|error| error.to_string())?;
    }
    Ok(store.path().to_owned())
}

/// The files of a model that hold its weights, the longest first.
fn files_of(model: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io("cannot open", model, e);
    let is_folder = fs::metadata(model).map_err(failed)?.is_dir();
    let is_index = ShardIndex::stem_of(model).is_some();
    if !is_folder && !is_index {
        return Ok(vec![model.to_owned()]);
    }
    let folder = if is_folder {
        model
    } else {
        atomic::folder_of(model)
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::io("cannot list", folder, e))? {
        let entry = entry.map_err(|e| Error::io("cannot list", folder, e))?;
        let path = entry.path();
        if path.is_file() && (folder::is_image(&path) || folder::is_model(&path)) {
            let len = fs::metadata(&path).map_or(0, |metadata| metadata.len());
            files.push((std::cmp::Reverse(len), path));
        }
    }
    files.sort();
    if files.is_empty() {
        let what = "no model here: no .safetensors and no .bs";
        return Err(Error::new(ErrorKind::NotFound, what).file(folder));
    }
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
