//! What the words of xray's report say, and what to think of the model, in a sentence or two.

use crate::base::units::human_bytes;
use crate::ops::xray::Flag;
use crate::ops::xray::XrayReport;

/// The columns of the page's table.
pub(super) const COLUMNS: [(&str, &str); 4] = [
    (
        "sign, exponent, mantissa",
        "bits that each number carries there, of 1, 8 and 7 in BF16, and in the upper half of F32",
    ),
    (
        "of normal numbers",
        "exponent + mantissa of normal numbers as large: what a fresh tensor would have",
    ),
    (
        "floor",
        "the share of the tensor's size below which no code of single numbers gets",
    ),
    ("rms", "root mean square"),
];

/// The flags that were raised, and what they say.
pub(super) fn flags(report: &XrayReport) -> Vec<(&'static str, &'static str)> {
    let found = report.tensors.iter().filter_map(|t| t.findings.as_ref());
    let mut flags: Vec<Flag> = found.flat_map(|found| found.flags.clone()).collect();
    flags.sort();
    flags.dedup();
    flags
        .into_iter()
        .map(|flag| (flag.name(), flag.meaning()))
        .collect()
}

/// What to think of it.
pub(super) fn verdict(report: &XrayReport) -> String {
    let mut sentences = vec![trained(report)];
    sentences.extend(lineage(report));
    if report.nans > 0 || report.infinities > 0 {
        sentences.push(format!(
            "{} of its numbers are NaN, {} are infinite.",
            report.nans, report.infinities
        ));
    }
    sentences.join(" ")
}

fn trained(report: &XrayReport) -> String {
    if report.judged_bytes == 0 {
        return "No matrix is large enough to be told from random numbers.".to_owned();
    }
    let (judged, fresh) = (report.judged_bytes, report.unstructured_bytes);
    if report.looks_untrained {
        return format!(
            "It looks untrained: {} of {} in matrices cannot be told from fresh random numbers.",
            human_bytes(fresh),
            human_bytes(judged)
        );
    }
    if fresh > 0 {
        return format!(
            "It looks trained, but {} of {} in matrices cannot be told from fresh random numbers.",
            human_bytes(fresh),
            human_bytes(judged)
        );
    }
    format!(
        "It looks trained: all {} in matrices differ from random numbers.",
        human_bytes(judged)
    )
}

/// What the F32 of a model was before.
fn lineage(report: &XrayReport) -> Option<String> {
    let all = report.f32_bytes;
    let narrow = [
        ("BF16", report.bf16_in_f32_bytes),
        ("F16", report.f16_in_f32_bytes),
    ];
    let (dtype, bytes) = narrow.into_iter().max_by_key(|(_, bytes)| *bytes)?;
    if bytes == 0 {
        return None;
    }
    Some(if bytes == all {
        format!(
            "All of its F32 ({}) holds numbers of {dtype}: it was {dtype} once, most likely.",
            human_bytes(all)
        )
    } else {
        format!(
            "{} of its {} of F32 hold numbers of {dtype}: \
             those tensors were {dtype} once, most likely.",
            human_bytes(bytes),
            human_bytes(all)
        )
    })
}
