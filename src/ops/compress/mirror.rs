//! A folder into another one with an image for each model and copies of the other files. Where that
//! is there already, it is brought up to date: what did not change stays, and only what an earlier
//! run has made is replaced.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;

use crate::archive::Archive;
use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::progress::Reason;
use crate::base::progress::Silent;
use crate::base::progress::Skipped;
use crate::ops::base;
use crate::ops::companions;
use crate::ops::companions::SecondName;
use crate::ops::compress::family::Arranged;
use crate::ops::compress::family::Family;
use crate::ops::compress::further_names::FurtherNames;
use crate::ops::compress::gone::gone;
use crate::ops::compress::options::CompressOptions;
use crate::ops::compress::plan::Planned;
use crate::ops::compress::plan::plan_mirror;
use crate::ops::compress::present::deltas_in;
use crate::ops::compress::present::holds_the_same;
use crate::ops::compress::present::is_image_of;
use crate::ops::compress::report::CompressReport;
use crate::ops::compress::report::FurtherName;
use crate::ops::compress::report::ImageWritten;
use crate::ops::compress::sources::Contents;
use crate::ops::compress::sources::open_source;
use crate::ops::compress::sources::restored;
use crate::ops::compress::write::write_verified;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;
use crate::ops::origin;
use crate::ops::origin::Origin;

pub(super) fn mirror(
    root: &Path,
    target: &Path,
    options: &CompressOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let plan = plan_mirror(root, target, options.opaque, progress)?;
    let output = if options.resume {
        OutputFolder::resume(target, true)?
    } else {
        OutputFolder::create(target, true)?
    };
    let mut mirror = Mirror {
        root,
        target,
        output,
        options,
        report,
        progress,
        current: BTreeSet::new(),
        needed: BTreeSet::new(),
        family: BTreeMap::new(),
        names: FurtherNames::default(),
    };
    mirror.report.brings_up_to_date = mirror.output.is_in_place();
    mirror.put_all(&plan)?;
    let is_new = !mirror.output.is_in_place();
    if !is_new {
        mirror.report.gone = gone(root, target, progress)?;
    } else if options.resume {
        remove_others(&mirror.output, &plan)?;
    }
    let is_file = |planned: &Planned| planned.entry.kind == EntryKind::File;
    mirror.report.is_source_empty = !plan.iter().any(is_file);
    mirror.output.commit()?;
    if is_new {
        origin::mark_image(target, root);
    }
    Ok(())
}

struct Mirror<'a> {
    root: &'a Path,
    target: &'a Path,
    output: OutputFolder,
    options: &'a CompressOptions,
    report: &'a mut CompressReport,
    progress: &'a dyn Progress,
    /// Images that are up to date, as paths in the output.
    current: BTreeSet<PathBuf>,
    /// Images that others in the output are differences from, which cannot be coded anew.
    needed: BTreeSet<PathBuf>,
    /// Where the bases of images are that were chosen for them.
    family: BTreeMap<PathBuf, BaseLocation>,
    /// Images that are further names of others.
    names: FurtherNames,
}

/// Where a base is.
#[derive(Debug, Clone)]
enum BaseLocation {
    /// Images in the output.
    Inside(Vec<PathBuf>),
    /// Elsewhere.
    Outside(PathBuf),
}

