//! A folder of checkpoints into a folder of images, most of them small: each step is stored as
//! differences from an earlier one, from the same one as others do (a star) or from the one just
//! before (a chain), whichever a sample says is smaller. Steps that are there already stay as they
//! are, so a run that goes on is made small step by step.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::bases::DELTAS_MAX;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::ops::compress::options::CompressOptions;
use crate::ops::compress::plan::Planned;
use crate::ops::compress::plan::plan_mirror;
use crate::ops::compress::present::is_image_of;
use crate::ops::compress::report::CompressReport;
use crate::ops::compress::sources::Contents;
use crate::ops::compress::sources::open_source;
use crate::ops::compress::write::write_verified;
use crate::ops::estimate::Sample;
use crate::ops::folder;
use crate::ops::folder::EntryKind;

/// How many of the steps just before are looked at, beside those that stand alone.
const NEAR: usize = 3;
/// Pieces of a step that are looked at against each earlier one.
const SAMPLE: (u64, u64) = (32, 64 << 10);
/// A step stands alone if nothing makes it smaller than this share of that.
const GAIN_MIN: f64 = 0.9;
/// By how much smaller a step must become for each delta more that is read for it: a chain is
/// slower than a star.
const DELTA_COST: f64 = 0.05;

/// A model of the series: one file, or the shards in one folder.
#[derive(Debug)]
pub(super) struct Step {
    /// Path of the file or folder within the series; empty for the series' own folder.
    pub(super) path: PathBuf,
    /// Paths of its files, their images and suffixes; none where only its image is there.
    pub(super) files: Vec<(PathBuf, PathBuf, String)>,
    /// Path of its image where the files are not there any more.
    left_over: Option<PathBuf>,
}

/// A step whose images are there.
#[derive(Debug)]
struct FinishedStep {
    /// Its images.
    images: Vec<PathBuf>,
    /// How many deltas are read for it.
    depth: usize,
}

/// Compresses all models under `root` into `target`, which is made if it is not there; other files
/// are copied, equal ones once.
pub(super) fn series(
    root: &Path,
    target: &Path,
    options: &CompressOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let plan = plan_mirror(root, target, options.opaque, progress)?;
    fs::create_dir_all(target).map_err(|e| Error::io("cannot make the folder", target, e))?;
    for Planned { entry, .. } in plan.iter().filter(|p| p.entry.kind == EntryKind::Folder) {
        let path = target.join(&entry.path);
        fs::create_dir_all(&path).map_err(|e| Error::io("cannot make the folder", &path, e))?;
    }
    let there = folder::images_under(target, progress)?;
    let mut steps = steps(root, &plan)?;
    steps.extend(left_over(target, &there, &steps));
    steps.sort_by_cached_key(|step| natural(&step.path.to_string_lossy()));
    let mut series = Series {
        root,
        target,
        options,
        progress,
        there,
        done: Vec::new(),
        report,
    };
    for step in &steps {
        progress.check()?;
        let done = series.step(step)?;
        series.done.push(done);
    }
    series.others(&plan)
}

/// Steps that were compressed before and are not in the series any more: others may stand on them.
fn left_over(target: &Path, there: &[PathBuf], steps: &[Step]) -> Vec<Step> {
    let known: BTreeSet<&Path> = steps
        .iter()
        .flat_map(|step| &step.files)
        .map(|(_, image, _)| image.as_path())
        .collect();
    let relative = there
        .iter()
        .filter_map(|image| image.strip_prefix(target).ok());
    let unknown = relative.filter(|image| !known.contains(image));
    unknown
        .map(|image| Step {
            path: image.to_owned(),
            files: Vec::new(),
            left_over: Some(target.join(image)),
        })
        .collect()
}

/// The models of the plan.
pub(super) fn steps(root: &Path, plan: &[Planned]) -> Result<Vec<Step>> {
    let mut by_folder: BTreeMap<&Path, Vec<Step>> = BTreeMap::new();
    for Planned { entry, image } in plan {
        let Some((image, suffix)) = image else {
            continue;
        };
        let folder = entry.path.parent().unwrap_or(Path::new(""));
        by_folder.entry(folder).or_default().push(Step {
            path: entry.path.clone(),
            files: vec![(entry.path.clone(), image.clone(), suffix.clone())],
            left_over: None,
        });
    }
    let mut steps = Vec::new();
    for (folder, files) in by_folder {
        if are_shards(root, &files)? {
            let files = files.into_iter().flat_map(|step| step.files);
            steps.push(Step {
                path: folder.to_owned(),
                files: files.collect(),
                left_over: None,
            });
        } else {
            steps.extend(files);
        }
    }
    Ok(steps)
}

