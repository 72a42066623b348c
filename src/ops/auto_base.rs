//! The base of a model, found among the files of some folders: by the names, dtypes and shapes of
//! tensors first, then by what a sample would take against each that has them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::Tensor;
use crate::base::Error;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic;
use crate::base::units;
use crate::base::units::counted;
use crate::ops::estimate::Sample;
use crate::ops::report;

/// A base is taken only if the model becomes smaller than this share of what it takes alone.
const GAIN_MIN: f64 = 0.9;
/// Pieces of a first look at every candidate, and of a closer one at the best.
const FIRST_LOOK: (u64, u64) = (8, 16 << 10);
const CLOSE_LOOK: (u64, u64) = (48, 64 << 10);
const LOOKED_AT_CLOSELY: usize = 6;
/// What comes so near to the best is as good.
const AS_GOOD: f64 = 1.01;

/// A model that may be the base.
#[derive(Debug, Clone, Serialize)]
pub struct Candidate {
    /// A file, or a folder of shards.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// How much of the model, in percent of its bytes, has a tensor of the same name, dtype and
    /// shape there.
    pub alike_percent: f64,
    /// About how many percent of its bytes the model would take against it; none if that was not
    /// looked at.
    pub estimated_percent: Option<f64>,
}

/// What was found.
#[derive(Debug, Clone, Serialize)]
pub struct Choice {
    /// The best base; none if the model stands alone.
    #[serde(serialize_with = "report::optional_path")]
    pub base: Option<PathBuf>,
    /// Why, for a person.
    pub why: String,
    /// Files that were looked at.
    pub files: u64,
    /// About how many percent of its bytes the model takes alone.
    pub alone_percent: f64,
    /// The best candidates, best first.
    pub candidates: Vec<Candidate>,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.base {
            Some(path) => write!(f, "the base is `{}`", path.display())?,
            None => f.write_str("no base")?,
        }
        write!(
            f,
            ": {} ({} looked at)",
            self.why,
            counted(self.files, "file")
        )
    }
}

/// Looks for the base of `source`, a model file or a folder, in these folders; where there are
/// none, in the folder that holds it.
pub(crate) fn find(source: &Path, folders: &[PathBuf], progress: &dyn Progress) -> Result<Choice> {
    let beside = [atomic::folder_of(source).to_owned()];
    let folders = if folders.is_empty() { &beside } else { folders };
    progress.begin("looking for a base", 0);
    let model = Bases::open(source, DigestIndex::of_user())?;
    let mut others = Bases::unshared(DigestIndex::of_user());
    for folder in folders {
        others
            .add(folder)
            .or_else(|error| match fs::read_dir(folder) {
                // a folder without models is as good as none
                Ok(_) => Ok(()),
                Err(_) => Err(error),
            })?;
    }
    let own: BTreeSet<PathBuf> = model
        .files()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let search = Search {
        model: &model,
        others: &others,
        own,
        progress,
    };
    let choice = search.choose()?;
    progress.end();
    Ok(choice)
}

struct Search<'a> {
    model: &'a Bases,
    others: &'a Bases,
    own: BTreeSet<PathBuf>,
    progress: &'a dyn Progress,
}

/// The tensors of a candidate by name.
type Tensors<'a> = BTreeMap<&'a str, &'a Tensor>;

impl<'a> Search<'a> {
    fn choose(&self) -> Result<Choice> {
        let first = Sample::take(self.model, FIRST_LOOK.0, FIRST_LOOK.1)?;
        let mut choice = Choice {
            base: None,
            why: String::new(),
            files: self.others.files().count() as u64,
            alone_percent: 100.0 * first.alone(),
            candidates: Vec::new(),
        };
        if let Some(delta) = self.that_needs_the_model()? {
            // each would need the other, and who removes the originals has neither
            choice.why = format!("it is the base of `{}` itself", delta.display());
            return Ok(choice);
        }
        let candidates = self.candidates();
        if candidates.is_empty() {
            choice.why = format!(
                "nothing of {} has tensors of the same names, dtypes and shapes and is no delta itself",
                counted(choice.files, "file")
            );
            return Ok(choice);
        }
        let mut measured = Vec::new();
        for (path, tensors) in candidates {
            self.progress.check()?;
            // one that cannot be read is no base
            if let Ok(share) = self.measure(&first, &tensors) {
                measured.push((share, path, tensors));
            }
        }
        measured.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        measured.truncate(LOOKED_AT_CLOSELY);
        let close = Sample::take(self.model, CLOSE_LOOK.0, CLOSE_LOOK.1)?;
        for (share, _, tensors) in &mut measured {
            self.progress.check()?;
            *share = self.measure(&close, tensors)?;
        }
        measured.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
        prefer_the_oldest(&mut measured);
        choice.alone_percent = 100.0 * close.alone();
        choice.candidates = measured
            .iter()
            .map(|(share, path, tensors)| Candidate {
                path: path.clone(),
                alike_percent: units::percent(bytes_of(tensors), close.model_bytes()),
                estimated_percent: Some(100.0 * share),
            })
            .collect();
        if let Some((share, path, _)) = measured.first() {
            let (with, alone) = (100.0 * share, choice.alone_percent);
            if *share < GAIN_MIN * close.alone() {
                choice.why =
                    format!("about {with:.1} % of its bytes against it, {alone:.1} % alone");
                choice.base = Some(path.clone());
            } else {
                choice.why = format!(
                    "the best, `{}`, would bring about {with:.1} % of its bytes, and alone it takes {alone:.1} %",
                    path.display()
                );
            }
        }
        Ok(choice)
    }

