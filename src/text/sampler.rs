//! Logits into a token: the largest, or one drawn by a seed. The order of the steps is that of
//! transformers: repetition penalty, temperature, top-k, top-p, min-p. All of it is arithmetic that
//! every machine does alike, so a seed gives the same tokens everywhere.

use std::cmp::Ordering;

use crate::base::Error;
use crate::base::Result;
use crate::base::math::exp;
use crate::base::random::SplitMix64;

/// How many candidates are sorted at first, where only their sum says how many are needed.
const FIRST_SORTED: usize = 128;

/// How a token is chosen. The default is the largest logit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// What logits are divided by; 0 takes the largest, whatever the rest of the options.
    pub temperature: f32,
    /// Only so many of the largest take part; 0 is all.
    pub top_k: u32,
    /// Only the largest that together have this probability take part; 1 is all.
    pub top_p: f32,
    /// Only those that have at least this part of the largest's probability take part; 0 is all.
    pub min_p: f32,
    /// What logits of tokens that were there already are divided by (multiplied, where they are
    /// negative); 1 is nothing.
    pub repetition_penalty: f32,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for SamplerOptions {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
        }
    }
}

impl SamplerOptions {
    /// Refuses what means nothing.
    ///
    /// # Errors
    /// `Invalid`, with the name and the value.
    pub fn check(&self) -> Result<()> {
        let wrong = |name: &str, value: f32, range: &str| {
            Err(Error::invalid(format!("{name} {value} is not {range}")))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return wrong("temperature", self.temperature, "a number from 0 on");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return wrong("top_p", self.top_p, "above 0 and at most 1");
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return wrong("min_p", self.min_p, "from 0 to 1");
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return wrong("repetition_penalty", self.repetition_penalty, "above 0");
        }
        Ok(())
    }
}

/// A token that may be drawn.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
    /// Its probability, but for a factor that all have in common.
    weight: f64,
}

impl Candidate {
    /// The larger logit first, of equal ones the lower id.
    fn order(&self, other: &Self) -> Ordering {
        // no candidate is NaN; 0 and -0 are equal
        let larger = other.logit.partial_cmp(&self.logit);
        let larger = larger.unwrap_or(Ordering::Equal);
        larger.then(self.id.cmp(&other.id))
    }
}

/// Chooses tokens one after another. Its memory is that of one row of logits, taken once.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    /// Which tokens the penalty has met, a bit each.
    seen: Vec<u64>,
    penalised: Vec<f32>,
}

impl Sampler {
    /// A sampler at the start of its random numbers.
    ///
    /// # Errors
    /// See [`SamplerOptions::check`].
    pub fn new(options: SamplerOptions) -> Result<Self> {
        options.check()?;
        Ok(Self {
            options,
            random: SplitMix64(options.seed),
            candidates: Vec::new(),
            seen: Vec::new(),
            penalised: Vec::new(),
        })
    }

    /// The options it was made with.
    pub fn options(&self) -> &SamplerOptions {
        &self.options
    }

    /// The next token, given the logits of all tokens and those so far (prompt and answer). NaN is
    /// never chosen if there is anything else.
    ///
    /// # Panics
    /// Without logits.
    pub fn next(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        assert!(!logits.is_empty(), "a token of no logits");
        if self.options.repetition_penalty.total_cmp(&1.0).is_eq() {
            return self.choose(logits);
        }
        let mut penalised = std::mem::take(&mut self.penalised);
        penalised.clear();
        penalised.extend_from_slice(logits);
        self.penalise(&mut penalised, history);
        let id = self.choose(&penalised);
        self.penalised = penalised;
        id
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let largest = largest(logits);
        if self.options.temperature == 0.0 {
            return largest;
        }
        let top = logits[largest as usize];
        // of an infinite logit, of no number at all, there is nothing to draw
        if !top.is_finite() {
            return largest;
        }
        self.take_candidates(logits, top);
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        self.draw()
    }

