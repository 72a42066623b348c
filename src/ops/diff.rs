//! Diff: which tensors of two models differ, and by how much, in bytes and in values.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::tensors::Tensor;
use crate::base::Error;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::codec::Profile;
use crate::ops::base;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::CompressReport;
use crate::ops::compress::Output;
use crate::ops::report;
use crate::tensor::values;
use crate::tensor::values::Values;

/// Bytes of a tensor that are compared in one piece of work: a multiple of every width.
const PIECE_LEN: u64 = 1 << 20;

/// A tensor whose bytes differ.
#[derive(Debug, Clone, Serialize)]
pub struct TensorDiff {
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
    /// Its elements; none for a dtype whose elements are no numbers in whole bytes. So are those below.
    pub elements: Option<u64>,
    /// How many of them differ in their bits.
    pub differing_elements: Option<u64>,
    /// The largest difference of two finite values.
    pub max_difference: Option<f64>,
    /// The root of the mean square of the differences of all finite values.
    pub rms_difference: Option<f64>,
    /// The root of the mean square of the first model's finite values.
    pub rms_value: Option<f64>,
}

/// A tensor that has another dtype or shape.
#[derive(Debug, Clone, Serialize)]
pub struct Reshaped {
    /// Its name.
    pub name: String,
    /// Dtype and shape in the first model.
    pub a: (String, Vec<u64>),
    /// Dtype and shape in the second.
    pub b: (String, Vec<u64>),
}

/// How two models differ.
#[derive(Debug, Clone, Serialize)]
pub struct DiffReport {
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
}

/// Compares two models: files, images, or folders of them in any sharding. Tensors are known by their names.
pub fn diff(a: &Path, b: &Path, threads: usize, progress: &dyn Progress) -> Result<DiffReport> {
    let open = |path| Bases::open(path, DigestIndex::of_user());
    let (model_a, model_b) = (open(a)?, open(b)?);
    // of what was not read nobody can say that it is the same
    if let Some(fault) = model_a.faults().chain(model_b.faults()).next() {
        return Err(fault.clone());
    }
    let (in_a, in_b) = (by_name(&model_a), by_name(&model_b));
    let names: BTreeSet<&str> = in_a.keys().chain(in_b.keys()).copied().collect();
    let mut report = DiffReport {
        a: a.to_owned(),
        b: b.to_owned(),
        same: true,
        same_tensors: 0,
        only_in_a: Vec::new(),
        only_in_b: Vec::new(),
        reshaped: Vec::new(),
        changed: Vec::new(),
    };
    let both = names.iter().filter_map(|name| in_a.get(name));
    let bytes = both.map(|tensor| tensor.span().len).sum();
    progress.begin("comparing", bytes);
    for name in names {
        match (in_a.get(name), in_b.get(name)) {
            (Some(_), None) => report.only_in_a.push(name.to_owned()),
            (None, Some(_)) => report.only_in_b.push(name.to_owned()),
            (Some(a), Some(b)) => {
                let (span_a, span_b) = (a.span(), b.span());
                if (&span_a.dtype, &span_a.shape) != (&span_b.dtype, &span_b.shape) {
                    report.reshaped.push(Reshaped {
                        name: name.to_owned(),
                        a: (span_a.dtype.clone(), span_a.shape.clone()),
                        b: (span_b.dtype.clone(), span_b.shape.clone()),
                    });
                    progress.advance(span_a.len);
                    continue;
                }
                let (a, b) = ((a, model_a.bytes(a)?), (b, model_b.bytes(b)?));
                match compare((a.0, &*a.1), &*b.1, threads, progress)? {
                    Some(difference) => report.changed.push(difference),
                    None => report.same_tensors += 1,
                }
            }
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
        output: Output::Path(image.to_owned()),
        profile: Profile::Balanced,
        base: base::open(Some(a))?,
        series: false,
        resume: false,
        force,
        opaque: false,
        threads,
    };
    compress::compress(b, &options, progress)
}

/// The first tensor of each name.
fn by_name(model: &Bases) -> BTreeMap<&str, &Tensor> {
    let mut tensors = BTreeMap::new();
    for tensor in model.tensors() {
        tensors.entry(tensor.span().name.as_str()).or_insert(tensor);
    }
    tensors
}

/// Sums over some elements.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    bytes: u64,
    elements: u64,
    max: f64,
    squares: f64,
    value_squares: f64,
    finite: u64,
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        self.elements += other.elements;
        self.max = self.max.max(other.max);
        self.squares += other.squares;
        self.value_squares += other.value_squares;
        self.finite += other.finite;
    }
}

fn compare(
    a: (&Tensor, &dyn ReadAt),
    b: &dyn ReadAt,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Option<TensorDiff>> {
    let (span, a) = (a.0.span(), a.1);
    let values = values::of(&span.dtype);
    let mut sums = Sums::default();
    parallel::ordered(
        threads,
        span.len.div_ceil(PIECE_LEN) as usize,
        || (),
        |(), number| {
            progress.check()?;
            let start = number as u64 * PIECE_LEN;
            let len = PIECE_LEN.min(span.len - start);
            let read = |bytes: &dyn ReadAt| -> Result<Vec<u8>, Error> {
                let mut piece = vec![0; len as usize];
                bytes.read_exact_at(start, &mut piece)?;
                Ok(piece)
            };
            Ok((compare_piece(&read(a)?, &read(b)?, values), len))
        },
        |_, (piece, len)| {
            sums.add(&piece);
            progress.advance(len);
            Ok(())
        },
    )?;
    if sums.bytes == 0 {
        return Ok(None);
    }
    let in_values = |number: f64| values.map(|_| number);
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    let finite = sums.finite.max(1) as f64;
    Ok(Some(TensorDiff {
        name: span.name.clone(),
        dtype: span.dtype.clone(),
        shape: span.shape.clone(),
        bytes: span.len,
        differing_bytes: sums.bytes,
        elements: values.map(|values| span.len / values.width as u64),
        differing_elements: values.map(|_| sums.elements),
        max_difference: in_values(sums.max),
        rms_difference: in_values((sums.squares / finite).sqrt()),
        rms_value: in_values((sums.value_squares / finite).sqrt()),
    }))
}

fn compare_piece(a: &[u8], b: &[u8], values: Option<Values>) -> Sums {
    let differing = a.iter().zip(b).filter(|(a, b)| a != b).count();
    let mut sums = Sums {
        bytes: differing as u64,
        ..Sums::default()
    };
    let Some(Values { width, value }) = values else {
        return sums;
    };
    for (a, b) in a.chunks_exact(width).zip(b.chunks_exact(width)) {
        sums.elements += u64::from(a != b);
        let (value_a, value_b) = (value(a), value(b));
        if value_a.is_finite() && value_b.is_finite() {
            let difference = (value_b - value_a).abs();
            sums.finite += 1;
            sums.max = sums.max.max(difference);
            sums.squares += difference * difference;
            sums.value_squares += value_a * value_a;
        }
    }
    sums
}
