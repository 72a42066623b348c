//! Reports to stdout: text for people, or one JSON object with its schema.

use std::io;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::base::Error;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::progress::Skipped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::progress;
use crate::ops::auto_base::Choice;
use crate::ops::compress::CompressReport;
use crate::ops::compress::FurtherName;
use crate::ops::compress::ImageWritten;
use crate::ops::info::MemberInfo;
use crate::ops::own_parity::ParityState;
use crate::ops::protect::Protected;
use crate::ops::verify::Checked;
use crate::ops::verify::ImageReport;

#[derive(Serialize)]
struct Object<'a, R> {
    schema: &'a str,
    #[serde(flatten)]
    report: &'a R,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<Skipped>,
}

/// Prints a report as one JSON object.
pub(super) fn json<R: Serialize>(schema: &str, report: &R) -> Result<()> {
    let object = Object {
        schema,
        report,
        skipped: progress::skipped(),
    };
    let text = serde_json::to_string_pretty(&object)
        .map_err(|e| Error::invalid(format!("the report cannot be written as JSON: {e}")))?;
    out(&text)
}

/// Prints text and a line break.
pub(super) fn out(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::io("cannot write to standard output", Path::new("-"), e))
}

/// `12.3 MB in 0.50 s (24.6 MB/s)`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a rate for people, of positive numbers"
)]
pub(super) fn rate(bytes: u64, seconds: f64) -> String {
    let per_second = (bytes as f64 / seconds.max(1e-6)) as u64;
    format!(
        "{} in {seconds:.2} s ({}/s)",
        human_bytes(bytes),
        human_bytes(per_second)
    )
}

/// What is worth knowing, one line each.
pub(super) fn notes(notes: &[String]) -> impl Iterator<Item = String> {
    notes.iter().map(|note| format!("note: {note}"))
}

/// What compress did.
pub(super) fn compressed(report: &CompressReport) -> String {
    let mut lines = Vec::new();
    lines.extend(report.auto_base.as_ref().map(Choice::to_string));
    lines.extend(report.images.iter().map(written));
    lines.extend(report.links.iter().map(further_name));
    lines.extend(report.parity.iter().map(protected));
    if report.kept_images > 0 && !report.brings_up_to_date {
        let images = counted(report.kept_images, "image");
        lines.push(format!("there already, and kept: {images}"));
    }
    if report.copied_files > 0 {
        let (files, bytes) = (report.copied_files, human_bytes(report.copied_bytes));
        lines.push(format!(
            "{} copied unchanged ({bytes})",
            counted(files, "other file")
        ));
    }
    lines.extend(notes(&report.notes));
    if report.source_bytes == 0 {
        lines.push("nothing was written".to_owned());
        return lines.join("\n");
    }
    lines.push(format!(
        "{}; read back and compared; {}",
        saved(report.source_bytes, report.output_bytes),
        rate(report.original_bytes, report.seconds)
    ));
    lines.join("\n")
}

/// What an image of a folder holds beside the bytes of its files.
pub(super) fn members(members: &[MemberInfo]) -> String {
    let count = |kind| members.iter().filter(|member| member.kind == kind).count();
    let (folders, links) = (count("folder"), count("link"));
    format!(
        "  {}, {}; permissions, owners and times are kept",
        counted(folders as u64, "folder"),
        counted(links as u64, "link")
    )
}

/// One line of an image that was written. What was an image before has a size of its own.
fn written(image: &ImageWritten) -> String {
    let (source, output) = (image.source.display(), image.output.display());
    let (before, after) = (image.source_bytes, image.image_bytes);
    let sizes = format!("{} -> {}", human_bytes(before), human_bytes(after));
    let share = if before == image.original_bytes {
        format!("{:.1} % of its size", percent(after, before))
    } else {
        let original = image.original_bytes;
        let share = percent(after, original);
        format!("{share:.1} % of the original's {}", human_bytes(original))
    };
    let base = image.base.as_ref();
    let base = base.map_or_else(String::new, |base| {
        format!(", differences from `{}`", escaped(base))
    });
    format!("{source} -> {output}  {sizes} ({share}){base}")
}

/// One line of a further name of an image.
fn further_name(link: &FurtherName) -> String {
    let (source, output, image) = (
        link.source.display(),
        link.output.display(),
        link.image.display(),
    );
    match link.copied_bytes {
        0 => {
            format!("{source} -> {output}  further name (hard link) of {image}, not counted again")
        }
        bytes => format!(
            "{source} -> {output}  copy of {image}, {}: no further name could be given",
            human_bytes(bytes)
        ),
    }
}