    /// Once for each token, however often it was there.
    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        self.seen.clear();
        self.seen.resize(logits.len().div_ceil(64), 0);
        for &id in history {
            let (word, bit) = (id as usize / 64, 1_u64 << (id % 64));
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            if self.seen[word] & bit == 0 {
                self.seen[word] |= bit;
                *logit = if *logit < 0.0 {
                    *logit * penalty
                } else {
                    *logit / penalty
                };
            }
        }
    }

    fn take_candidates(&mut self, logits: &[f32], top: f32) {
        let temperature = f64::from(self.options.temperature);
        let top = f64::from(top);
        self.candidates.clear();
        self.candidates.reserve(logits.len());
        for (id, &logit) in logits.iter().enumerate() {
            // at most 1, which the largest has; what rounds to 0 is never drawn
            let weight = exp((f64::from(logit) - top) / temperature);
            if weight > 0.0 {
                let id = id as u32;
                self.candidates.push(Candidate { id, logit, weight });
            }
        }
    }

    fn keep_top_k(&mut self) {
        let count = self.options.top_k as usize;
        if count > 0 && count < self.candidates.len() {
            self.candidates
                .select_nth_unstable_by(count - 1, Candidate::order);
            self.candidates.truncate(count);
        }
    }

    /// Keeps the largest until they have the probability asked for, with the one that reaches it.
    /// Only as many are sorted as are needed.
    fn keep_top_p(&mut self) {
        if self.options.top_p >= 1.0 {
            return;
        }
        // in the order of ids, whatever selection has done to it
        self.candidates.sort_unstable_by_key(|c| c.id);
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        let wanted = total * f64::from(self.options.top_p);
        let (mut sorted, mut sum, mut kept) = (0, 0.0, 0);
        let mut next = FIRST_SORTED;
        while sum < wanted && kept < self.candidates.len() {
            if kept == sorted {
                sorted = next.min(self.candidates.len());
                sort_up_to(&mut self.candidates[kept..], sorted - kept);
                next = sorted * 4;
            }
            sum += self.candidates[kept].weight;
            kept += 1;
        }
        self.candidates.truncate(kept.max(1));
    }

    fn keep_min_p(&mut self) {
        let least = f64::from(self.options.min_p);
        if least > 0.0 {
            // the largest has weight 1
            self.candidates.retain(|c| c.weight >= least);
        }
    }

    fn draw(&mut self) -> u32 {
        // selection leaves its own order, which is not the same in every version of the library
        self.candidates.sort_unstable_by_key(|c| c.id);
        let total: f64 = self.candidates.iter().map(|c| c.weight).sum();
        let wanted = self.random.next_unit() * total;
        let mut sum = 0.0;
        for candidate in &self.candidates {
            sum += candidate.weight;
            if sum > wanted {
                return candidate.id;
            }
        }
        // rounding may leave a sum just below the total
        self.candidates.last().map_or(0, |last| last.id)
    }
}

/// Puts the first `count` in order at the start.
fn sort_up_to(candidates: &mut [Candidate], count: usize) {
    if count < candidates.len() {
        candidates.select_nth_unstable_by(count, Candidate::order);
    }
    candidates[..count].sort_unstable_by(Candidate::order);
}

