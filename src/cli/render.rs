//! Reports to stdout: text for people, or one JSON object with its schema.

use std::io;
use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::base::Error;
use crate::base::Result;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::ops::auto_base::Choice;
use crate::ops::compress::CompressReport;
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
}

/// Prints a report as one JSON object.
pub(super) fn json<R: Serialize>(schema: &str, report: &R) -> Result<()> {
    let object = Object { schema, report };
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

/// What compress did.
pub(super) fn compressed(report: &CompressReport) -> String {
    let mut lines = Vec::new();
    lines.extend(report.auto_base.as_ref().map(Choice::to_string));
    for image in &report.images {
        lines.push(format!(
            "{} -> {}  {} -> {} ({:.1} %){}",
            image.source.display(),
            image.output.display(),
            human_bytes(image.original_bytes),
            human_bytes(image.image_bytes),
            percent(image.image_bytes, image.original_bytes),
            image
                .base
                .as_ref()
                .map_or_else(String::new, |base| format!(" from `{base}`"))
        ));
    }
    lines.extend(report.parity.iter().map(protected));
    if report.kept_images > 0 {
        lines.push(format!("{} images were there already", report.kept_images));
    }
    if report.copied_files > 0 {
        let (files, bytes) = (report.copied_files, human_bytes(report.copied_bytes));
        lines.push(format!("{files} other files copied ({bytes})"));
    }
    let saved = report.original_bytes.saturating_sub(report.output_bytes);
    lines.push(format!(
        "saved {} of {}; read back and compared; {}",
        human_bytes(saved),
        human_bytes(report.original_bytes),
        rate(report.original_bytes, report.seconds)
    ));
    lines.join("\n")
}

/// What an image of a folder holds beside the bytes of its files.
pub(super) fn members(members: &[MemberInfo]) -> String {
    let count = |kind| members.iter().filter(|member| member.kind == kind).count();
    let (folders, links) = (count("folder"), count("link"));
    format!("  {folders} folder(s), {links} link(s); permissions, owners and times are kept")
}

/// What was found in one image.
pub(super) fn verified(image: &ImageReport) -> String {
    let mut lines = vec![verdict(image)];
    let faults = image.faults.iter();
    lines.extend(faults.map(|fault| format!("  {}", fault.replace('\n', "\n  "))));
    lines.extend(image.notes.iter().map(|note| format!("  note: {note}")));
    match (image.checked, &image.sample) {
        (Checked::Structure, _) if image.ok => {
            lines.push("  no block was looked at: damage in them is not found this way".to_owned());
        }
        (Checked::Sample, Some(sample)) => lines.push(format!(
            "  seed {}; the chance to miss damage: of one block {:.1} %, of ten {:.1} %, of 1 % of all {:.1} %",
            sample.seed,
            sample.missed_one * 100.0,
            sample.missed_ten * 100.0,
            sample.missed_hundredth * 100.0
        )),
        _ => {}
    }
    if image.is_equal_to_source == Some(true) {
        lines.push("  every byte is that of the original".to_owned());
    }
    lines.extend(image.parity.as_ref().map(parity));
    for file in &image.files {
        let path = if file.path.is_empty() {
            "the file"
        } else {
            &file.path
        };
        let verdict = if file.ok { "matches" } else { "DIFFERS" };
        lines.push(format!("  sha256 of {path} {verdict}: {}", file.sha256));
    }
    lines.join("\n")
}

fn verdict(image: &ImageReport) -> String {
    let path = image.path.display();
    if !image.faults.is_empty() {
        return format!(
            "{path}: DAMAGED, {} of {} blocks",
            image.damaged_blocks, image.blocks
        );
    }
    let whole = match image.checked {
        Checked::Whole => format!(
            "ok, {} in {} blocks, {} file(s)",
            human_bytes(image.verified_bytes),
            image.blocks,
            image.files.len()
        ),
        Checked::Structure => "header and index are right".to_owned(),
        Checked::Sample => format!(
            "{} of {} blocks are right",
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
            "  {} parts of the file are DAMAGED; `bigsmall repair` can put it together again",
            parity.lost
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
        "{}: {} of parity ({share:.2} %), makes up for {} lost in one piece",
        file.parity.display(),
        human_bytes(file.parity_bytes),
        human_bytes((run * u64::from(file.shard_bytes)).clamp(1, file.bytes))
    )
}
