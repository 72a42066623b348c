//! A first look at a span: which window, which clusters of strips, which frequencies. The result is a
//! [`SpanCoder`]; it depends on the bytes and the profile alone, not on threads or on the machine.

use crate::codec::encode::EncodeScratch;
use crate::codec::encode::SpanCoder;
use crate::codec::profile::Profile;
use crate::codec::r32::PlaneCoder;
use crate::codec::tables;
use crate::codec::tables::PlaneFreqs;
use crate::codec::transform::Transform;
use crate::entropy::cluster;
use crate::entropy::cluster::Clusters;
use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::frequency;
use crate::entropy::planes;
use crate::entropy::r32;
use crate::entropy::r32::EncodeTable;
use crate::tensor::Family;

/// Below this many elements one table serves a plane: more would cost what they save.
const CLUSTERED_ELEMENTS_MIN: u64 = 64 << 10;
/// A plane is coded only if all its blocks together save more than this share.
const GAIN_SHARE_MIN: u64 = 128;

type Counts256 = [u64; 256];

/// Four counters of one thing, used in turn, so that equal neighbours do not wait for each other.
type Counts256By4 = [Counts256; 4];

/// How often each symbol occurs in each cluster of each plane.
#[derive(Debug, Clone)]
pub struct Counts(Vec<Vec<Counts256By4>>);

impl Counts {
    /// Adds the counts of other blocks of the same span.
    pub fn add(&mut self, other: &Self) {
        for (plane, other) in self.0.iter_mut().zip(&other.0) {
            for (cluster, other) in plane.iter_mut().zip(other) {
                for (count, other) in cluster
                    .as_flattened_mut()
                    .iter_mut()
                    .zip(other.as_flattened())
                {
                    *count += other;
                }
            }
        }
    }
}

/// What a sample of the span has shown.
#[derive(Debug)]
pub struct Analysis {
    family: Family,
    transform: Transform,
    profile: Profile,
    base: u8,
    planes: Vec<PlaneCoder>,
}

impl Analysis {
    /// From a sample: some whole blocks of a span of `len` bytes in all.
    pub fn new(
        family: Family,
        profile: Profile,
        len: u64,
        sample: &[&[u8]],
        scratch: &mut EncodeScratch,
    ) -> Self {
        let transform = Transform::of(family);
        let elements = len / transform.width() as u64;
        let wanted = if elements < CLUSTERED_ELEMENTS_MIN {
            1
        } else {
            profile.tables_max()
        };
        let base = if transform.has_top() {
            window_base(transform, sample)
        } else {
            0
        };
        let mut strips = vec![Vec::new(); transform.plane_count()];
        if wanted > 1 {
            for block in sample {
                transform.split(whole_elements(transform, block), base, &mut scratch.split);
                for (number, strips) in strips.iter_mut().enumerate() {
                    let plane = scratch.split.plane(number).chunks_exact(STRIP_LEN);
                    strips.extend(plane.map(cluster::coarse));
                }
            }
        }
        let planes = strips
            .iter()
            .map(|strips| {
                let clusters = Clusters::find(strips, wanted);
                let table_of = (0..clusters.count() as u8).collect();
                PlaneCoder {
                    clusters,
                    table_of,
                    tables: Vec::new(),
                }
            })
            .collect();
        Self {
            family,
            transform,
            profile,
            base,
            planes,
        }
    }

    /// Counts of nothing.
    pub fn no_counts(&self) -> Counts {
        Counts(
            self.planes
                .iter()
                .map(|p| vec![[[0; 256]; 4]; p.clusters.count()])
                .collect(),
        )
    }

    /// Counts the symbols of one more block.
    pub fn count(&self, block: &[u8], counts: &mut Counts, scratch: &mut EncodeScratch) {
        self.transform.split(
            whole_elements(self.transform, block),
            self.base,
            &mut scratch.split,
        );
        for (number, (plane, counts)) in self.planes.iter().zip(&mut counts.0).enumerate() {
            for strip in scratch.split.plane(number).chunks(STRIP_LEN) {
                let counts = &mut counts[usize::from(crate::codec::r32::table_for(strip, plane))];
                for four in strip.chunks(4) {
                    for (&symbol, counts) in four.iter().zip(&mut *counts) {
                        counts[usize::from(symbol)] += 1;
                    }
                }
            }
        }
    }

