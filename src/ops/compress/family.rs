//! The models of one folder as a family: which stands alone, and which is stored as differences
//! from which other. Bases are looked for in the folder itself first; elsewhere only where somebody
//! named a place.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::archive::Bases;
use crate::archive::bases::DELTAS_MAX;
use crate::base::Progress;
use crate::base::Result;
use crate::ops::auto_base;
use crate::ops::compress::plan::Planned;
use crate::ops::compress::report::AutoBase;
use crate::ops::compress::series;
use crate::ops::compress::series::Step;
use crate::ops::estimate::Sample;

/// Pieces of a model that are looked at against each other one.
const SAMPLE: (u64, u64) = (24, 32 << 10);
/// A base is taken only if the model becomes smaller than this share of what it takes alone.
const GAIN_MIN: f64 = 0.9;
/// What comes so near to the best is as good.
const AS_GOOD: f64 = 1.01;
/// By how much smaller a model must become for each delta more that is read for it.
const DELTA_COST: f64 = 0.05;

/// A model, in what order, and its base.
#[derive(Debug)]
pub(super) struct Arranged {
    /// Paths of its images in the output.
    pub(super) images: Vec<PathBuf>,
    /// Its base: the number of one that is placed before.
    pub(super) base: Option<usize>,
    /// Its base, if that is not in the folder.
    pub(super) outside: Option<PathBuf>,
    /// How many deltas are read for it.
    depth: usize,
}

struct Member {
    step: Step,
    sample: Sample,
    bases: Bases,
    since: Option<SystemTime>,
    /// Whether its images are there already, and whether one of them is a delta.
    is_done: bool,
    is_delta: bool,
}

/// What was looked at to arrange a family.
pub(super) struct Family<'a> {
    members: Vec<Member>,
    /// Share of the first that is left against the second.
    shares: BTreeMap<(usize, usize), f64>,
    outside: &'a [PathBuf],
    root: &'a Path,
    progress: &'a dyn Progress,
}

impl<'a> Family<'a> {
    /// Looks at the models of a plan; `done` are images that are there, and stay, and whether each
    /// is a delta.
    pub(super) fn of(
        root: &'a Path,
        plan: &[Planned],
        done: &BTreeMap<PathBuf, bool>,
        outside: &'a [PathBuf],
        progress: &'a dyn Progress,
    ) -> Result<Self> {
        progress.begin("looking for bases", 0);
        let mut members = Vec::new();
        for step in series::steps(root, plan)? {
            progress.check()?;
            let paths: Vec<PathBuf> = step
                .files
                .iter()
                .map(|(path, ..)| root.join(path))
                .collect();
            let mut bases = Bases::unshared(None);
            bases.add_files(paths.iter());
            let times = paths
                .iter()
                .filter_map(|path| fs::metadata(path).ok()?.modified().ok());
            let states = step.files.iter().map(|(_, image, _)| done.get(image));
            members.push(Member {
                sample: Sample::take(&bases, SAMPLE.0, SAMPLE.1)?,
                since: times.min(),
                is_done: states.clone().all(|state| state.is_some()),
                is_delta: states.flatten().any(|is_delta| *is_delta),
                bases,
                step,
            });
        }
        let mut family = Self {
            members,
            shares: BTreeMap::new(),
            outside,
            root,
            progress,
        };
        family.measure()?;
        progress.end();
        Ok(family)
    }

    /// Each against each that has tensors like its own.
    fn measure(&mut self) -> Result<()> {
        for (a, model) in self
            .members
            .iter()
            .enumerate()
            .filter(|(_, model)| !model.is_done)
        {
            for (b, other) in self.members.iter().enumerate() {
                self.progress.check()?;
                let mut tensors = model.bases.tensors();
                let is_alike = tensors.any(|tensor| other.bases.like(tensor.span()).is_some());
                if a == b || !is_alike {
                    continue;
                }
                let share = model.sample.against(|span| {
                    let tensor = other.bases.like(span);
                    tensor.map(|tensor| other.bases.bytes(tensor)).transpose()
                });
                // one that cannot be read is no base
                if let Ok(share) = share {
                    self.shares.insert((a, b), share);
                }
            }
        }
        Ok(())
    }

