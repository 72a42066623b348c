//! What diff found, for people.

use std::path::PathBuf;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::render;
use crate::ops::diff::DiffReport;
use crate::ops::diff::Distance;
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
        "{} the same, {others} differ, {} only in the first, {} only in the second",
        counted(report.same_tensors, "tensor"),
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
    match numbers(&tensor.distance) {
        None => line,
        Some((_, share, by)) => format!("{line}, {share:.1} % of its elements{by}"),
    }
}

fn reshaped(tensor: &Reshaped) -> String {
    let ((a, from), (b, to)) = (&tensor.a, &tensor.b);
    let name = escaped(&tensor.name);
    let line = format!(
        "{name:<60} {a} {from:?} is {b} {to:?}{}",
        in_files(&tensor.files)
    );
    match numbers(&tensor.distance) {
        None => line,
        Some((0, ..)) => format!("{line}, every number is the same"),
        Some((_, share, by)) => format!("{line}, {share:.1} % of its numbers differ{by}"),
    }
}

/// How many numbers differ, what percentage that is, and by how much.
fn numbers(distance: &Distance) -> Option<(u64, f64, String)> {
    let differing = distance.differing_elements?;
    let share = percent(differing, distance.elements?);
    let (max, rms) = (distance.max_difference?, distance.rms_difference?);
    let value = distance.rms_value?;
    let by = format!("; by {max:.3e} at most, by {rms:.3e} rms, of values of {value:.3e} rms");
    Some((differing, share, by))
}

fn in_files(files: &[PathBuf]) -> String {
    match files {
        [a, b] => format!(" (`{}` and `{}`)", a.display(), b.display()),
        _ => String::new(),
    }
}
