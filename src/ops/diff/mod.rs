//! Diff: which tensors of two models differ, and by how much, in bytes and in values.

mod distance;
mod pairs;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::Model;
use crate::archive::Opening;
use crate::archive::Tensor;
use crate::base::Progress;
use crate::base::Result;
use crate::codec::Profile;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::CompressReport;
use crate::ops::report;
use crate::ops::shard_notes;
use crate::tensor::Span;
use crate::tensor::values;
use crate::tensor::values::Values;

use distance::Sums;
use pairs::Pair;

/// By how much the numbers in two tensors differ; all of it none where their elements are no
/// numbers in whole bytes.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Distance {
    /// Elements of each.
    pub elements: Option<u64>,
    /// How many of them differ: in their bits, or as numbers where the dtypes differ.
    pub differing_elements: Option<u64>,
    /// The largest difference of two finite values.
    pub max_difference: Option<f64>,
    /// The root of the mean square of the differences of all finite values.
    pub rms_difference: Option<f64>,
    /// The root of the mean square of the first model's finite values.
    pub rms_value: Option<f64>,
}

impl Distance {
    /// Of so many elements.
    fn of(elements: u64, sums: &Sums) -> Self {
        let (max, rms, value) = sums.distance();
        Self {
            elements: Some(elements),
            differing_elements: Some(sums.elements),
            max_difference: Some(max),
            rms_difference: Some(rms),
            rms_value: Some(value),
        }
    }
}

/// A tensor whose bytes differ.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct TensorDiff {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// How many of them differ.
    pub differing_bytes: u64,
    /// By how much its numbers differ.
    #[serde(flatten)]
    pub distance: Distance,
    /// The files that it is in, where its name stands several times in a model.
    #[serde(serialize_with = "report::paths")]
    pub files: Vec<PathBuf>,
}

/// A tensor that has another dtype or shape.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reshaped {
    /// Its name.
    pub name: String,
    /// Dtype and shape in the first model.
    pub a: (String, Vec<u64>),
    /// Dtype and shape in the second.
    pub b: (String, Vec<u64>),
    /// By how much its numbers differ, made wider exactly, where it has the same shape in both.
    #[serde(flatten)]
    pub distance: Distance,
    /// The files that it is in, where its name stands several times in a model.
    #[serde(serialize_with = "report::paths")]
    pub files: Vec<PathBuf>,
}

/// How two models differ.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct DiffReport {
    /// The first model.
    #[serde(serialize_with = "report::path")]
    pub a: PathBuf,
    /// The second model.
    #[serde(serialize_with = "report::path")]
    pub b: PathBuf,
    /// Whether all tensors are the same. Headers and other files are not compared.
    pub same: bool,
    /// How many tensors have the same bytes.
    pub same_tensors: u64,
    /// Tensors of the first model alone.
    pub only_in_a: Vec<String>,
    /// Tensors of the second model alone.
    pub only_in_b: Vec<String>,
    /// Tensors with another dtype or shape.
    pub reshaped: Vec<Reshaped>,
    /// Tensors whose bytes differ.
    pub changed: Vec<TensorDiff>,
    /// What is odd about the files of the models, such as a tensor in two of them.
    pub notes: Vec<String>,
}

