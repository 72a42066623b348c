//! What diff found, for people.

use std::path::PathBuf;

use crate::base::error::escaped;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::render;
use crate::ops::diff::DiffReport;
use crate::ops::diff::Reshaped;
use crate::ops::diff::TensorDiff;

/// Tensors that differ or are missing, what is odd, and the sum.
pub(super) fn text(report: &DiffReport) -> Vec<String> {
    let mut lines: Vec<String> = report.changed.iter().map(changed).collect();
    lines.extend(report.reshaped.iter().map(reshaped));
    for (names, side) in [
        (&report.only_in_a, &report.a),
        (&report.only_in_b, &report.b),
    ] {
        for name in names {
            let name = escaped(name);
            lines.push(format!("{name:<60} only in {}", side.display()));
        }
    }
    lines.extend(render::notes(&report.notes));
    let others = report.changed.len() + report.reshaped.len();
    lines.push(format!(
        "{} tensors are the same, {others} differ, {} are only in the first, {} only in the second",
        report.same_tensors,
        report.only_in_a.len(),
        report.only_in_b.len()
    ));
    lines
}

fn changed(tensor: &TensorDiff) -> String {
    let name = escaped(&tensor.name);
    let line = format!(
        "{name:<60} {:<8} {} of {} differ{}",
        tensor.dtype,
        human_bytes(tensor.differing_bytes),
        human_bytes(tensor.bytes),
        in_files(&tensor.files)
    );
    let differing = tensor.differing_elements.zip(tensor.elements);
    let Some((differing, all)) = differing else {
        return line;
    };
    let share = percent(differing, all);
    let distance = distance(
        tensor.max_difference,
        tensor.rms_difference,
        tensor.rms_value,
    );
    format!("{line}, {share:.1} % of its elements{distance}")
}

fn reshaped(tensor: &Reshaped) -> String {
    let ((a, from), (b, to)) = (&tensor.a, &tensor.b);
    let name = escaped(&tensor.name);
    let line = format!(
        "{name:<60} {a} {from:?} is {b} {to:?}{}",
        in_files(&tensor.files)
    );
    match tensor.differing_elements.zip(tensor.elements) {
        None => line,
        Some((0, _)) => format!("{line}, every number is the same"),
        Some((differing, all)) => {
            let share = percent(differing, all);
            let (max, rms) = (tensor.max_difference, tensor.rms_difference);
            let distance = distance(max, rms, tensor.rms_value);
            format!("{line}, {share:.1} % of its numbers differ{distance}")
        }
    }
}

fn distance(max: Option<f64>, rms: Option<f64>, value: Option<f64>) -> String {
    let (Some(max), Some(rms), Some(value)) = (max, rms, value) else {
        return String::new();
    };
    format!("; by {max:.3e} at most, by {rms:.3e} rms, of values of {value:.3e} rms")
}

fn in_files(files: &[PathBuf]) -> String {
    match files {
        [a, b] => format!(" (`{}` and `{}`)", a.display(), b.display()),
        _ => String::new(),
    }
}
