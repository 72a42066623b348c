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
