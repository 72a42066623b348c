//! Whether a model looks trained, from some of its matrices while they pass by for another reason.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::format::SpanRecord;
use crate::ops::xray::judge;
use crate::ops::xray::judge::ELEMENTS_MIN;
use crate::ops::xray::judge::Flag;
use crate::ops::xray::measure::Layout;
use crate::ops::xray::measure::Measure;
use crate::ops::xray::measure::SIDE_MIN;
use crate::ops::xray::measure::sides;
use crate::tensor::SpanKind;

/// Matrices that are looked at, at most, and their elements together.
const MATRICES_MAX: usize = 24;
const TOTAL_MAX: u64 = 16 << 20;

/// Matrices of a file that are looked at.
#[derive(Debug, Default)]
pub(crate) struct TrainedCheck {
    measures: BTreeMap<usize, (String, Measure)>,
}

impl TrainedCheck {
    /// Chooses from these spans, whose numbers are those: the shortest that say something, and one
    /// in any case.
    pub(crate) fn new(spans: &[SpanRecord], numbers: Range<usize>) -> Self {
        let elements = |record: &SpanRecord| record.span.shape.iter().product::<u64>();
        let says_something = |record: &SpanRecord| {
            let (rows, columns) = sides(&record.span.shape);
            record.span.kind == SpanKind::Tensor
                && record.repeats.is_none()
                && Layout::of(&record.span.dtype).is_some()
                && rows.min(columns) >= SIDE_MIN
                && elements(record) >= ELEMENTS_MIN
        };
        let mut matrices: Vec<(u64, usize, &SpanRecord)> = numbers
            .zip(spans)
            .filter(|(_, record)| says_something(record))
            .map(|(number, record)| (elements(record), number, record))
            .collect();
        matrices.sort_by_key(|&(elements, number, _)| (elements, number));
        let mut total = 0;
        let chosen = matrices.into_iter().enumerate().take(MATRICES_MAX);
        let chosen = chosen.take_while(|(index, (elements, ..))| {
            total += elements;
            *index == 0 || total <= TOTAL_MAX
        });
        let measures = chosen.filter_map(|(_, (_, number, record))| {
            let measure = Measure::new(&record.span.dtype, &record.span.shape)?;
            Some((number, (record.span.dtype.clone(), measure)))
        });
        Self {
            measures: measures.collect(),
        }
    }

    /// The next bytes of a span.
    pub(crate) fn take(&mut self, span: usize, bytes: &[u8]) {
        if let Some((_, measure)) = self.measures.get_mut(&span) {
            measure.take(bytes);
        }
    }

    /// Something of a span is damaged: it says nothing any more.
    pub(crate) fn give_up(&mut self, span: usize) {
        self.measures.remove(&span);
    }

    /// How many were looked at and how many of them are like fresh random numbers, if that is more
    /// than half of their bytes.
    pub(crate) fn untrained(&self) -> Option<(usize, usize)> {
        let (mut judged, mut fresh) = ((0, 0), (0, 0));
        for (dtype, measure) in self.measures.values() {
            let found = judge::judge(measure, dtype);
            if !found.is_judged() {
                continue;
            }
            let bytes = measure.elements() * measure.layout.width as u64;
            let is_fresh = found.flags.contains(&Flag::Unstructured);
            judged = (judged.0 + 1, judged.1 + bytes);
            fresh = (
                fresh.0 + usize::from(is_fresh),
                fresh.1 + u64::from(is_fresh) * bytes,
            );
        }
        (fresh.1 > judged.1 / 2).then_some((judged.0, fresh.0))
    }
}
