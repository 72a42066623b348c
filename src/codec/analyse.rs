//! A first look at a span: which window, which clusters of strips, which frequencies. The result is
//! a [`SpanCoder`]; it depends on the bytes and the profile alone, not on threads or on the
//! machine.

use crate::codec::encode::EncodeScratch;
use crate::codec::encode::SpanCoder;
use crate::codec::gain;
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
use crate::entropy::r16;
use crate::entropy::r16::R16Table;
use crate::entropy::r32;
use crate::entropy::r32::EncodeTable;
use crate::tensor::Family;

/// Below this many elements one table serves a plane: more would cost what they save.
const CLUSTERED_ELEMENTS_MIN: u64 = 64 << 10;
/// About how many strips of a sample are looked at: more find the same clusters and take longer.
const CLUSTERED_STRIPS_MAX: usize = 1024;

type Counts256 = [u64; 256];

/// What was counted of one plane.
#[derive(Debug, Clone)]
struct PlaneCounts {
    /// How often each symbol occurs in each cluster.
    clusters: Vec<Counts256>,
    /// The cluster of each strip.
    of_strips: Vec<u8>,
}

/// What was counted of each plane, of blocks that follow one another.
#[derive(Debug, Clone)]
pub struct Counts(Vec<PlaneCounts>);

impl Counts {
    /// Adds the counts of the blocks that follow.
    pub fn add(&mut self, following: &Self) {
        for (plane, following) in self.0.iter_mut().zip(&following.0) {
            plane.of_strips.extend_from_slice(&following.of_strips);
            let counts = plane.clusters.as_flattened_mut().iter_mut();
            for (count, more) in counts.zip(following.clusters.as_flattened()) {
                *count += more;
            }
        }
    }

    /// All counts of a plane, whatever the cluster.
    fn total(&self, plane: usize) -> Counts256 {
        sum_of(&self.0[plane].clusters)
    }
}

fn sum_of(clusters: &[Counts256]) -> Counts256 {
    let mut all = [0; 256];
    for cluster in clusters {
        for (sum, count) in all.iter_mut().zip(cluster) {
            *sum += count;
        }
    }
    all
}