impl Mirror<'_> {
    /// Folders first, then what others need, and then all that is left.
    fn put_all(&mut self, plan: &[Planned]) -> Result<()> {
        let mut order = self.look(plan)?;
        let recodes = self.options.base.is_some();
        self.names = FurtherNames::of(self.root, plan, &self.current, recodes);
        if let Some(outside) = &self.options.more.auto_delta {
            let is_first = |planned: &&Planned| self.names.first_of(planned.made()).is_none();
            let firsts: Vec<Planned> = plan.iter().filter(is_first).cloned().collect();
            order = self.arrange(&firsts, outside)?;
        }
        let mut rank: BTreeMap<&Path, usize> = BTreeMap::new();
        for (number, path) in order.iter().enumerate() {
            rank.insert(path, number);
        }
        let mut sorted: Vec<&Planned> = plan.iter().collect();
        sorted.sort_by_key(|planned| {
            let is_folder = planned.entry.kind == EntryKind::Folder;
            let first = self.names.first_of(planned.made());
            let rank = rank.get(first.unwrap_or(planned.made())).copied();
            (!is_folder, rank.unwrap_or(usize::MAX), first.is_some())
        });
        for planned in sorted {
            self.progress.check()?;
            self.put(planned)
                .or_else(|error| self.pass_over(planned, &error))?;
        }
        Ok(())
    }

    /// Chooses bases among the models of the plan, and an order in which each comes after its base.
    fn arrange(&mut self, plan: &[Planned], outside: &[PathBuf]) -> Result<Vec<PathBuf>> {
        let is_delta = |path: &PathBuf| {
            let archive = Archive::open(&self.output.path(path));
            (
                path.clone(),
                archive.is_ok_and(|archive| archive.index().is_delta()),
            )
        };
        let done: BTreeMap<PathBuf, bool> = self.current.iter().map(is_delta).collect();
        let family = Family::of(self.root, plan, &done, outside, self.progress)?;
        let (arranged, choices) = family.arrange()?;
        let mut order = Vec::new();
        for Arranged {
            images,
            base,
            outside,
            ..
        } in &arranged
        {
            let inside = base.map(|base| BaseLocation::Inside(arranged[base].images.clone()));
            let location = inside.or_else(|| outside.clone().map(BaseLocation::Outside));
            for image in images {
                self.family
                    .extend(location.clone().map(|location| (image.clone(), location)));
                order.push(image.clone());
            }
        }
        self.report.auto_bases = choices;
        Ok(order)
    }

    /// The base that an image is to have.
    fn base_for(&self, path: &Path) -> Result<Option<Arc<Bases>>> {
        let images = match self.family.get(path) {
            Some(BaseLocation::Inside(images)) => images,
            Some(BaseLocation::Outside(location)) => return base::open(Some(location)),
            None => return Ok(self.options.base.clone()),
        };
        let within = |images: &mut dyn Iterator<Item = &PathBuf>| -> Vec<PathBuf> {
            images
                .map(|image| self.output.path(image))
                .filter(|image| image.exists())
                .collect()
        };
        let mut bases = Bases::unshared(DigestIndex::of_user());
        bases.add_files(within(&mut images.iter()).iter());
        bases.add_support(within(&mut self.family.keys()).iter());
        bases.trust_no_index();
        Ok(Some(Arc::new(bases)))
    }

    /// Finds out what is up to date. An image that is, but is stored as differences from one that
    /// is going to be replaced, is to be coded anew before; the paths of such.
    fn look(&mut self, plan: &[Planned]) -> Result<Vec<PathBuf>> {
        let mut first = Vec::new();
        if self.is_free() && !self.options.resume {
            return Ok(first);
        }
        let mut stale = BTreeSet::new();
        for planned in plan
            .iter()
            .filter(|planned| planned.entry.kind == EntryKind::File)
        {
            self.progress.check()?;
            let full = self.root.join(&planned.entry.path);
            let to = self.output.path(planned.made());
            let is_recoded = self.options.base.is_some() && folder::is_image(&full);
            let is_current = match &planned.image {
                Some(_) => self.is_up_to_date(&to, &full),
                None if is_recoded => holds_the_same(&to, &full).unwrap_or(false),
                None => continue,
            };
            if is_current {
                self.current.insert(planned.made().to_owned());
            } else if !self.is_free() && folder::is_image(&to) {
                stale.insert(folder::real(&to));
            }
        }
        if self.is_free() {
            return Ok(first);
        }
        for (delta, needs) in deltas_in(self.target, self.progress)? {
            let is_sound = needs
                .as_ref()
                .is_some_and(|needs| needs.is_disjoint(&stale));
            let path = delta.strip_prefix(self.target).unwrap_or(&delta);
            if is_sound || stale.contains(&folder::real(&delta)) {
                continue;
            }
            if self.current.remove(path) {
                first.push(path.to_owned());
            } else {
                let bases = needs.into_iter().flatten();
                self.needed
                    .extend(bases.filter(|base| stale.contains(base)));
            }
        }
        Ok(first)
    }

    fn put(&mut self, planned: &Planned) -> Result<()> {
        let Planned { entry, image } = planned;
        let full = self.root.join(&entry.path);
        match (&entry.kind, image) {
            (EntryKind::Folder, _) => self.output.make_folder(&entry.path),
            (EntryKind::Special, _) => self.progress.skip(folder::not_a_file(&full)),
            (EntryKind::Link(to), _) => self.put_link(entry, to),
            (EntryKind::File, Some((path, suffix))) => self.put_image(&full, path, suffix),
            (EntryKind::File, None) if self.options.base.is_some() && folder::is_image(&full) => {
                self.put_recoded(&full, &entry.path)
            }
            (EntryKind::File, None) => self.put_copy(&full, &entry.path),
        }
    }

    /// What an interrupted run has left is nobody's; in a folder that was there, only what
    /// `--force` allows is replaced unasked.
    fn is_free(&self) -> bool {
        !self.output.is_in_place()
    }

    fn put_link(&mut self, entry: &Entry, to: &Path) -> Result<()> {
        let there = self.output.path(&entry.path);
        if fs::symlink_metadata(&there).is_ok() && fs::read_link(&there).ok().as_deref() != Some(to)
        {
            let is_link = fs::symlink_metadata(&there).is_ok_and(|m| m.is_symlink());
            let own = origin::of(self.target, self.root) == Origin::Same;
            if !is_link || !(own || self.options.force || self.is_free()) {
                return Err(Error::invalid("something else is there already").file(&there));
            }
        }
        self.output.make_link(&entry.path, to, true)
    }

    fn put_image(&mut self, full: &Path, path: &Path, suffix: &str) -> Result<()> {
        let to = self.output.path(path);
        if self.current.contains(path) {
            return self.keep(path, full);
        }
        self.make_room(&to, full)?;
        if self.put_name(path, full)? {
            return self.remove_copy(path, full);
        }
        let opened = open_source(full, String::new(), self.options.opaque)?;
        let contents = Contents::of_file(suffix, opened);
        let mut options = self.forced();
        options.base = self.base_for(path)?;
        let mut image = write_verified(&contents, full, &to, &options, self.progress)?;
        image.output = self.target.join(path);
        self.report.images.push(image);
        self.names.note(path, full)?;
        self.remove_copy(path, full)
    }

    /// Gives the image of a file that has several names one more; whether there is such an image.
    fn put_name(&mut self, path: &Path, full: &Path) -> Result<bool> {
        let Some(first) = self.names.made(path, full)? else {
            return Ok(false);
        };
        let (there, to) = (self.output.path(first), self.output.path(path));
        let made = companions::put_name(&there, &to, self.progress)?;
        match made {
            SecondName::Linked => origin::add_source(&to, full),
            SecondName::Copied { .. } => origin::mark_image(&to, full),
        };
        self.report.links.push(FurtherName {
            source: full.to_owned(),
            output: self.target.join(path),
            image: self.target.join(first),
            copied_bytes: made.copied_bytes(),
        });
        Ok(true)
    }

    /// Removes the copy that an earlier run has made of what was no model then.
    fn remove_copy(&self, path: &Path, full: &Path) -> Result<()> {
        let copy = self
            .output
            .path(path)
            .with_file_name(full.file_name().unwrap_or_default());
        if !self.is_free() && origin::of(&copy, full) == Origin::Same {
            fs::remove_file(&copy).map_err(|e| Error::io("cannot remove", &copy, e))?;
        }
        Ok(())
    }

    /// Whether there is an image of this file already, as far as its time says if an earlier run
    /// has made it.
    fn is_up_to_date(&self, to: &Path, full: &Path) -> bool {
        let trusts_time = !self.options.more.check && origin::of(to, full) == Origin::Same;
        // what cannot be opened is none
        is_image_of(to, full, trusts_time || self.is_free()).unwrap_or(false)
    }

    fn keep(&mut self, path: &Path, full: &Path) -> Result<()> {
        let to = self.output.path(path);
        if origin::of(&to, full) != Origin::Same {
            origin::add_source(&to, full);
        }
        self.report.kept_images += 1;
        self.report.kept.push(self.target.join(path));
        self.names.note(path, full)
    }

    /// An error if something is in the way that must stay.
    fn make_room(&self, to: &Path, full: &Path) -> Result<()> {
        if self.is_free() {
            return match fs::remove_file(to) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    Err(Error::io("cannot replace", to, e))
                }
                _ => Ok(()),
            };
        }
        if self.needed.contains(&folder::real(to)) {
            let what = "stays as it was: another image, whose file is gone, is differences from it";
            return Err(Error::invalid(what).file(to));
        }
        match origin::of(to, full) {
            Origin::Same => Ok(()),
            _ => self.options.replacing().check(to, full),
        }
    }

    /// After [`make_room`](Self::make_room), what is there may be replaced.
    fn forced(&self) -> CompressOptions {
        CompressOptions {
            force: true,
            ..self.options.clone()
        }
    }

    fn put_recoded(&mut self, full: &Path, path: &Path) -> Result<()> {
        let to = self.output.path(path);
        if self.current.contains(path) {
            return self.keep(path, full);
        }
        self.make_room(&to, full)?;
        if self.put_name(path, full)? {
            return Ok(());
        }
        let mut image = recode(full, &to, &self.forced(), self.progress)?;
        image.output = self.target.join(path);
        self.report.images.push(image);
        self.names.note(path, full)
    }

    fn put_copy(&mut self, full: &Path, path: &Path) -> Result<()> {
        let to = self.output.path(path);
        let may_keep = self.options.resume || !self.is_free();
        let origin = origin::of(&to, full);
        if may_keep && self.is_copy(full, &to, origin)? {
            if origin != Origin::Same {
                origin::mark_copy(&to, full);
            }
            self.report.kept_files += 1;
            return Ok(());
        }
        let is_ours = origin == Origin::Same || self.is_free();
        if !is_ours && fs::symlink_metadata(&to).is_ok() {
            self.options.replacing().check_other(&to)?;
        }
        self.report.copied_bytes += folder::copy_file(full, &to, true)?;
        origin::mark_copy(&to, full);
        self.report.copied_files += 1;
        Ok(())
    }

    fn is_copy(&self, full: &Path, to: &Path, origin: Origin) -> Result<bool> {
        if !fs::symlink_metadata(to).is_ok_and(|metadata| metadata.is_file()) {
            return Ok(false);
        }
        let (of_file, of_copy) = (Stamp::of(full)?, Stamp::of(to)?);
        let is_same_time = of_file.mtime == of_copy.mtime && of_file.rested_since(&of_copy);
        if origin == Origin::Same && is_same_time && !self.options.more.check {
            return Ok(true);
        }
        folder::are_same(full, to)
    }

    /// What cannot be put is passed over, unless nothing else could be, either.
    fn pass_over(&self, planned: &Planned, error: &Error) -> Result<()> {
        let full = self.root.join(&planned.entry.path);
        let is_of_source = error.path().is_some_and(|path| path.starts_with(self.root));
        let is_in_the_way = [
            Errno::EEXIST,
            Errno::ENOTDIR,
            Errno::EISDIR,
            Errno::ENAMETOOLONG,
        ]
        .iter()
        .any(|errno| error.raw_os_error() == Some(*errno as i32));
        let reason = match error.kind() {
            ErrorKind::Interrupted => return Err(error.clone()),
            _ if is_of_source => Reason::Unreadable,
            ErrorKind::Invalid => Reason::Name,
            _ if is_in_the_way => Reason::Name,
            _ => return Err(error.clone()),
        };
        let text = error.to_string().replace('\n', "; ");
        self.progress
            .skip(Skipped::new(&full, reason, format!("{text}: left out")))
    }
}

/// An image of the source becomes one of differences.
pub(super) fn recode(
    full: &Path,
    to: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let bases = options.base.as_ref();
    let bases = bases.ok_or_else(|| Error::invalid("coded anew without a base").file(full))?;
    let contents = restored(full, Some(bases), None)?;
    write_verified(&contents, full, to, options, progress)
}

/// What an interrupted run has left of another source, or of files that are no more.
fn remove_others(output: &OutputFolder, plan: &[Planned]) -> Result<()> {
    let made: BTreeSet<&Path> = plan.iter().map(Planned::made).collect();
    let entries = folder::walk(&output.path(Path::new("")), &Silent)?;
    // what is in a folder goes before it
    for entry in entries.iter().rev() {
        if made.contains(entry.path.as_path()) {
            continue;
        }
        let full = output.path(&entry.path);
        let removed = match entry.kind {
            EntryKind::Folder => fs::remove_dir(&full),
            _ => fs::remove_file(&full),
        };
        removed.map_err(|e| Error::io("cannot remove", &full, e))?;
    }
    Ok(())
}
