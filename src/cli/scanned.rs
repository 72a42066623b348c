//! What scan found, for people.

use std::collections::BTreeMap;
use std::path::Path;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::render;
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
    lines.extend(others.into_iter().map(|(why, (count, bytes))| {
        let files = counted(count, "file");
        format!("{files}, {}: {why}", human_bytes(bytes))
    }));
    lines.extend(groups(
        |group| {
            let spare = group.bytes * (group.paths.len() as u64 - 1);
            format!(
                "are the same wherever they were looked at: if `cmp` finds every byte the same, one \
                 would do, and {} less",
                human_bytes(spare)
            )
        },
        &report.duplicates,
    ));
    lines.extend(groups(
        |group| {
            let all = group.bytes * group.paths.len() as u64;
            format!(
                "have tensors of the same names and shapes, {} in all: if one was made from another, \
                 `compress --auto-delta` stores the differences only",
                human_bytes(all)
            )
        },
        &report.alike,
    ));
    lines.extend(render::notes(&report.notes));
    lines.push(summary(report));
    lines.join("\n")
}

fn name(path: &Path) -> String {
    format!("{:<60}", escaped(&path.to_string_lossy()))
}

fn model(file: &Scanned) -> String {
    let (name, bytes) = (name(&file.path), human_bytes(file.bytes));
    let of_dtype = |bytes: u64, dtype: &str| {
        let text = format!(
            "; {} of it is F32 that holds numbers of {dtype} only",
            human_bytes(bytes)
        );
        if bytes > 0 { text } else { String::new() }
    };
    let native = of_dtype(file.bf16_in_f32_bytes, "BF16") + &of_dtype(file.f16_in_f32_bytes, "F16");
    let elsewhere = match file.names_elsewhere {
        0 => String::new(),
        names => format!(
            "; it has {} outside, and takes its room until that is gone, too",
            counted(names, "further name")
        ),
    };
    let native = native + &elsewhere;
    match &file.why_not {
        Some(why) => format!("{name} {bytes:>9} leave it: {why}{native}"),
        None => format!(
            "{name} {bytes:>9} -> about {} ({:.0} % of its size){native}",
            human_bytes(file.image_bytes),
            percent(file.image_bytes, file.bytes)
        ),
    }
}

fn groups(what: impl Fn(&Group) -> String, groups: &[Group]) -> Vec<String> {
    let mut lines = Vec::new();
    for group in groups.iter().take(GROUPS_LISTED_MAX) {
        let count = group.paths.len();
        let files = counted(count as u64, "file");
        lines.push(format!("{files} {}:", what(group)));
        let paths = group.paths.iter().take(GROUPS_LISTED_MAX);
        lines.extend(paths.map(|path| format!("  {}", escaped(&path.to_string_lossy()))));
        if count > GROUPS_LISTED_MAX {
            lines.push(format!("  and {} more", count - GROUPS_LISTED_MAX));
        }
    }
    if groups.len() > GROUPS_LISTED_MAX {
        lines.push(format!(
            "and {} more",
            counted((groups.len() - GROUPS_LISTED_MAX) as u64, "group")
        ));
    }
    lines
}

fn summary(report: &ScanReport) -> String {
    let mut parts = vec![format!(
        "{}, {}: about {} would be saved",
        counted(report.models, "model"),
        human_bytes(report.model_bytes),
        human_bytes(report.estimated_saved_bytes)
    )];
    if report.images > 0 {
        parts.push(format!(
            "{} there already, which saved {}",
            counted(report.images, "image"),
            human_bytes(report.saved_bytes)
        ));
    }
    if report.others > 0 {
        parts.push(format!(
            "{}, {}",
            counted(report.others, "other file"),
            human_bytes(report.other_bytes)
        ));
    }
    if report.links > 0 {
        parts.push(format!(
            "{} of the same files (hard links), not counted again",
            counted(report.links, "further name")
        ));
    }
    format!("{}; {:.1} s", parts.join("; "), report.seconds)
}