    /// An order in which each comes after its base, and what there is to say of it.
    pub(super) fn arrange(&self) -> Result<(Vec<Arranged>, Vec<AutoBase>)> {
        let mut arranged: Vec<(usize, Arranged)> = Vec::new();
        let mut choices = Vec::new();
        // what is there and plain may be a base; what is a delta may stand on any number of others
        for (number, member) in self.members.iter().enumerate().filter(|(_, m)| m.is_done) {
            let depth = if member.is_delta { DELTAS_MAX } else { 0 };
            arranged.push((number, self.arranged(number, None, depth)));
        }
        let mut left: BTreeSet<usize> = (0..self.members.len()).collect();
        left.retain(|number| !self.members[*number].is_done);
        while !left.is_empty() {
            self.progress.check()?;
            let (number, base) = match self.next(&left, &arranged) {
                Some((number, base)) => (number, Some(base)),
                None => (self.head(&left), None),
            };
            left.remove(&number);
            let depth = base.map_or(0, |base| arranged[base].1.depth + 1);
            let mut new = self.arranged(number, base, depth);
            match base {
                Some(base) => choices.push(self.tell(number, arranged[base].0)),
                None => new.outside = self.look_outside(number, &mut choices)?,
            }
            new.depth += usize::from(new.outside.is_some());
            arranged.push((number, new));
        }
        Ok((
            arranged.into_iter().map(|(_, arranged)| arranged).collect(),
            choices,
        ))
    }

    fn arranged(&self, number: usize, base: Option<usize>, depth: usize) -> Arranged {
        let files = self.members[number].step.files.iter();
        Arranged {
            images: files.map(|(_, image, _)| image.clone()).collect(),
            base,
            outside: None,
            depth,
        }
    }

    fn alone(&self, number: usize) -> f64 {
        self.members[number].sample.alone()
    }

    /// The model and the base, among those that are placed, that bring most.
    fn next(
        &self,
        left: &BTreeSet<usize>,
        arranged: &[(usize, Arranged)],
    ) -> Option<(usize, usize)> {
        let mut best: Option<(f64, usize, usize)> = None;
        for &number in left {
            for (index, (other, base)) in arranged.iter().enumerate() {
                let Some(share) = self.shares.get(&(number, *other)) else {
                    continue;
                };
                #[expect(clippy::cast_precision_loss, reason = "at most four")]
                let cost = share * (1.0 + DELTA_COST * base.depth as f64) / self.alone(number);
                let brings = base.depth < DELTAS_MAX && *share < GAIN_MIN * self.alone(number);
                if brings && best.is_none_or(|(least, ..)| cost < least) {
                    best = Some((cost, number, index));
                }
            }
        }
        best.map(|(_, number, index)| (number, index))
    }

    /// The one against which the others become smallest; of those that are as good the oldest, from
    /// which the others were made most probably.
    fn head(&self, left: &BTreeSet<usize>) -> usize {
        let cost = |head: usize| -> f64 {
            let of = |number: &usize| {
                let share = self.shares.get(&(*number, head)).copied();
                let alone = self.alone(*number);
                let share = if *number == head {
                    alone
                } else {
                    share.unwrap_or(alone).min(alone)
                };
                #[expect(clippy::cast_precision_loss, reason = "about")]
                let bytes = self.members[*number].sample.model_bytes() as f64;
                share * bytes
            };
            left.iter().map(of).sum()
        };
        let costs: Vec<(f64, usize)> = left.iter().map(|&number| (cost(number), number)).collect();
        let least = costs
            .iter()
            .map(|(cost, _)| *cost)
            .fold(f64::INFINITY, f64::min);
        let as_good = costs.iter().filter(|(cost, _)| *cost <= AS_GOOD * least);
        let oldest = as_good.min_by_key(|(_, number)| (self.members[*number].since, *number));
        oldest.map_or(0, |(_, number)| *number)
    }

    fn path_of(&self, number: usize) -> PathBuf {
        self.root.join(&self.members[number].step.path)
    }

    fn tell(&self, number: usize, base: usize) -> AutoBase {
        let share = self.shares.get(&(number, base)).copied();
        AutoBase {
            source: self.path_of(number),
            base: self.path_of(base),
            estimated_percent: 100.0 * share.unwrap_or(1.0),
            alone_percent: 100.0 * self.alone(number),
        }
    }

    /// A base in one of the places that were named, for a model that has none in the folder.
    fn look_outside(&self, number: usize, choices: &mut Vec<AutoBase>) -> Result<Option<PathBuf>> {
        if self.outside.is_empty() {
            return Ok(None);
        }
        let source = self.path_of(number);
        let choice = auto_base::find(&source, self.outside, self.progress)?;
        let Some(base) = choice.base else {
            return Ok(None);
        };
        let taken = choice
            .candidates
            .iter()
            .find(|candidate| candidate.path == base);
        choices.push(AutoBase {
            source,
            base: base.clone(),
            estimated_percent: taken.and_then(|it| it.estimated_percent).unwrap_or(100.0),
            alone_percent: choice.alone_percent,
        });
        Ok(Some(base))
    }
}