/// `saved 34.3 % (1 MB of 3 MB)`, or by how much it grew.
pub(super) fn saved(before: u64, after: u64) -> String {
    if after > before {
        let more = human_bytes(after - before);
        return format!(
            "{more} more than the {} that were read",
            human_bytes(before)
        );
    }
    let saved = before - after;
    let share = if before == 0 {
        0.0
    } else {
        percent(saved, before)
    };
    format!(
        "saved {share:.1} % ({} of {})",
        human_bytes(saved),
        human_bytes(before)
    )
}

/// What was found in one image.
pub(super) fn verified(image: &ImageReport) -> String {
    let mut lines = vec![verdict(image)];
    let faults = image.faults.iter().chain(&image.missing_base);
    lines.extend(faults.map(|fault| format!("  {}", fault.replace('\n', "\n  "))));
    lines.extend(image.notes.iter().map(|note| format!("  note: {note}")));
    match (image.checked, &image.sample) {
        (Checked::Structure, _) if image.ok => {
            lines.push("  no block was looked at: damage in them is not found this way".to_owned());
        }
        (Checked::Sample, Some(sample)) => lines.push(format!(
            "  the chance that damage was missed: {:.1} % if it is in one block, {:.1} % if in ten, {:.1} % if in 1 % of all; the same blocks again with `--seed {}`",
            sample.missed_one * 100.0,
            sample.missed_ten * 100.0,
            sample.missed_hundredth * 100.0,
            sample.seed
        )),
        _ => {}
    }
    if image.is_equal_to_source == Some(true) {
        lines.push("  every byte is that of the original".to_owned());
    }
    let differences = image.differences.iter();
    lines.extend(differences.map(|what| format!("  the source DIFFERS: {what}")));
    lines.extend(image.parity.as_ref().map(parity));
    for file in &image.files {
        let path = if file.path.is_empty() {
            "the file"
        } else {
            &file.path
        };
        let verdict = if file.ok {
            "is as recorded:"
        } else {
            "is NOT as recorded, which was"
        };
        lines.push(format!("  sha256 of {path} {verdict} {}", file.sha256));
    }
    lines.join("\n")
}

fn verdict(image: &ImageReport) -> String {
    let path = image.path.display();
    let is_sample = image.checked == Checked::Sample;
    if !image.faults.is_empty() {
        return match (image.damaged_blocks, image.blocks) {
            (0, _) => format!("{path}: DAMAGED"),
            (damaged, looked_at) if is_sample => {
                let looked_at = counted(looked_at, "block");
                format!("{path}: DAMAGED, {damaged} of {looked_at} looked at")
            }
            (damaged, all) => {
                format!("{path}: DAMAGED, {damaged} of {}", counted(all, "block"))
            }
        };
    }
    if image.missing_base.is_some() {
        return format!("{path}: its base is missing, and its blocks were not looked at");
    }
    let whole = match image.checked {
        Checked::Whole => format!(
            "ok, {} in {} of {}",
            human_bytes(image.verified_bytes),
            counted(image.blocks, "block"),
            counted(image.files.len() as u64, "file")
        ),
        Checked::Structure => "header and index are right".to_owned(),
        Checked::Sample => format!(
            "all blocks that were looked at are right: {}, a sample of {}",
            image.blocks, image.blocks_in_all
        ),
    };
    format!("{path}: {whole}")
}

fn parity(parity: &ParityState) -> String {
    if parity.is_of_another_file {
        return "  note: this parity is of another file, or of another version of this one; \
                `bigsmall protect --force` makes it anew"
            .to_owned();
    }
    let mut text = match (parity.ok, parity.repairable) {
        (true, _) if parity.lost > 0 => {
            return "  parity is right; what differs from it is space between blocks".to_owned();
        }
        (true, _) => return "  parity is right".to_owned(),
        (false, true) if parity.lost > 0 => format!(
            "  DAMAGED: {} of the file; `bigsmall repair` can put it together again",
            counted(parity.lost as u64, "part")
        ),
        (false, true) => {
            "  parity is DAMAGED, the file is not; `bigsmall repair` writes it anew".to_owned()
        }
        (false, false) => "  parity does not suffice to repair this".to_owned(),
    };
    for fault in &parity.faults {
        text.push_str("\n  parity: ");
        text.push_str(fault);
    }
    text
}

/// One line of a file that was protected.
pub(super) fn protected(file: &Protected) -> String {
    let share = percent(file.parity_bytes, file.bytes);
    let run = u64::from(file.sets) * u64::from(file.parity_shards).saturating_sub(1);
    format!(
        "{}: {} of parity, {share:.2} % of its file's size; makes up for {} lost in one piece",
        file.parity.display(),
        human_bytes(file.parity_bytes),
        human_bytes((run * u64::from(file.shard_bytes)).clamp(1, file.bytes))
    )
}