    /// The coder for a span with these counts.
    pub fn finish(self, counts: &Counts) -> SpanCoder {
        let mut worth = false;
        let mut freqs = Vec::new();
        let mut coders = Vec::new();
        for (plane, counts) in self.planes.into_iter().zip(&counts.0) {
            let counts: Vec<Counts256> = counts.iter().map(sum_of_four).collect();
            let (coder, mut plane_freqs) = choose_tables(plane.clusters, &counts);
            let used = counts.iter().flatten().filter(|&&count| count > 0).count();
            worth |= !coder.tables.is_empty() || used == 1;
            plane_freqs.base = if coders.is_empty() { self.base } else { 0 };
            freqs.push(plane_freqs);
            coders.push(coder);
        }
        let written = if worth {
            tables::write(self.transform, &freqs)
        } else {
            Vec::new()
        };
        SpanCoder::new(
            self.family,
            self.profile,
            self.base,
            worth.then_some(coders),
            written,
        )
    }
}

fn sum_of_four(counts: &Counts256By4) -> Counts256 {
    let mut sum = counts[0];
    for other in &counts[1..] {
        for (sum, count) in sum.iter_mut().zip(other) {
            *sum += count;
        }
    }
    sum
}

/// The part of a block that is whole elements; only bytes of no dtype have another.
pub(crate) fn whole_elements(transform: Transform, block: &[u8]) -> &[u8] {
    &block[..block.len() - block.len() % transform.width()]
}

fn window_base(transform: Transform, sample: &[&[u8]]) -> u8 {
    let width = transform.width();
    let mut exponents = [0; 256];
    for element in sample.iter().flat_map(|block| block.chunks_exact(width)) {
        let high = u16::from_le_bytes([element[width - 2], element[width - 1]]);
        exponents[usize::from(high >> 7 & 255)] += 1;
    }
    planes::window_base(&exponents)
}

/// A table for each cluster, or one for all, or none: whatever is smallest.
fn choose_tables(clusters: Clusters, counts: &[Counts256]) -> (PlaneCoder, PlaneFreqs) {
    let mut all = [0; 256];
    for cluster in counts {
        for (sum, count) in all.iter_mut().zip(cluster) {
            *sum += count;
        }
    }
    let elements: u64 = all.iter().sum();
    let none = || {
        let clusters = Clusters::find(&[], 1);
        PlaneCoder {
            clusters,
            table_of: vec![0],
            tables: Vec::new(),
        }
    };
    if all.iter().filter(|&&count| count > 0).count() < 2 {
        return (none(), PlaneFreqs::default());
    }
    let used: Vec<Counts256> = counts
        .iter()
        .filter(|c| c.iter().any(|&n| n > 0))
        .copied()
        .collect();
    let one = coded_bytes(&[all], elements);
    let many = coded_bytes(&used, elements);
    let worth = elements - elements / GAIN_SHARE_MIN;
    if one.min(many) >= worth {
        return (none(), PlaneFreqs::default());
    }
    if one <= many {
        let freqs = vec![frequency::normalise(&all, r32::TABLE_BITS)];
        let coder = PlaneCoder {
            tables: encode_tables(&freqs),
            ..none()
        };
        return (
            coder,
            PlaneFreqs {
                tables: freqs,
                base: 0,
            },
        );
    }
    let mut next = 0;
    let table_of = counts
        .iter()
        .map(|counts| {
            let table = next;
            next += u8::from(counts.iter().any(|&n| n > 0));
            table
        })
        .collect();
    let freqs: Vec<_> = used
        .iter()
        .map(|c| frequency::normalise(c, r32::TABLE_BITS))
        .collect();
    let coder = PlaneCoder {
        clusters,
        table_of,
        tables: encode_tables(&freqs),
    };
    (
        coder,
        PlaneFreqs {
            tables: freqs,
            base: 0,
        },
    )
}

fn encode_tables(freqs: &[tables::Freqs]) -> Vec<EncodeTable> {
    freqs.iter().map(EncodeTable::new).collect()
}

/// About how many bytes a plane takes with a table for each of `clusters`, tables and ids included.
fn coded_bytes(clusters: &[Counts256], elements: u64) -> u64 {
    let ids = elements.div_ceil(STRIP_LEN as u64) * r32::id_bits(clusters.len()) as u64 / 8;
    clusters.iter().fold(ids, |sum, counts| {
        let freqs = frequency::normalise(counts, r32::TABLE_BITS);
        let symbols = counts.iter().filter(|&&count| count > 0).count() as u64;
        let bits = (frequency::cost_q16(counts, &freqs, r32::TABLE_BITS) >> 16) as u64;
        sum + bits / 8 + 32 + symbols + symbols / 4
    })
}
