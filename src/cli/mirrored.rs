//! What follows when a folder was compressed into one that was there already: parity, and what is
//! gone from the source.

use std::path::Path;
use std::path::PathBuf;

use clap::Args;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::units::counted;
use crate::cli::ask;
use crate::cli::exit;
use crate::ops::compress;
use crate::ops::compress::AutoBase;
use crate::ops::compress::CompressReport;
use crate::ops::compress::MoreOptions;
use crate::ops::compress::Output;
use crate::ops::protect;
use crate::ops::protect::ProtectOptions;

/// Writes parity for what was written, and for what was kept and has none of its own.
pub(super) fn protect_images(
    report: &mut CompressReport,
    percent: u32,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let options = ProtectOptions {
        percent,
        // what is there is of the image that was replaced
        force: true,
        threads,
    };
    let images = report.images.iter().map(|image| image.output.as_path());
    report.parity = protect::protect_written(images, &options, progress)?;
    for link in &report.links {
        protect::put_name(&link.image, &link.output)?;
    }
    let kept = protect::protect_unprotected(&report.kept, &options, progress)?;
    report.parity.extend(kept);
    Ok(())
}

/// Words for an output that is there already.
#[derive(Debug, Args)]
pub(super) struct Update {
    /// Replace this image, whatever it is of
    #[arg(long, value_name = "IMAGE")]
    discard_image: Vec<PathBuf>,
    /// In an output folder that is there, tell by content, and not by time, what did not change
    #[arg(long)]
    check: bool,
    /// In an output folder that is there, delete what is gone from the source
    #[arg(long, conflicts_with = "series")]
    delete: bool,
    /// With `--delete`, do not ask
    #[arg(short, long, requires = "delete")]
    yes: bool,
}

impl Update {
    /// What compress is to know of them.
    pub(super) fn options(&self, auto_delta: Option<&[PathBuf]>) -> MoreOptions {
        MoreOptions {
            discard: Some(self.discard_image.clone()),
            check: self.check,
            auto_delta: auto_delta.map(<[PathBuf]>::to_vec),
            ..MoreOptions::default()
        }
    }

    /// Deletes from the output what is gone from the source, if that was asked for.
    pub(super) fn delete_gone(
        &self,
        source: &Path,
        output: &Output,
        report: &mut CompressReport,
        progress: &dyn Progress,
    ) -> Result<()> {
        match output {
            Output::Path(target) if self.delete => {
                delete_gone((source, target), self.yes, report, progress)
            }
            _ => Ok(()),
        }
    }
}

/// Deletes from `target` what is gone from `source`, after it was listed and somebody said yes.
fn delete_gone(
    (source, target): (&Path, &Path),
    yes: bool,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    if report.is_source_empty {
        let error = Error::invalid("holds no file: nothing is deleted from the output");
        return Err(error.file(source).hint("look whether it is mounted"));
    }
    if report.gone.is_empty() {
        return Ok(());
    }
    for path in &report.gone {
        exit::complain(&format!("gone: `{}`", escaped(&path.to_string_lossy())));
    }
    let files = counted(report.gone.len() as u64, "file");
    let question = format!("Delete {files} from the output?");
    if ask::confirm(&question, yes)? {
        report.deleted = compress::delete_gone((source, target), &report.gone, progress)?;
    }
    Ok(())
}

/// Which models became differences from which, and that some of these lie elsewhere.
fn bases(report: &CompressReport) -> Vec<String> {
    let line = |chosen: &AutoBase| {
        format!(
            "{} as differences from {}: about {:.1} % of its bytes, against {:.1} % alone",
            chosen.source.display(),
            chosen.base.display(),
            chosen.estimated_percent,
            chosen.alone_percent
        )
    };
    report.auto_bases.iter().map(line).collect()
}

/// What became of a folder that was there already, in one line; what is gone, and stays, before it.
pub(super) fn summary(report: &CompressReport) -> Option<String> {
    let mut lines = bases(report);
    if !report.brings_up_to_date {
        return (!lines.is_empty()).then(|| lines.join("\n"));
    }
    if report.deleted.is_empty() {
        let gone = report.gone.iter();
        lines.extend(gone.map(|path| format!("gone from the source: {}", path.display())));
    }
    lines.push(format!(
        "brought up to date: images: {} written, {} kept, {}; \
         other files: {} copied, {} kept; gone: {}, deleted: {}",
        report.images.len(),
        report.kept_images,
        counted(report.links.len() as u64, "further name"),
        report.copied_files,
        report.kept_files,
        report.gone.len(),
        report.deleted.len()
    ));
    Some(lines.join("\n"))
}