/// What a sample of the span has shown.
#[derive(Debug)]
pub struct Analysis {
    family: Family,
    transform: Transform,
    profile: Profile,
    base: u8,
    /// The clusters of each plane.
    planes: Vec<Clusters>,
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
            let len: usize = sample.iter().map(|block| block.len()).sum();
            let step = (len / transform.width() / STRIP_LEN).div_ceil(CLUSTERED_STRIPS_MAX);
            for block in sample {
                transform.split(transform.whole(block), base, &mut scratch.split);
                for (number, strips) in strips.iter_mut().enumerate() {
                    let plane = scratch.split.plane(number).chunks_exact(STRIP_LEN);
                    let few = plane.step_by(step.max(1)).map(cluster::histogram);
                    strips.extend(few.map(|histogram| cluster::coarse(&histogram)));
                }
            }
        }
        let planes = strips
            .iter()
            .map(|strips| Clusters::find(strips, wanted))
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
        let none = |clusters: &Clusters| PlaneCounts {
            clusters: vec![[0; 256]; clusters.count()],
            of_strips: Vec::new(),
        };
        Counts(self.planes.iter().map(none).collect())
    }

    /// Counts the symbols of one more block.
    pub fn count(&self, block: &[u8], counts: &mut Counts, scratch: &mut EncodeScratch) {
        let whole = self.transform.whole(block);
        self.transform.split(whole, self.base, &mut scratch.split);
        for (number, (clusters, counts)) in self.planes.iter().zip(&mut counts.0).enumerate() {
            for strip in scratch.split.plane(number).chunks(STRIP_LEN) {
                let histogram = cluster::histogram(strip);
                let nearest = if clusters.count() == 1 {
                    0
                } else {
                    clusters.nearest(&cluster::coarse(&histogram))
                };
                counts.of_strips.push(nearest as u8);
                for (count, &more) in counts.clusters[nearest].iter_mut().zip(&histogram) {
                    *count += u64::from(more);
                }
            }
        }
    }

    /// Whether R16 would make a bf16 span smaller: how many bytes each way is about to take, R16
    /// first.
    pub(crate) fn lens_r16_r32(&self, counts: &Counts) -> (u64, u64) {
        let symbols = counts.total(0);
        let elements: u64 = symbols.iter().sum();
        let mut exponents = [0; 256];
        for (code, four) in symbols.as_chunks::<4>().0.iter().enumerate() {
            exponents[code] = four.iter().sum::<u64>() as u32;
        }
        let blocks = (2 * elements).div_ceil(1 << self.profile.block_shift());
        let r16 = r16::coded_len(&R16Table::of(&exponents), &exponents) + elements;
        let r32 = best_tables(&counts.0[0].clusters).bytes + elements * 3 / 4;
        (r16 + 176 * blocks, r32 + 220 * blocks)
    }

    /// The coder for a span with these counts.
    pub fn finish(&self, counts: &Counts) -> SpanCoder {
        let mut worth = false;
        let mut freqs = Vec::new();
        let mut coders = Vec::new();
        for counts in &counts.0 {
            let (coder, mut plane_freqs) = choose_tables(counts);
            let used = counts.clusters.iter().flatten().filter(|&&count| count > 0);
            worth |= !coder.tables.is_empty() || used.count() == 1;
            plane_freqs.base = if coders.is_empty() { self.base } else { 0 };
            freqs.push(plane_freqs);
            coders.push(coder);
        }
        let written = if worth {
            tables::write(self.transform, &freqs)
        } else {
            Vec::new()
        };
        let planes = worth.then_some(coders);
        SpanCoder::new(self.family, self.profile, self.base, planes, written)
    }
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

/// The tables with which a plane takes least.
struct BestTables {
    /// The counts that each table is for; none if the plane is better left as it is.
    tables: Vec<Counts256>,
    /// About how many bytes the plane takes.
    bytes: u64,
}

/// A table for each cluster, or one for all, or none: whatever is smallest.
fn best_tables(clusters: &[Counts256]) -> BestTables {
    let all = sum_of(clusters);
    let elements: u64 = all.iter().sum();
    let none = BestTables {
        tables: Vec::new(),
        bytes: elements,
    };
    if all.iter().filter(|&&count| count > 0).count() < 2 {
        return none;
    }
    let used = clusters.iter().filter(|c| c.iter().any(|&n| n > 0));
    let used: Vec<Counts256> = used.copied().collect();
    let one = coded_bytes(&[all], elements);
    let many = if used.len() > 1 {
        coded_bytes(&used, elements)
    } else {
        one
    };
    if one.min(many) >= gain::least_gain(elements) {
        return none;
    }
    let tables = if one <= many { vec![all] } else { used };
    let bytes = one.min(many);
    BestTables { tables, bytes }
}

fn choose_tables(counts: &PlaneCounts) -> (PlaneCoder, PlaneFreqs) {
    let best = best_tables(&counts.clusters);
    let freqs: Vec<_> = best
        .tables
        .iter()
        .map(|counts| frequency::normalise(counts, r32::TABLE_BITS))
        .collect();
    let mut ids = Vec::new();
    if freqs.len() > 1 {
        let mut next = 0;
        let table_of: Vec<u8> = counts
            .clusters
            .iter()
            .map(|counts| {
                let table = next;
                next += u8::from(counts.iter().any(|&n| n > 0));
                table
            })
            .collect();
        let table_of = |&cluster: &u8| table_of[usize::from(cluster)];
        ids = counts.of_strips.iter().map(table_of).collect();
    }
    let tables = freqs.iter().map(EncodeTable::new).collect();
    let freqs = PlaneFreqs {
        tables: freqs,
        base: 0,
    };
    (PlaneCoder { tables, ids }, freqs)
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
