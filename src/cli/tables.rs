//! Tables of tensors, for people.

use std::fmt::Write;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::legend;
use crate::ops::stat::Row;
use crate::ops::stat::StatReport;
use crate::ops::xray::TensorXray;
use crate::ops::xray::XrayReport;

/// The table of stat.
pub(super) fn stat(report: &StatReport) -> String {
    let mut lines = vec![format!(
        "{:<56} {:<8} {:<18} {:>9} {:>9} {:>7} {}",
        "tensor", "dtype", "shape", "bytes", "coded", "%", "blocks by codec"
    )];
    lines.extend(report.tensors.iter().map(stat_row));
    let is_coded = report.tensors.iter().any(|row| row.coded_bytes.is_some());
    let coded = if is_coded {
        format!(" -> {}", human_bytes(report.coded_bytes))
    } else {
        String::new()
    };
    lines.push(format!(
        "{} of {}, {}{coded}",
        report.tensors.len(),
        counted(report.tensors_in_all, "tensor"),
        human_bytes(report.bytes)
    ));
    lines.join("\n")
}

fn stat_row(row: &Row) -> String {
    let coded = row.coded_bytes.map_or_else(String::new, human_bytes);
    let percent = row
        .percent
        .map_or_else(String::new, |percent| format!("{percent:.2}"));
    let mut line = format!(
        "{:<56} {:<8} {:<18} {:>9} {coded:>9} {percent:>7}",
        escaped(&row.name),
        row.dtype,
        format!("{:?}", row.shape),
        human_bytes(row.bytes)
    );
    let mut tell = |text: String| {
        line.push(' ');
        line.push_str(&text);
    };
    for (codec, count) in &row.codecs {
        tell(format!("{} {codec}", counted(*count, "block")));
    }
    if let Some(base) = &row.base {
        tell(format!("differences from `{}`", escaped(base)));
    }
    if let Some(of) = &row.repeats {
        tell(format!("the same as `{}`", escaped(of)));
    }
    line
}

/// What xray found: tensors with something to say of, or all.
pub(super) fn xray(report: &XrayReport, all: bool) -> String {
    let mut lines = vec![format!(
        "{}: {}. {}",
        report.path.display(),
        counted(report.tensors.len() as u64, "tensor"),
        legend::verdict(report)
    )];
    let told = |tensor: &&TensorXray| {
        let flagged = tensor
            .findings
            .as_ref()
            .is_some_and(|found| !found.flags.is_empty());
        all || flagged || tensor.concentration.is_some()
    };
    let told: Vec<&TensorXray> = report.tensors.iter().filter(told).collect();
    if !told.is_empty() {
        lines.push(format!(
            "{:<56} {:<8} {:>11} {:>6} {:>6} {:>6} {:>7} {:>10}",
            "tensor", "dtype", "elements", "sign", "exp.", "mant.", "floor %", "rms"
        ));
    }
    let flags = legend::flags(report);
    let is_told = !told.is_empty();
    lines.extend(told.into_iter().map(xray_row));
    if is_told {
        lines.push(
            "sign, exp., mant.: bits that each number carries there; floor: what no code of single \
             numbers gets below"
                .to_owned(),
        );
        let meaning = |(name, meaning): (&str, &str)| format!("{name}: {meaning}");
        lines.extend(flags.into_iter().map(meaning));
    }
    lines.join("\n")
}

fn xray_row(tensor: &TensorXray) -> String {
    let elements: u64 = tensor.shape.iter().product();
    let name = escaped(&tensor.name);
    let mut line = format!("{name:<56} {:<8} {elements:>11}", tensor.dtype);
    let Some(found) = &tensor.findings else {
        return line;
    };
    let entropy = found.entropy;
    let _ = write!(
        line,
        " {:>6.3} {:>6.3} {:>6.3} {:>7.2} {:>10.3e}",
        entropy.sign, entropy.exponent, entropy.mantissa, found.floor_percent, found.rms
    );
    if let Some(share) = tensor.concentration {
        let _ = write!(line, "  {:.1} % in one direction", share * 100.0);
    }
    for flag in &found.flags {
        line.push_str("  ");
        line.push_str(flag.name());
    }
    line
}
