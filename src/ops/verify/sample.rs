//! Some blocks of an image, chosen by chance: how likely damage is missed can be told.

use crate::archive::Archive;
use crate::archive::ReadScratch;
use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::base::random::SplitMix64;
use crate::codec::SpanTables;
use crate::ops::verify::report::Checked;
use crate::ops::verify::report::ImageReport;
use crate::ops::verify::report::Sample;

/// Blocks that a thread decodes before it is asked for the next: they share tables mostly.
const PIECE: usize = 16;

/// `chosen` of the numbers below `all`, in order, each choice as likely as any other (Floyd).
fn choose(all: usize, chosen: usize, seed: u64) -> Vec<usize> {
    let mut random = SplitMix64(seed);
    let mut found = std::collections::BTreeSet::new();
    for last in all - chosen..all {
        let number = ((u128::from(random.next_bits()) * (last as u128 + 1)) >> 64) as usize;
        if !found.insert(number) {
            found.insert(last);
        }
    }
    found.into_iter().collect()
}

/// How likely none of `damaged` blocks is among the chosen ones.
#[expect(
    clippy::cast_precision_loss,
    reason = "a chance for people, and an image has fewer than 2^52 blocks"
)]
fn missed(all: usize, chosen: usize, damaged: usize) -> f64 {
    let each = (0..damaged.min(all)).map(|n| {
        let left = (all - n) as f64;
        ((left - chosen as f64) / left).max(0.0)
    });
    each.product()
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "a share from 0 to 1 of fewer than 2^52 blocks"
)]
fn share_of(all: usize, share: f64) -> usize {
    let wanted = (all as f64 * share).ceil() as usize;
    wanted.clamp(usize::from(all > 0), all)
}

/// Decodes and checks a share of the blocks.
pub(super) fn verify(
    archive: &Archive,
    share: f64,
    seed: u64,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ImageReport> {
    let spans = archive.index().spans.iter().enumerate();
    let own = spans.filter(|(_, span)| span.repeats.is_none());
    let blocks: Vec<(usize, u64)> = own
        .flat_map(|(number, span)| (0..span.blocks.len() as u64).map(move |block| (number, block)))
        .collect();
    let all = blocks.len();
    let chosen = choose(all, share_of(all, share), seed);
    let mut report = ImageReport::new(archive.path(), Checked::Sample);
    report.blocks_in_all = all as u64;
    report.blocks = chosen.len() as u64;
    report.sample = Some(Sample {
        seed,
        missed_one: missed(all, chosen.len(), 1),
        missed_ten: missed(all, chosen.len(), 10),
        missed_hundredth: missed(all, chosen.len(), all.div_ceil(100)),
    });
    let label = archive.path().file_name().unwrap_or_default();
    let label = label.to_string_lossy();
    let len_of = |number: &usize| {
        let (span, block) = blocks[*number];
        let range = archive.index().spans[span].block_range(block);
        range.end - range.start
    };
    let bytes = chosen.iter().map(len_of).sum();
    progress.begin(&format!("sampling {label}"), bytes);
    let mut faults: Vec<String> = archive
        .check_copies()
        .iter()
        .map(Error::to_string)
        .collect();
    let pieces: Vec<&[usize]> = chosen.chunks(PIECE).collect();
    let check = |worker: &mut Worker, piece: usize| {
        progress.check()?;
        let each = pieces[piece].iter().map(|&number| {
            let (span, block) = blocks[number];
            worker.check(archive, span, block)
        });
        Ok(each.collect::<Vec<Result<u64>>>())
    };
    parallel::ordered(
        threads,
        pieces.len(),
        Worker::default,
        check,
        |piece, checked| {
            progress.advance(pieces[piece].iter().map(len_of).sum());
            for block in checked {
                match block {
                    Ok(len) => report.verified_bytes += len,
                    Err(error) => {
                        report.damaged_blocks += 1;
                        faults.push(error.to_string());
                    }
                }
            }
            Ok(())
        },
    )?;
    progress.end();
    report.conclude(faults);
    Ok(report)
}

#[derive(Default)]
struct Worker {
    scratch: ReadScratch,
    tables: Option<(usize, Option<SpanTables>)>,
    bytes: Vec<u8>,
}

impl Worker {
    /// Decodes one block; its length.
    fn check(&mut self, archive: &Archive, span_number: usize, block: u64) -> Result<u64> {
        let span = &archive.index().spans[span_number];
        let owner = archive.index().tables_owner(span_number);
        if self.tables.as_ref().is_none_or(|(of, _)| *of != owner) {
            self.tables = Some((owner, archive.read_tables(span)?));
        }
        let tables = self.tables.as_ref().and_then(|(_, tables)| tables.as_ref());
        let range = span.block_range(block);
        self.bytes.resize((range.end - range.start) as usize, 0);
        archive.decode_block(span, block, tables, &mut self.bytes, &mut self.scratch)?;
        Ok(range.end - range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_its_number_once() {
        for (all, chosen) in [(1, 1), (10, 10), (1000, 10), (1000, 999), (5, 0)] {
            let numbers = choose(all, chosen, 7);
            assert_eq!(numbers.len(), chosen);
            assert!(numbers.iter().all(|&number| number < all));
        }
        assert_ne!(choose(1000, 10, 1), choose(1000, 10, 2));
        // every number comes up
        let mut seen = [0; 20];
        for seed in 0..2000 {
            for number in choose(20, 5, seed) {
                seen[number] += 1;
            }
        }
        assert!(
            seen.iter().all(|&times| (400..600).contains(&times)),
            "{seen:?}"
        );
    }

    #[test]
    fn what_is_missed_is_told() {
        assert!((missed(100, 10, 1) - 0.9).abs() < 1e-12);
        assert!((missed(100, 10, 2) - 0.9 * 89.0 / 99.0).abs() < 1e-12);
        assert!(missed(100, 91, 10) < 1e-9);
        assert!(missed(100, 100, 1) < 1e-12);
    }
}
