//! `bigsmall info`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::error::escaped;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::global::Global;
use crate::cli::render;
use crate::ops::info;
use crate::ops::info::BaseSummary;
use crate::ops::info::ImageInfo;

/// Words of `info`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    source: PathBuf,
    /// List every tensor
    #[arg(short, long)]
    tensors: bool,
    /// Where the bases of deltas are looked for, instead of beside the image
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let report = info::info(&arguments.source, &arguments.base)?;
    if global.json {
        render::json("bigsmall.info/1", &report)?;
    } else {
        let images = report
            .images
            .iter()
            .map(|image| text(image, arguments.tensors));
        render::out(&images.collect::<Vec<_>>().join("\n\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(image: &ImageInfo, tensors: bool) -> String {
    let mut lines = vec![format!(
        "{}: {} of {} file(s), format {}, {} -> {} ({:.2} %), index {}",
        image.path.display(),
        if image.kind == "folder" {
            "folder"
        } else {
            "image"
        },
        image.files.len(),
        image.format_version,
        human_bytes(image.original_bytes),
        human_bytes(image.image_bytes),
        image.percent,
        human_bytes(image.index_bytes)
    )];
    for (dtype, sum) in &image.dtypes {
        let tensors = if dtype == "-" {
            String::new()
        } else {
            format!("{} tensors ", sum.tensors)
        };
        let name = if dtype == "-" { "other" } else { dtype };
        lines.push(format!(
            "  {name:<12} {tensors}{} -> {} ({:.2} %)  {}",
            human_bytes(sum.original_bytes),
            human_bytes(sum.coded_bytes),
            percent(sum.coded_bytes, sum.original_bytes),
            codecs(&sum.codecs)
        ));
    }
    lines.extend(image.base.as_ref().map(base_text));
    lines.extend(image.members.as_deref().map(render::members));
    for file in &image.files {
        let path = if file.path.is_empty() {
            ""
        } else {
            &escaped(&file.path)
        };
        let bytes = file.original_bytes;
        lines.push(format!(
            "  {} {path} {bytes} bytes, sha256 {}",
            file.kind, file.sha256
        ));
        for span in file.spans.iter().filter(|_| tensors) {
            lines.push(format!(
                "    {:<60} {:<8} {:?} {} -> {} ({:.2} %) {}",
                escaped(&span.name),
                span.dtype,
                span.shape,
                span.original_bytes,
                span.coded_bytes,
                percent(span.coded_bytes, span.original_bytes),
                codecs(&span.codecs)
            ));
        }
    }
    lines.join("\n")
}

fn base_text(base: &BaseSummary) -> String {
    let files: Vec<String> = base.files.iter().map(|f| f.display().to_string()).collect();
    let place = match base.place.as_str() {
        "" => String::new(),
        place => format!(", `{}` when it was made", escaped(place)),
    };
    let where_now = match (&base.missing, files.as_slice()) {
        (Some(name), _) => format!(", as tensor `{}` is nowhere here", escaped(name)),
        (None, []) => String::new(),
        (None, files) => format!(", {}", files.join(", ")),
    };
    format!(
        "  {} tensors are differences from another model{place}; at hand: {}{where_now}",
        base.tensors, base.at_hand
    )
}

fn codecs(codecs: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = codecs
        .iter()
        .map(|(codec, count)| format!("{codec} x{count}"))
        .collect();
    parts.join(" ")
}
