//! What is known of a machine, for people.

use std::fmt::Display;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::ops::profile::ProfileReport;
use crate::plan::facts::ByThreads;
use crate::plan::facts::Processor;
use crate::plan::measured::Measured;
use crate::plan::measured::Quantity;

/// What it has, line by line, its rates as a table, and when they were measured.
pub(super) fn text(report: &ProfileReport) -> String {
    let mut lines = vec![
        line("processor", &processor(&report.processor)),
        line("caches", &caches(&report.processor)),
        line("memory", &memory(report)),
        line("gpu", &gpu(report)),
        line("disk", &disk(report)),
        String::new(),
    ];
    lines.extend(table(report));
    lines.push(String::new());
    lines.push(age(report));
    lines.extend(disturbed(report));
    lines.join("\n")
}

fn line(name: &str, text: &str) -> String {
    format!("{name:<11}{}", escaped(text))
}

/// The figure, or that there is none: a table has no room for the reason.
fn short<T: Display>(figure: &Measured<T>) -> String {
    figure.value().map_or_else(|| "?".to_owned(), T::to_string)
}

fn processor(processor: &Processor) -> String {
    let instructions = &processor.instructions;
    format!(
        "{}; {}; decodes with {}, multiplies with {}",
        processor.name, processor.cores, instructions.decode, instructions.products
    )
}

fn caches(processor: &Processor) -> String {
    let caches = &processor.caches;
    if let Some(reason) = caches.last_level_total.why_not() {
        return format!("not measured: {reason}");
    }
    let levels = [
        ("L1", &caches.l1_data),
        ("L2", &caches.l2),
        ("L3", &caches.l3),
    ];
    let known = levels.into_iter().filter_map(|(name, bytes)| {
        let bytes = bytes.value()?;
        Some(format!("{name} {bytes}"))
    });
    let known: Vec<String> = known.collect();
    format!(
        "{}; all of the last level {}",
        known.join(", "),
        caches.last_level_total
    )
}

fn memory(report: &ProfileReport) -> String {
    let memory = &report.memory;
    let limit = memory.limit.value();
    let limit = limit.map_or_else(String::new, |limit| format!("; control group {limit}"));
    format!("{}; available {}{limit}", memory.total, memory.available)
}

fn gpu(report: &ProfileReport) -> String {
    let gpu = &report.gpu;
    match (gpu.devices.value(), gpu.driver_library.value()) {
        (None, None) => format!("not measured: {}", short_of_two(gpu)),
        _ => format!(
            "{} ({}); driver {}; library {}",
            gpu.devices, gpu.names, gpu.driver_version, gpu.driver_library
        ),
    }
}

/// Why neither a device nor a library is there.
fn short_of_two(gpu: &crate::plan::facts::Gpu) -> String {
    let reasons = [gpu.devices.why_not(), gpu.driver_library.why_not()];
    let reasons: Vec<&str> = reasons.into_iter().flatten().collect();
    reasons.join("; ")
}

fn disk(report: &ProfileReport) -> String {
    let disk = &report.disk;
    if let Some(reason) = disk.read.why_not() {
        return format!("not measured: {reason}");
    }
    let age = report.disk_age_seconds.unwrap_or(0);
    format!(
        "{} ({}, device {}, read {}), measured {}",
        disk.read,
        short(&disk.file_system),
        short(&disk.device),
        short(&disk.read_by),
        ago(age)
    )
}

fn table(report: &ProfileReport) -> Vec<String> {
    let rates = &report.rates;
    let counts: Vec<usize> = rates
        .memory_read
        .0
        .iter()
        .map(|rate| rate.threads)
        .collect();
    let heads: Vec<String> = counts
        .iter()
        .map(|count| counted(*count as u64, "thread"))
        .collect();
    let mut rows = vec![row("rates", &heads)];
    rows.push(rate("read memory", &rates.memory_read, &counts));
    rows.push(rate("decode R16", &rates.decode_r16, &counts));
    rows.push(rate("decode R32", &rates.decode_r32, &counts));
    rows.push(rate("BF16 times a vector", &rates.gemv_bf16, &counts));
    rows.push(rate("packed times a vector", &rates.gemv_packed, &counts));
    rows.push(rate("R16 times a vector", &rates.gemv_r16, &counts));
    rows.push(rate("R32 times a vector", &rates.gemv_r32, &counts));
    rows.push(rate("BF16 times 8 vectors", &rates.gemm_bf16_8, &counts));
    rows.push(rate("BF16 times 64 vectors", &rates.gemm_bf16_64, &counts));
    if let Some(reason) = rates.memory_read.with(1).why_not() {
        rows.push(format!("? not measured: {}", escaped(reason)));
    }
    rows
}

fn row(name: &str, cells: &[String]) -> String {
    let cells = cells.iter().map(|cell| format!("{cell:>14}"));
    format!("{name:<24}{}", cells.collect::<String>())
        .trim_end()
        .to_owned()
}

fn rate<T: Quantity + Clone + Display>(
    name: &str,
    rates: &ByThreads<T>,
    counts: &[usize],
) -> String {
    let cell = |threads: &usize| {
        let there = rates.0.iter().find(|rate| rate.threads == *threads);
        there.map_or_else(String::new, |rate| short(&rate.rate))
    };
    row(name, &counts.iter().map(cell).collect::<Vec<_>>())
}

fn age(report: &ProfileReport) -> String {
    let when = ago(report.age_seconds);
    match &report.kept_in {
        Some(path) if report.age_seconds > 0 => {
            let path = escaped(&path.to_string_lossy());
            format!("measured {when}, from `{path}`; `--refresh` measures anew")
        }
        Some(path) => format!(
            "measured {when}, kept in `{}`",
            escaped(&path.to_string_lossy())
        ),
        None => format!("measured {when}, not kept"),
    }
}

/// That others were at work meanwhile, so that rates are lower than they could be.
fn disturbed(report: &ProfileReport) -> Option<String> {
    const SHARE_USUAL: u64 = 90;
    let share = report.processor_share.value()?;
    (share.0 < SHARE_USUAL).then(|| {
        format!(
            "others were at work meanwhile: the threads had {share} of their time, and \
             `--refresh` may find more"
        )
    })
}

/// `now`, `5 minutes ago`.
fn ago(seconds: u64) -> String {
    let units = [
        (86_400, "day"),
        (3_600, "hour"),
        (60, "minute"),
        (1, "second"),
    ];
    let unit = units.into_iter().find(|(len, _)| seconds >= *len);
    unit.map_or_else(
        || "now".to_owned(),
        |(len, name)| format!("{} ago", counted(seconds / len, name)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_unit() {
        let told = [0, 1, 59, 60, 7_300, 200_000].map(ago);
        let expected = [
            "now",
            "1 second ago",
            "59 seconds ago",
            "1 minute ago",
            "2 hours ago",
            "2 days ago",
        ];
        assert_eq!(told, expected);
    }
}
