//! Xray: what the numbers of a model say of where they come from. Measured against fresh random
//! numbers of the same scale, never guessed from names.

pub(crate) mod control;
pub(crate) mod judge;
pub(crate) mod measure;
pub(crate) mod spectrum;
pub(crate) mod trained;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::OriginalFile;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::report;
use crate::tensor::Span;
use crate::tensor::SpanKind;

pub(crate) use judge::Findings;
pub(crate) use judge::Flag;
pub(crate) use measure::Measure;

/// Bytes read at once.
const PIECE_LEN: u64 = 1 << 20;

/// How to look.
#[derive(Debug, Clone)]
pub(crate) struct XrayOptions {
    /// Where the bases of deltas are looked for.
    pub bases: Vec<PathBuf>,
    /// Only tensors whose names have this in them.
    pub named: Option<String>,
    /// Only tensors of at least so many elements.
    pub elements_min: u64,
    /// Also how much lies in each matrix's strongest direction, which takes longer.
    pub spectrum: bool,
    /// Threads to use.
    pub threads: usize,
}

/// One tensor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TensorXray {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// What was found; none for what holds no floats of one, two or four bytes.
    #[serde(flatten)]
    pub findings: Option<Findings>,
    /// The share of its squares that its strongest direction has, where that was asked for.
    pub concentration: Option<f64>,
}

/// A model.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct XrayReport {
    /// The file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Its tensors, in the order of the file.
    pub tensors: Vec<TensorXray>,
    /// How many tensors have each flag.
    pub flags: BTreeMap<&'static str, u64>,
    /// Elements that are not a number.
    pub nans: u64,
    /// Elements that are infinite.
    pub infinities: u64,
    /// Bytes of F32 tensors of 4,096 elements and more that are not constant.
    pub f32_bytes: u64,
    /// Those of them whose every number would fit into BF16.
    pub bf16_in_f32_bytes: u64,
    /// Those whose every number would fit into F16, and not BF16.
    pub f16_in_f32_bytes: u64,
    /// Bytes of the matrices that can be told from fresh random numbers, or not.
    pub judged_bytes: u64,
    /// Those of them that cannot.
    pub unstructured_bytes: u64,
    /// Whether most of the model cannot: it looks as if it was never trained.
    pub looks_untrained: bool,
}

/// Looks at a safetensors file, or at what an image of one holds.
pub(crate) fn xray(
    path: &Path,
    options: &XrayOptions,
    progress: &dyn Progress,
) -> Result<XrayReport> {
    let model = open(path, options, progress)?;
    let wanted = |span: &&Span| {
        let elements: u64 = span.shape.iter().product();
        let is_named = options
            .named
            .as_ref()
            .is_none_or(|part| span.name.contains(part.as_str()));
        span.kind == SpanKind::Tensor && is_named && elements >= options.elements_min
    };
    let spans: Vec<&Span> = model.layout.spans.iter().filter(wanted).collect();
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(
        &format!("looking at {label}"),
        spans.iter().map(|span| span.len).sum(),
    );
    let mut tensors = Vec::with_capacity(spans.len());
    parallel::ordered(
        options.threads,
        spans.len(),
        || (),
        |(), number| look(&*model.bytes, spans[number], options.spectrum, progress),
        |_, tensor| {
            tensors.push(tensor);
            Ok(())
        },
    )
    .map_err(|e| e.file(path))?;
    progress.end();
    Ok(conclude(path, tensors))
}

fn open(path: &Path, options: &XrayOptions, progress: &dyn Progress) -> Result<OriginalFile> {
    if path.is_dir() {
        return Err(Error::invalid("is a folder")
            .file(path)
            .hint("name one model in it"));
    }
    let bases = Arc::new(SearchPaths::new(&options.bases, path).or_beside(path));
    let file = base::open_model_file(path, &bases, options.threads, progress);
    let file = file.map_err(|e| match e.kind() {
        ErrorKind::Invalid => e.hint("name a safetensors file, or an image of one"),
        _ => e,
    })?;
    file.only_model().cloned()
}

fn look(
    source: &dyn ReadAt,
    span: &Span,
    spectrum: bool,
    progress: &dyn Progress,
) -> Result<TensorXray> {
    let measure = Measure::new(&span.dtype, &span.shape);
    let findings = measure.map(|mut measure| {
        let mut piece = vec![0; PIECE_LEN.min(span.len) as usize];
        let mut at = 0;
        while at < span.len {
            progress.check()?;
            let len = (span.len - at).min(PIECE_LEN) as usize;
            source.read_exact_at(span.start + at, &mut piece[..len])?;
            measure.take(&piece[..len]);
            progress.advance(len as u64);
            at += len as u64;
        }
        Ok(judge::judge(&measure, &span.dtype))
    });
    let findings = findings.transpose()?;
    let concentration = spectrum
        .then(|| spectrum::concentration(source, span))
        .transpose()?;
    Ok(TensorXray {
        name: span.name.clone(),
        dtype: span.dtype.clone(),
        shape: span.shape.clone(),
        bytes: span.len,
        findings,
        concentration: concentration.flatten(),
    })
}

fn conclude(path: &Path, tensors: Vec<TensorXray>) -> XrayReport {
    let mut flags = BTreeMap::new();
    let (mut judged_bytes, mut unstructured_bytes) = (0, 0);
    let (mut nans, mut infinities) = (0, 0);
    let (mut f32_bytes, mut bf16_in_f32_bytes, mut f16_in_f32_bytes) = (0, 0, 0);
    for tensor in &tensors {
        let Some(findings) = &tensor.findings else {
            continue;
        };
        nans += findings.nans;
        infinities += findings.infinities;
        let bytes_if = |flag: Flag| {
            let is_so = findings.flags.contains(&flag);
            if is_so { tensor.bytes } else { 0 }
        };
        let is_wide = tensor.dtype == "F32" && tensor.bytes >= 4 * judge::ELEMENTS_MIN;
        if is_wide && !findings.flags.contains(&Flag::Constant) {
            f32_bytes += tensor.bytes;
            bf16_in_f32_bytes += bytes_if(Flag::Bf16Lineage);
            f16_in_f32_bytes += bytes_if(Flag::F16Lineage);
        }
        for flag in &findings.flags {
            *flags.entry(flag.name()).or_default() += 1;
        }
        if findings.is_judged() {
            judged_bytes += tensor.bytes;
            unstructured_bytes += bytes_if(Flag::Unstructured);
        }
    }
    XrayReport {
        path: path.to_owned(),
        tensors,
        flags,
        nans,
        infinities,
        f32_bytes,
        bf16_in_f32_bytes,
        f16_in_f32_bytes,
        judged_bytes,
        unstructured_bytes,
        looks_untrained: unstructured_bytes > judged_bytes / 2,
    }
}
