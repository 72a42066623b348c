//! What convert and restore have to say, as text.

use std::fmt::Write;
use std::path::PathBuf;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::render;
use crate::ops::convert::ConvertReport;
use crate::ops::convert::Plan;

/// Every model, and what would become of it.
pub(super) fn plan_text(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for file in &plan.files {
        let path = escaped(&file.path.to_string_lossy());
        let bytes = human_bytes(file.bytes);
        lines.push(match &file.stays {
            Some(why) => format!("{path:<60} {bytes:>9} stays: {why}"),
            None => format!(
                "{path:<60} {bytes:>9} -> about {} ({:.0} % of its size)",
                human_bytes(file.estimated_bytes),
                percent(file.estimated_bytes, file.bytes)
            ),
        });
    }
    let names = |paths: &[PathBuf]| {
        let shown = paths.iter().map(|path| escaped(&path.to_string_lossy()));
        shown.collect::<Vec<_>>().join(", ")
    };
    if !plan.left_alone.is_empty() {
        let folders = names(&plan.left_alone);
        lines.push(format!("left alone, unless they are named: {folders}"));
    }
    if !plan.not_followed.is_empty() {
        let links = names(&plan.not_followed);
        lines.push(format!("links that are not followed: {links}"));
    }
    let (chosen, all) = (plan.chosen().count(), plan.files.len() as u64);
    let (models, bytes) = (counted(all, "model"), human_bytes(plan.bytes));
    lines.push(match chosen {
        0 if all == 0 => "there is no model".to_owned(),
        0 => format!("none of {models} ({bytes}) would be converted"),
        _ => format!(
            "{chosen} of {models} ({bytes}) would be converted: about {} would be saved",
            human_bytes(plan.estimated_saved_bytes)
        ),
    });
    lines.join("\n")
}

/// What became of them.
pub(super) fn text(report: &ConvertReport) -> String {
    let mut lines: Vec<String> = report.parity.iter().map(render::protected).collect();
    let mut line = format!(
        "{} converted, {} left unchanged, {} failed",
        counted(report.converted, "model"),
        report.stayed.len(),
        report.failed.len()
    );
    if report.converted > 0 {
        let saved = render::saved(report.original_bytes, report.image_bytes);
        let rate = render::rate(report.original_bytes, report.seconds);
        // a string takes whatever is written to it
        let _ = write!(line, "; {saved}; read back and compared; {rate}");
    }
    lines.push(line);
    lines.join("\n")
}

/// The images that a record tells of and that are not there; nothing if there are none.
pub(super) fn not_found(missing: &[(String, String)]) -> String {
    if missing.is_empty() {
        return String::new();
    }
    let images = counted(missing.len() as u64, "image");
    let mut lines = format!("\nthe record tells of {images} not found:");
    for (path, why) in missing {
        // a string takes whatever is written to it
        let _ = write!(lines, "\n  {}: {why}", escaped(path));
    }
    lines.push_str(
        "\nput them back and restore again, restore the folder that they are in now, \
         or give them up with `--forget`",
    );
    lines
}