    /// A delta there that has a tensor of the model as a base.
    fn that_needs_the_model(&self) -> Result<Option<PathBuf>> {
        for image in self.others.deltas() {
            let named = image.needs().filter_map(|need| {
                let (record, len) = (&need.record, need.len);
                let mut alike = self.model.tensors();
                let tensor = alike.find(|t| t.span().name == record.name && t.span().len == len)?;
                Some((record, tensor))
            });
            if let Some((record, tensor)) = named.min_by_key(|(_, tensor)| tensor.span().len)
                && self.model.identify(tensor)?.0.blake3 == record.blake3
            {
                return Ok(Some(image.path().to_owned()));
            }
        }
        Ok(None)
    }

    /// Files with tensors like the model's, and folders whose files have each a part of them.
    fn candidates(&self) -> Vec<(PathBuf, Tensors<'a>)> {
        let mut by_file: BTreeMap<&Path, Tensors<'a>> = BTreeMap::new();
        for tensor in self.model.tensors() {
            let span = tensor.span();
            for other in self.others.all_like(span).filter(|other| !other.is_delta()) {
                let file = self.others.file_of(other);
                by_file
                    .entry(file)
                    .or_default()
                    .insert(&other.span().name, other);
            }
        }
        by_file.retain(|file, _| {
            !file
                .canonicalize()
                .is_ok_and(|file| self.own.contains(&file))
        });
        let mut by_folder: BTreeMap<&Path, Option<Tensors<'a>>> = BTreeMap::new();
        for (file, tensors) in &by_file {
            let joined = by_folder
                .entry(atomic::folder_of(file))
                .or_insert_with(|| Some(Tensors::new()));
            let is_apart =
                |joined: &mut Tensors<'a>| tensors.keys().all(|name| !joined.contains_key(name));
            // files with the same tensors are models of their own
            if !joined.as_mut().is_some_and(is_apart) {
                *joined = None;
            } else if let Some(joined) = joined {
                joined.extend(tensors);
            }
        }
        let shards_of = |folder: &Path| {
            by_file
                .keys()
                .filter(|file| atomic::folder_of(file) == folder)
                .count()
        };
        let folders: Vec<(PathBuf, Tensors<'a>)> = by_folder
            .into_iter()
            .filter(|(folder, _)| shards_of(folder) > 1)
            .filter_map(|(folder, tensors)| Some((folder.to_owned(), tensors?)))
            .collect();
        let is_shard = |file: &Path| {
            folders
                .iter()
                .any(|(folder, _)| atomic::folder_of(file) == folder)
        };
        let alone = by_file.into_iter().filter(|(file, _)| !is_shard(file));
        let alone: Vec<(PathBuf, Tensors<'a>)> =
            alone.map(|(file, t)| (file.to_owned(), t)).collect();
        folders.into_iter().chain(alone).collect()
    }

    fn measure(&self, sample: &Sample, tensors: &Tensors<'_>) -> Result<f64> {
        sample.against(|span| -> Result<Option<Arc<dyn ReadAt>>, Error> {
            let tensor = tensors.get(span.name.as_str());
            tensor.map(|tensor| self.others.bytes(tensor)).transpose()
        })
    }
}

/// Where several are as good, the one that was there first is most probably what the others were
/// made from.
fn prefer_the_oldest(measured: &mut [(f64, PathBuf, Tensors<'_>)]) {
    let best = measured.first().map_or(0.0, |(share, ..)| *share);
    let as_good = measured.partition_point(|(share, ..)| *share <= AS_GOOD * best);
    let age = |path: &Path| fs::metadata(path).and_then(|m| m.modified()).ok();
    measured[..as_good].sort_by_key(|(_, path, _)| age(path));
}

fn bytes_of(tensors: &Tensors<'_>) -> u64 {
    tensors.values().map(|tensor| tensor.span().len).sum()
}
