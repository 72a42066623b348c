//! Who needs a base: the deltas that could not be read any more if files went.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::archive::Bases;
use crate::archive::image::Image;
use crate::base::Result;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// How many deltas there are.
    pub deltas: u64,
    /// Those of them that would lose a base.
    pub lost: Vec<PathBuf>,
}

/// The files that are looked at.
#[derive(Debug)]
pub struct Files<'a> {
    /// They go.
    pub going: &'a BTreeSet<PathBuf>,
    /// The images that stay, among which there may be deltas.
    pub images: &'a BTreeSet<PathBuf>,
    /// Files that stay, whatever happens to those that go: any may hold a base.
    pub staying: &'a BTreeSet<PathBuf>,
}

/// Which deltas would lose a base. `none` gives bases without any, to which files are added;
/// `check` is asked between deltas whether to go on.
pub fn needed(
    files: &Files<'_>,
    none: &dyn Fn() -> Bases,
    check: &dyn Fn() -> Result<()>,
) -> Result<Needed> {
    // one that cannot be opened is no delta that could be orphaned
    let images = files.images.iter();
    let images = images.filter_map(|path| Image::open(path).ok());
    let deltas: Vec<Image> = images.filter(Image::is_delta).collect();
    if deltas.is_empty() {
        return Ok(Needed::default());
    }
    // the models among these files, whatever their names: those in the Hugging Face cache have no
    // extension
    let bases_in = |paths: &mut dyn Iterator<Item = &PathBuf>| {
        let mut bases = none();
        bases.add_support(paths);
        bases
    };
    let of_going = bases_in(&mut files.going.iter());
    let of_staying = bases_in(&mut files.staying.iter());
    let of_all = bases_in(&mut files.going.union(files.staying));
    let mut lost = Vec::new();
    for image in &deltas {
        check()?;
        let is_lost = may_need(image, &of_going)
            && !needs_all(image, &of_staying)
            // what lacks a base already loses nothing
            && needs_all(image, &of_all);
        if is_lost {
            lost.push(image.path().to_owned());
        }
    }
    Ok(Needed {
        deltas: deltas.len() as u64,
        lost,
    })
}

/// Whether a tensor there is called as a base of this delta is.
fn may_need(image: &Image, bases: &Bases) -> bool {
    let mut needs = image.needs();
    needs.any(|need| bases.names(&need.record, need.len))
}

/// Whether all bases of a delta are there.
fn needs_all(image: &Image, bases: &Bases) -> bool {
    let mut needs = image.needs();
    needs.all(|need| bases.find(&need.record, need.len).is_ok())
}
