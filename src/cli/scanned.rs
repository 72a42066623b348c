//! What scan found, for people.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::error::escaped;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::ops::scan::Group;
use crate::ops::scan::Kind;
use crate::ops::scan::ScanReport;
use crate::ops::scan::Scanned;

/// Groups that are listed, and files of one; the rest is only counted.
const GROUPS_LISTED_MAX: usize = 10;

/// Models by what they bring, other files by what they are, what is there twice, and the sum.
pub(super) fn text(report: &ScanReport) -> String {
    let of_kind = |kind: Kind| report.files.iter().filter(move |file| file.kind == kind);
    let mut models: Vec<&Scanned> = of_kind(Kind::Model).collect();
    // what brings most first; what stays last
    models.sort_by_key(|file| std::cmp::Reverse(file.saved_bytes()));
    let mut lines: Vec<String> = models.into_iter().map(model).collect();
    let images = of_kind(Kind::Image);
    lines.extend(images.filter_map(|file| {
        let why = file.why_not.as_ref()?;
        Some(format!("{} image: {why}", name(&file.path)))
    }));
    let mut others: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for file in of_kind(Kind::Other) {
        let sum = others
            .entry(file.why_not.as_deref().unwrap_or_default())
            .or_default();
        *sum = (sum.0 + 1, sum.1 + file.bytes);
    }
    lines.extend(
        others
            .into_iter()
            .map(|(why, (count, bytes))| format!("{count} files, {}: {why}", human_bytes(bytes))),
    );
    lines.extend(groups(
        "look the same in 24 places; compare them before one goes",
        &report.duplicates,
        |group| group.bytes * (group.paths.len() as u64 - 1),
    ));
    lines.extend(groups(
        "have tensors of the same names and shapes: if they are fine-tunes of one, `--auto-delta` stores differences",
        &report.alike,
        |group| group.bytes * group.paths.len() as u64,
    ));
    lines.push(summary(report));
    lines.join("\n")
}

fn name(path: &Path) -> String {
    format!("{:<60}", escaped(&path.to_string_lossy()))
}

fn model(file: &Scanned) -> String {
    let (name, bytes) = (name(&file.path), human_bytes(file.bytes));
    let native = if file.bf16_in_f32_bytes > 0 {
        format!(
            ", {} of it are BF16 in F32",
            human_bytes(file.bf16_in_f32_bytes)
        )
    } else {
        String::new()
    };
    match &file.why_not {
        Some(why) => format!("{name} {bytes:>9} leave it: {why}{native}"),
        None => format!(
            "{name} {bytes:>9} -> about {} ({:.0} %){native}",
            human_bytes(file.image_bytes),
            percent(file.image_bytes, file.bytes)
        ),
    }
}

fn groups(what: &str, groups: &[Group], bytes: impl Fn(&Group) -> u64) -> Vec<String> {
    let mut lines = Vec::new();
    for group in groups.iter().take(GROUPS_LISTED_MAX) {
        let (count, bytes) = (group.paths.len(), human_bytes(bytes(group)));
        lines.push(format!("{count} files {what} ({bytes})"));
        let paths = group.paths.iter().take(GROUPS_LISTED_MAX);
        lines.extend(paths.map(|path| format!("  {}", escaped(&path.to_string_lossy()))));
        if count > GROUPS_LISTED_MAX {
            lines.push(format!("  and {} more", count - GROUPS_LISTED_MAX));
        }
    }
    if groups.len() > GROUPS_LISTED_MAX {
        lines.push(format!(
            "and {} groups more",
            groups.len() - GROUPS_LISTED_MAX
        ));
    }
    lines
}

fn summary(report: &ScanReport) -> String {
    let mut parts = vec![format!(
        "{} models, {}: about {} would be saved",
        report.models,
        human_bytes(report.model_bytes),
        human_bytes(report.estimated_saved_bytes)
    )];
    if report.images > 0 {
        parts.push(format!(
            "{} images save {} already",
            report.images,
            human_bytes(report.saved_bytes)
        ));
    }
    if report.others > 0 {
        parts.push(format!(
            "{} other files, {}",
            report.others,
            human_bytes(report.other_bytes)
        ));
    }
    if report.links > 0 {
        parts.push(format!("{} further names of the same files", report.links));
    }
    format!("{}; {:.1} s", parts.join("; "), report.seconds)
}
