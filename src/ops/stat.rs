//! Stat: a table of tensors, from the index of an image or the header of a safetensors file.

use std::cmp::Ordering;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::FileRecord;
use crate::archive::ModelFile;
use crate::archive::Opening;
use crate::base::Progress;
use crate::base::Result;
use crate::base::progress::Skipped;
use crate::base::units;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::info;
use crate::ops::report;
use crate::tensor::Span;
use crate::tensor::SpanKind;

/// What a table is sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SortBy {
    /// The order of the files.
    Place,
    /// Names, with numbers by their value.
    Name,
    /// Original bytes.
    Size,
    /// Coded bytes.
    Coded,
    /// Coded in percent of original bytes.
    Percent,
}

/// What is listed, and in which order.
#[derive(Debug, Clone)]
pub(crate) struct StatOptions {
    /// Only tensors whose names have this in them.
    pub named: Option<String>,
    /// Only tensors of this dtype.
    pub dtype: Option<String>,
    /// Only tensors with a block of this codec.
    pub codec: Option<String>,
    /// In which order.
    pub sort_by: SortBy,
    /// The other way round.
    pub reverse: bool,
    /// Only so many.
    pub at_most: Option<usize>,
}

/// A tensor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// The file within the image of a folder.
    pub file: String,
    /// The tensor.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// Coded bytes, tables included; none in a file that is not compressed.
    pub coded_bytes: Option<u64>,
    /// Those in percent of its bytes.
    pub percent: Option<f64>,
    /// Blocks by codec.
    pub codecs: std::collections::BTreeMap<String, u64>,
    /// The tensor of another model that it is stored as differences from.
    pub base: Option<String>,
    /// The tensor of the same bytes that is stored in its place.
    pub repeats: Option<String>,
}

/// The table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StatReport {
    /// Its rows.
    pub tensors: Vec<Row>,
    /// How many tensors there are, listed or not.
    pub tensors_in_all: u64,
    /// Bytes of those that are listed.
    pub bytes: u64,
    /// Coded bytes of those that are listed and compressed.
    pub coded_bytes: u64,
}

/// Lists the tensors of an image or a safetensors file, or of all of them under a folder.
pub(crate) fn stat(
    source: &Path,
    options: &StatOptions,
    progress: &dyn Progress,
) -> Result<StatReport> {
    let mut rows = Vec::new();
    if source.is_dir() {
        for entry in folder::walk(source, progress)? {
            let full = source.join(&entry.path);
            let is_ours = || folder::is_image(&full) || folder::is_model(&full);
            if entry.kind == EntryKind::File && is_ours() {
                match rows_of(&full) {
                    Ok(of_file) => rows.extend(of_file),
                    Err(error) => progress.skip(Skipped::no_good(&full, &error))?,
                }
            }
        }
    } else {
        rows = rows_of(source)?;
    }
    let tensors_in_all = rows.len() as u64;
    let wanted = |row: &Row| {
        let named = options.named.as_ref();
        named.is_none_or(|part| row.name.contains(part.as_str()))
            && options
                .dtype
                .as_ref()
                .is_none_or(|dtype| row.dtype.eq_ignore_ascii_case(dtype))
            && options
                .codec
                .as_ref()
                .is_none_or(|codec| row.codecs.contains_key(codec))
    };
    rows.retain(wanted);
    rows.sort_by(|a, b| compare(a, b, options.sort_by));
    if options.reverse {
        rows.reverse();
    }
    rows.truncate(options.at_most.unwrap_or(usize::MAX));
    Ok(StatReport {
        tensors_in_all,
        bytes: rows.iter().map(|row| row.bytes).sum(),
        coded_bytes: rows.iter().filter_map(|row| row.coded_bytes).sum(),
        tensors: rows,
    })
}

/// The largest first, names in ascending order.
fn compare(a: &Row, b: &Row, sort_by: SortBy) -> Ordering {
    match sort_by {
        SortBy::Place => Ordering::Equal,
        SortBy::Name => crate::tensor::natural(&a.name, &b.name),
        SortBy::Size => b.bytes.cmp(&a.bytes),
        SortBy::Coded => b.coded_bytes.cmp(&a.coded_bytes),
        SortBy::Percent => b.percent.partial_cmp(&a.percent).unwrap_or(Ordering::Equal),
    }
}

fn rows_of(path: &Path) -> Result<Vec<Row>> {
    let file = ModelFile::open(path, &Opening::default())?;
    let Some(archive) = file.archive() else {
        let spans = file.originals().iter().flat_map(|file| &file.layout.spans);
        let tensors = spans.filter(|span| span.kind == SpanKind::Tensor);
        return Ok(tensors.map(|span| Row::plain(path, span)).collect());
    };
    let of_file = |file: &FileRecord| {
        let spans = archive.spans(file).iter();
        let tensors = spans.filter(|record| record.span.kind == SpanKind::Tensor);
        let rows = tensors.map(|record| {
            let info = info::span_info(archive, record);
            Row {
                file: file.path.clone(),
                coded_bytes: Some(info.coded_bytes),
                percent: Some(units::percent(info.coded_bytes, info.original_bytes)),
                codecs: info.codecs,
                base: info.base.map(|base| base.name),
                repeats: info.repeats,
                ..Row::plain(path, &record.span)
            }
        });
        rows.collect::<Vec<_>>()
    };
    Ok(archive.files().iter().flat_map(of_file).collect())
}

impl Row {
    /// A tensor that is not compressed.
    fn plain(path: &Path, span: &Span) -> Self {
        Self {
            path: path.to_owned(),
            file: String::new(),
            name: span.name.clone(),
            dtype: span.dtype.clone(),
            shape: span.shape.clone(),
            bytes: span.len,
            coded_bytes: None,
            percent: None,
            codecs: std::collections::BTreeMap::new(),
            base: None,
            repeats: None,
        }
    }
}