/// Whether each tensor is in one of the files only, of which there are several.
fn are_shards(root: &Path, files: &[Step]) -> Result<bool> {
    let mut names = BTreeSet::new();
    for (path, ..) in files.iter().flat_map(|step| &step.files) {
        let opened = open_source(&root.join(path), String::new(), true)?;
        for span in &opened.source.layout.spans {
            if !span.name.is_empty() && !names.insert(span.name.clone()) {
                return Ok(false);
            }
        }
    }
    Ok(files.len() > 1)
}

/// A name as a row of words and numbers, so that step 9 comes before step 10.
fn natural(name: &str) -> Vec<(String, u128)> {
    let mut parts = vec![(String::new(), 0_u128)];
    let mut in_number = false;
    for c in name.chars() {
        let digit = c.to_digit(10).map(u128::from);
        if in_number && digit.is_none() {
            parts.push((String::new(), 0));
        }
        in_number = digit.is_some();
        if let Some((text, number)) = parts.last_mut() {
            match digit {
                Some(digit) => *number = number.saturating_mul(10).saturating_add(digit),
                None => text.push(c),
            }
        }
    }
    parts
}

struct Series<'a> {
    root: &'a Path,
    target: &'a Path,
    options: &'a CompressOptions,
    progress: &'a dyn Progress,
    /// Images that were there before.
    there: Vec<PathBuf>,
    done: Vec<FinishedStep>,
    report: &'a mut CompressReport,
}

