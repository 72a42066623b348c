//! What info says of an image, for people.

use std::collections::BTreeMap;

use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::render;
use crate::ops::info::BaseSummary;
use crate::ops::info::ImageInfo;

/// Its sizes, dtypes, base and files, and its tensors if that is wanted.
pub(super) fn text(image: &ImageInfo, tensors: bool) -> String {
    let mut lines = vec![format!(
        "{}: {} of {}, format {}, {} -> {} ({:.2} % of its size), {} of it index",
        image.path.display(),
        if image.kind == "folder" {
            "image of a folder"
        } else {
            "image"
        },
        counted(image.files.len() as u64, "file"),
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
            format!("{}, ", counted(sum.tensors, "tensor"))
        };
        let name = if dtype == "-" {
            "headers, other"
        } else {
            dtype
        };
        lines.push(format!(
            "  {name:<14} {tensors}{} -> {} ({:.2} % of that)  {}",
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
                "    {:<60} {:<8} {:?} {} -> {} ({:.2} % of that) {}",
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
    let files = files.join(", ");
    let old_path = match base.place.as_str() {
        "" => String::new(),
        path => format!(", which was `{}` when it was made", escaped(path)),
    };
    let where_now = match (&base.missing, base.at_hand) {
        (Some(name), _) => format!("is missing here, such as its tensor `{}`", escaped(name)),
        (None, "yes") => format!("is here: {files}"),
        _ if files.is_empty() => {
            "is not here, as far as was looked: models here have other tensors of its names"
                .to_owned()
        }
        _ => format!("is here, as far as was looked: {files}"),
    };
    format!(
        "  {} stored as differences from a base{old_path}; the base {where_now}",
        counted(base.tensors, "tensor")
    )
}

fn codecs(codecs: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = codecs
        .iter()
        .map(|(codec, count)| format!("{} {codec}", counted(*count, "block")))
        .collect();
    parts.join(", ")
}
