//! `bigsmall diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::base::Result;
use crate::base::error::escaped;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::compress::CompressReport;
use crate::ops::diff;
use crate::ops::diff::DiffReport;
use crate::ops::diff::TensorDiff;

/// Words of `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tensors are compared by name, in whatever files they are: models, images, or folders of them.
Exit code 0: all tensors are the same. 1: some differ.")]
pub(crate) struct Arguments {
    /// A model: a file, an image, or a folder of them
    a: PathBuf,
    /// Another one
    b: PathBuf,
    /// Also store B as its differences from A, in this image
    #[arg(long, value_name = "IMAGE")]
    patch: Option<PathBuf>,
    /// Replace an image that exists
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    diff: DiffReport,
    patch: Option<CompressReport>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let progress = Bar::new(global);
    let diff = diff::diff(&arguments.a, &arguments.b, global.threads(), &progress)?;
    let patch = arguments.patch.as_ref().map(|image| {
        let (a, b) = (&arguments.a, &arguments.b);
        diff::patch(a, b, image, arguments.force, global.threads(), &progress)
    });
    let report = Report {
        diff,
        patch: patch.transpose()?,
    };
    if global.json {
        render::json("bigsmall.diff/1", &report)?;
    } else if !global.quiet {
        let mut lines = text(&report.diff);
        lines.extend(report.patch.as_ref().map(render::compressed));
        render::out(&lines.join("\n"))?;
    }
    Ok(if report.diff.same {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FINDINGS)
    })
}

fn text(report: &DiffReport) -> Vec<String> {
    let mut lines: Vec<String> = report.changed.iter().map(changed).collect();
    for tensor in &report.reshaped {
        let ((a, from), (b, to)) = (&tensor.a, &tensor.b);
        let name = escaped(&tensor.name);
        lines.push(format!("{name:<60} {a} {from:?} is {b} {to:?}"));
    }
    for (names, side) in [
        (&report.only_in_a, &report.a),
        (&report.only_in_b, &report.b),
    ] {
        for name in names {
            let name = escaped(name);
            lines.push(format!("{name:<60} only in {}", side.display()));
        }
    }
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
        "{name:<60} {:<8} {} of {} bytes differ",
        tensor.dtype,
        human_bytes(tensor.differing_bytes),
        human_bytes(tensor.bytes)
    );
    let (Some(differing), Some(all), Some(max), Some(rms), Some(value)) = (
        tensor.differing_elements,
        tensor.elements,
        tensor.max_difference,
        tensor.rms_difference,
        tensor.rms_value,
    ) else {
        return line;
    };
    let share = percent(differing, all);
    format!(
        "{line}, {share:.1} % of its elements; at most {max:.3e}, rms {rms:.3e} of values of {value:.3e}"
    )
}