impl Series<'_> {
    fn step(&mut self, step: &Step) -> Result<FinishedStep> {
        let mut missing = Vec::new();
        for (path, image, suffix) in &step.files {
            if !self.is_there(path, image)? {
                missing.push((path, image, suffix));
            }
        }
        let images = step
            .files
            .iter()
            .map(|(_, image, _)| self.target.join(image));
        let images: Vec<PathBuf> = images.chain(step.left_over.clone()).collect();
        if missing.is_empty() {
            self.report.kept_images += step.files.len() as u64;
            let depth = self.depth(&images)?;
            return Ok(FinishedStep { images, depth });
        }
        let base = self.base_for(step)?;
        let mut depth = base.map_or(0, |number| 1 + self.done[number].depth);
        if missing.len() < step.files.len() {
            let there = images.iter().filter(|image| image.exists());
            depth = depth.max(self.depth(&there.cloned().collect::<Vec<_>>())?);
        }
        let bases = base.map(|number| {
            let mut bases = self.open(&self.done[number].images);
            bases.trust_no_index();
            Arc::new(bases)
        });
        let options = CompressOptions {
            base: bases,
            ..self.options.clone()
        };
        for (path, image, suffix) in missing {
            let full = self.root.join(path);
            let opened = open_source(&full, String::new(), self.options.opaque)?;
            let contents = Contents::of_file(suffix, opened);
            let to = self.target.join(image);
            let written = write_verified(&contents, &full, &to, &options, self.progress)?;
            self.report.images.push(written);
        }
        Ok(FinishedStep { images, depth })
    }

    /// Whether the image of a file is there already. An image of something else under its name is
    /// an error: others may need it.
    fn is_there(&self, path: &Path, image: &Path) -> Result<bool> {
        let (full, image) = (self.root.join(path), self.target.join(image));
        if fs::symlink_metadata(&image).is_err() {
            return Ok(false);
        }
        if is_image_of(&image, &full, true)? {
            return Ok(true);
        }
        Err(Error::invalid(format!("is an image of another `{}`", full.display()))
            .file(&image)
            .hint("the step was changed since: name another output; this image holds it as it was"))
    }

    /// These images as bases; what they need themselves is looked for in all of the series.
    fn open(&self, images: &[PathBuf]) -> Bases {
        let mut bases = Bases::unshared(DigestIndex::of_user());
        bases.add_files(images.iter());
        let done = self.done.iter().flat_map(|done| &done.images);
        bases.add_support(self.there.iter().chain(done));
        bases
    }

    /// How many deltas are read for that tensor of these images for which most are: one that never
    /// changed may need fewer.
    fn depth(&self, images: &[PathBuf]) -> Result<usize> {
        let bases = self.open(images);
        let mut depth = 0;
        for tensor in bases.tensors().filter(|tensor| tensor.is_delta()) {
            self.progress.check()?;
            let hint = "a step that it stands on is gone: put it back, or remove this image, and the step is compressed anew";
            bases.bytes(tensor).map_err(|e| e.hint(hint))?;
            depth = depth.max(bases.depth(tensor));
        }
        Ok(depth)
    }

    /// The earlier step that makes this one smallest; none if it is better alone.
    fn base_for(&self, step: &Step) -> Result<Option<usize>> {
        let mut model = Bases::unshared(None);
        let files: Vec<PathBuf> = step
            .files
            .iter()
            .map(|(path, ..)| self.root.join(path))
            .collect();
        model.add_files(files.iter());
        let sample = Sample::take(&model, SAMPLE.0, SAMPLE.1)?;
        let near = self.done.len().saturating_sub(NEAR);
        let mut best: Option<(f64, usize)> = None;
        for (number, done) in self.done.iter().enumerate() {
            let is_candidate = done.depth < DELTAS_MAX && (number >= near || done.depth == 0);
            if !is_candidate {
                continue;
            }
            self.progress.check()?;
            let bases = self.open(&done.images);
            let share = sample.against(|span| {
                let tensor = bases.like(span);
                tensor.map(|tensor| bases.bytes(tensor)).transpose()
            })?;
            #[expect(clippy::cast_precision_loss, reason = "at most four")]
            let cost = share * (1.0 + DELTA_COST * done.depth as f64);
            if share < GAIN_MIN * sample.alone() && best.is_none_or(|(least, _)| cost < least) {
                best = Some((cost, number));
            }
        }
        Ok(best.map(|(_, number)| number))
    }

    /// Copies what is no model. Equal files are one file with several names.
    fn others(&mut self, plan: &[Planned]) -> Result<()> {
        let mut copies: BTreeMap<[u8; 32], PathBuf> = BTreeMap::new();
        for Planned { entry, image } in plan {
            self.progress.check()?;
            let (full, to) = (self.root.join(&entry.path), self.target.join(&entry.path));
            match &entry.kind {
                EntryKind::File if image.is_none() => self.copy(&full, &to, &mut copies)?,
                EntryKind::Link(link) if fs::read_link(&to).ok().as_ref() != Some(link) => {
                    std::os::unix::fs::symlink(link, &to)
                        .map_err(|e| Error::io("cannot make the link", &to, e))?;
                }
                EntryKind::Special => self.progress.skip(folder::not_a_file(&full))?,
                _ => {}
            }
        }
        Ok(())
    }

    fn copy(
        &mut self,
        full: &Path,
        to: &Path,
        copies: &mut BTreeMap<[u8; 32], PathBuf>,
    ) -> Result<()> {
        let blake3 = digest::blake3_of(&FileSource::open(full)?)?;
        let exists = fs::symlink_metadata(to).is_ok();
        let is_same = exists && digest::blake3_of(&FileSource::open(to)?)? == blake3;
        if exists && !is_same && !self.options.force {
            let what = "exists already, and is another file than the step has";
            return Err(Error::invalid(what)
                .file(to)
                .hint("replace it with `--force`"));
        }
        match copies.get(&blake3) {
            _ if is_same => {}
            // where a second name cannot be given, a second copy can be made
            Some(first)
                if !exists && may_share(first, full) && fs::hard_link(first, to).is_ok() => {}
            _ => self.report.copied_bytes += folder::copy_file(full, to, self.options.force)?,
        }
        self.report.copied_files += 1;
        copies.entry(blake3).or_insert_with(|| to.to_owned());
        Ok(())
    }
}

/// Whether a copy has the permissions of this file: two names of one file have the same.
fn may_share(copy: &Path, file: &Path) -> bool {
    let permissions = |path: &Path| fs::metadata(path).map(|m| m.permissions()).ok();
    permissions(copy) == permissions(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = [
            "ckpt-1000/a",
            "ckpt-90/a",
            "ckpt-9/b",
            "ckpt-9/a",
            "base",
            "9",
            "10",
        ];
        names.sort_by_cached_key(|name| natural(name));
        assert_eq!(
            names,
            [
                "9",
                "10",
                "base",
                "ckpt-9/a",
                "ckpt-9/b",
                "ckpt-90/a",
                "ckpt-1000/a"
            ]
        );
    }
}