/// Compares two models: files, images, or folders of them in any sharding. Tensors are known by
/// their names; of those that stand in two files of a folder the one counts that the index of the
/// shards names, and where none does, each is compared.
pub(crate) fn diff(
    a: &Path,
    b: &Path,
    threads: usize,
    progress: &dyn Progress,
) -> Result<DiffReport> {
    let (model_a, model_b) = (open(a)?, open(b)?);
    // of what was not read nobody can say that it is the same
    if let Some(fault) = model_a.faults().chain(model_b.faults()).next() {
        return Err(fault.clone());
    }
    let mut report = DiffReport {
        a: a.to_owned(),
        b: b.to_owned(),
        same: true,
        same_tensors: 0,
        only_in_a: Vec::new(),
        only_in_b: Vec::new(),
        reshaped: Vec::new(),
        changed: Vec::new(),
        notes: shard_notes::of_models([(a, &model_a), (b, &model_b)]),
    };
    let pairs = pairs::pairs((&model_a, a), (&model_b, b));
    let in_a = pairs.iter().filter_map(|pair| pair.a);
    progress.begin("comparing", in_a.map(|tensor| tensor.span().len).sum());
    let comparison = Comparison {
        models: (&model_a, &model_b),
        threads,
        progress,
    };
    for pair in &pairs {
        match (pair.a, pair.b) {
            (Some(a), Some(b)) => comparison.take((a, b), pair, &mut report)?,
            (Some(a), None) => report.only_in_a.push(a.span().name.clone()),
            (None, Some(b)) => report.only_in_b.push(b.span().name.clone()),
            (None, None) => {}
        }
    }
    progress.end();
    report.same = report.changed.is_empty()
        && report.reshaped.is_empty()
        && report.only_in_a.is_empty()
        && report.only_in_b.is_empty();
    Ok(report)
}

/// A model, with what its deltas need looked for in it, or beside it.
fn open(path: &Path) -> Result<Model> {
    let bases = SearchPaths::new(&[], path).or_beside(path);
    let opening = Opening {
        resolver: Some(Arc::new(bases)),
        ..Opening::default()
    };
    Model::open_with(path, opening)
}

/// Two models being compared.
struct Comparison<'a> {
    models: (&'a Model, &'a Model),
    threads: usize,
    progress: &'a dyn Progress,
}

impl Comparison<'_> {
    fn take(
        &self,
        (a, b): (&Tensor, &Tensor),
        pair: &Pair<'_>,
        report: &mut DiffReport,
    ) -> Result<()> {
        let (threads, progress) = (self.threads, self.progress);
        let (span_a, span_b) = (a.span(), b.span());
        let files = [self.models.0.file_of(a), self.models.1.file_of(b)];
        let files = files.iter().filter(|_| pair.is_one_of_several);
        let files = files.map(|&file| file.to_owned()).collect();
        let values = distance::values_of(span_a, span_b);
        let (bytes_a, bytes_b) = (self.models.0.of(a).bytes(), self.models.1.of(b).bytes());
        if (&span_a.dtype, &span_a.shape) == (&span_b.dtype, &span_b.shape) {
            let sums = distance::compare((span_a, &*bytes_a), &*bytes_b, threads, progress)?;
            match sums.bytes {
                0 => report.same_tensors += 1,
                _ => report.changed.push(changed(span_a, &sums, files)),
            }
            return Ok(());
        }
        let mut distance = Distance::default();
        if let Some((of_a, of_b)) = values {
            let (a, b) = ((&*bytes_a, of_a), (&*bytes_b, of_b));
            let sums = distance::compare_values(a, b, threads, progress)?;
            distance = Distance::of(span_a.len / of_a.width as u64, &sums);
        } else {
            progress.advance(span_a.len);
        }
        report.reshaped.push(Reshaped {
            name: span_a.name.clone(),
            a: (span_a.dtype.clone(), span_a.shape.clone()),
            b: (span_b.dtype.clone(), span_b.shape.clone()),
            distance,
            files,
        });
        Ok(())
    }
}

fn changed(span: &Span, sums: &Sums, files: Vec<PathBuf>) -> TensorDiff {
    let of = |values: Values| Distance::of(span.len / values.width as u64, sums);
    TensorDiff {
        name: span.name.clone(),
        dtype: span.dtype.clone(),
        shape: span.shape.clone(),
        bytes: span.len,
        differing_bytes: sums.bytes,
        distance: values::of(&span.dtype).map(of).unwrap_or_default(),
        files,
    }
}

/// Stores the second model as its differences from the first.
pub fn patch(
    a: &Path,
    b: &Path,
    image: &Path,
    force: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let options = CompressOptions {
        base: base::open(Some(a))?,
        force,
        ..CompressOptions::new(image, Profile::Balanced, threads)
    };
    compress::compress(b, &options, progress)
}