/// The id of the largest logit, of equal ones the lowest; NaN is less than everything.
fn largest(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (id, &logit) in logits.iter().enumerate() {
        let here = logits[best];
        if logit > here || here.is_nan() && !logit.is_nan() {
            best = id;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(options: SamplerOptions) -> Sampler {
        Sampler::new(options).unwrap()
    }

    /// How often each of the tokens is drawn in so many draws.
    fn counts(options: SamplerOptions, logits: &[f32], draws: usize) -> Vec<usize> {
        let mut sampler = sampler(options);
        let mut counts = vec![0; logits.len()];
        for _ in 0..draws {
            counts[sampler.next(logits, &[]) as usize] += 1;
        }
        counts
    }

    /// Logits of these probabilities.
    fn logits_of(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln()).collect()
    }

    #[test]
    fn the_largest_wins_and_ties_go_to_the_lowest_id() {
        let mut greedy = sampler(SamplerOptions::default());
        assert_eq!(greedy.next(&[1.0, 3.0, 3.0, 2.0], &[]), 1);
        assert_eq!(greedy.next(&[-0.0, 0.0], &[]), 0);
        assert_eq!(greedy.next(&[f32::NAN, f32::NEG_INFINITY], &[]), 1);
        assert_eq!(greedy.next(&[2.0, f32::NAN, 1.0], &[]), 0);
        assert_eq!(greedy.next(&[f32::NAN, f32::NAN], &[]), 0);
        assert_eq!(greedy.next(&[0.0, f32::INFINITY, 5.0], &[]), 1);
    }

    #[test]
    fn nothing_but_numbers_is_drawn() {
        let options = SamplerOptions {
            temperature: 1.0,
            ..SamplerOptions::default()
        };
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY, 1.0];
        let counts = counts(options, &logits, 1000);
        assert_eq!((counts[0], counts[2]), (0, 0));
        assert!(counts[1] > 400 && counts[3] > 400, "{counts:?}");
        let mut sampler = sampler(options);
        assert_eq!(sampler.next(&[f32::NAN, f32::NAN], &[]), 0);
        assert_eq!(sampler.next(&[1.0, f32::INFINITY], &[]), 1);
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        let options = SamplerOptions {
            temperature: 1.0,
            seed: 7,
            ..SamplerOptions::default()
        };
        let logits = logits_of(&[0.1, 0.6, 0.3]);
        let counts = counts(options, &logits, 100_000);
        for (count, expected) in counts.iter().zip([10_000, 60_000, 30_000]) {
            // 5 standard deviations are less than 800
            assert!(count.abs_diff(expected) < 800, "{counts:?}");
        }
    }

    #[test]
    fn a_low_temperature_sharpens() {
        let options = SamplerOptions {
            temperature: 0.5,
            ..SamplerOptions::default()
        };
        // squares: 1, 4 of 5
        let counts = counts(options, &logits_of(&[1.0 / 3.0, 2.0 / 3.0]), 10_000);
        assert!(counts[1].abs_diff(8000) < 250, "{counts:?}");
    }

    #[test]
    fn top_k_top_p_and_min_p_keep_what_they_say() {
        let logits = logits_of(&[0.05, 0.4, 0.15, 0.3, 0.1]);
        let base = SamplerOptions {
            temperature: 1.0,
            ..SamplerOptions::default()
        };
        let kept = |options: SamplerOptions| -> Vec<usize> {
            let counts = counts(options, &logits, 5000);
            (0..counts.len()).filter(|&n| counts[n] > 0).collect()
        };
        assert_eq!(kept(base), [0, 1, 2, 3, 4]);
        assert_eq!(kept(SamplerOptions { top_k: 2, ..base }), [1, 3]);
        // 0.4 + 0.3 is too little, so the next comes along
        assert_eq!(
            kept(SamplerOptions {
                top_p: 0.75,
                ..base
            }),
            [1, 2, 3]
        );
        assert_eq!(
            kept(SamplerOptions {
                top_p: 0.01,
                ..base
            }),
            [1]
        );
        // a quarter of 0.4
        assert_eq!(
            kept(SamplerOptions {
                min_p: 0.24,
                ..base
            }),
            [1, 2, 3, 4]
        );
        assert_eq!(kept(SamplerOptions { min_p: 1.0, ..base }), [1]);
        // of the two that top-k leaves, one has 4/7 of what is left: top-p comes after
        let both = SamplerOptions {
            top_k: 2,
            top_p: 0.5,
            ..base
        };
        assert_eq!(kept(both), [1]);
    }

    #[test]
    fn of_equal_candidates_the_lowest_ids_stay() {
        let logits = [1.0; 1000];
        let options = SamplerOptions {
            temperature: 1.0,
            top_k: 3,
            ..SamplerOptions::default()
        };
        let counts = counts(options, &logits, 3000);
        assert!(counts[..3].iter().all(|&n| n > 800), "{:?}", &counts[..5]);
        // as many as reach a quarter, which is more than are sorted at first
        let options = SamplerOptions {
            top_k: 0,
            top_p: 0.25,
            ..options
        };
        let mut sampler = sampler(options);
        let largest = (0..3000).map(|_| sampler.next(&logits, &[])).max();
        assert_eq!(largest, Some(249));
    }

    #[test]
    fn what_was_there_is_less_likely_once_however_often_it_was_there() {
        let options = SamplerOptions {
            repetition_penalty: 2.0,
            ..SamplerOptions::default()
        };
        let mut sampler = sampler(options);
        // 3 -> 1.5, not 0.75
        assert_eq!(sampler.next(&[3.0, 1.4, 1.0], &[0, 0, 99]), 0);
        assert_eq!(sampler.next(&[3.0, 1.6, 1.0], &[0, 0, 99]), 1);
        // negative logits get more negative
        assert_eq!(sampler.next(&[-1.0, -1.5], &[0]), 1);
    }

    #[test]
    fn a_seed_gives_the_same_tokens_on_every_machine() {
        let options = SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.01,
            repetition_penalty: 1.1,
            seed: 42,
        };
        let logits: Vec<f32> = (0..1000_u32)
            .map(|n| f32::from((n.wrapping_mul(2_654_435_761) >> 22) as u16) / 128.0)
            .collect();
        let mut first = sampler(options);
        let mut history = Vec::new();
        for _ in 0..12 {
            history.push(first.next(&logits, &history));
        }
        assert_eq!(history, TOKENS);
        let mut again = sampler(SamplerOptions {
            seed: 43,
            ..options
        });
        let other: Vec<u32> = (0..12).map(|_| again.next(&logits, &[])).collect();
        assert_ne!(other, history);
    }

    /// As the same steps give them in Python.
    const TOKENS: [u32; 12] = [754, 165, 309, 377, 55, 898, 254, 809, 364, 631, 199, 521];

    #[test]
    fn options_without_sense_are_refused() {
        let base = SamplerOptions::default();
        for options in [
            SamplerOptions {
                temperature: -1.0,
                ..base
            },
            SamplerOptions {
                temperature: f32::NAN,
                ..base
            },
            SamplerOptions { top_p: 0.0, ..base },
            SamplerOptions { top_p: 1.5, ..base },
            SamplerOptions {
                min_p: -0.1,
                ..base
            },
            SamplerOptions {
                repetition_penalty: 0.0,
                ..base
            },
            SamplerOptions {
                repetition_penalty: f32::INFINITY,
                ..base
            },
        ] {
            assert!(Sampler::new(options).is_err(), "{options:?}");
        }
    }

    /// Two draws in a row use the same memory.
    #[test]
    fn nothing_is_allocated_once_it_is_warm() {
        let options = SamplerOptions {
            temperature: 1.0,
            top_p: 0.9,
            repetition_penalty: 1.2,
            ..SamplerOptions::default()
        };
        let mut sampler = sampler(options);
        let logits: Vec<f32> = (0..5000_u16).map(|n| f32::from(n % 97) / 10.0).collect();
        sampler.next(&logits, &[1, 2]);
        let before = (
            sampler.candidates.as_ptr(),
            sampler.seen.as_ptr(),
            sampler.penalised.as_ptr(),
        );
        sampler.next(&logits, &[1, 2, 3]);
        let after = (
            sampler.candidates.as_ptr(),
            sampler.seen.as_ptr(),
            sampler.penalised.as_ptr(),
        );
        assert_eq!(before, after);
    }
}
