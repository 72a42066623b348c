//! The models that others are stored as differences from, as the verbs take them.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::archive;
use crate::archive::Archive;
use crate::archive::Availability;
use crate::archive::BaseResolver;
use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::ModelFile;
use crate::archive::Need;
use crate::archive::Opening;
use crate::archive::Tensor;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic;
use crate::base::parallel;
use crate::ops::folder;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::writer::Base;
use crate::writer::Source;

/// Shorter tensors are not looked for under other names.
const RENAMED_LEN_MIN: u64 = 16 << 10;
/// How much is compared at each of three places of a tensor that may have been renamed.
const LOOK_LEN: usize = 1 << 10;

/// Opens the model that was named, to make deltas from it.
pub(crate) fn open(path: Option<&Path>) -> Result<Option<Arc<Bases>>> {
    let open = |path| {
        let mut bases = Bases::open(path, DigestIndex::of_user())?;
        bases.trust_no_index();
        Ok(Arc::new(bases))
    };
    path.map(open).transpose()
}

/// For each span of a source the tensor of the same name, dtype and shape; where there is none, one
/// of the same dtype and shape that looks the same, as a tensor that was only renamed does.
pub(crate) fn bases_of(
    bases: &Bases,
    source: &Source,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Option<Base>>> {
    let spans = &source.layout.spans;
    let shapes = by_shape(bases);
    let mut found = Vec::new();
    parallel::ordered(
        threads,
        spans.len(),
        || (),
        |(), number| {
            progress.check()?;
            let span = &spans[number];
            let tensor = match bases.like(span) {
                Some(tensor) => Some(tensor),
                None => renamed(bases, &shapes, source, span)?,
            };
            let identify = |tensor| {
                let (record, bytes) = bases.identify(tensor)?;
                Ok(Base { record, bytes })
            };
            tensor.map(identify).transpose()
        },
        |_, base| {
            found.push(base);
            Ok(())
        },
    )?;
    bases.keep_digests();
    Ok(found)
}

/// Tensors by what a renamed one keeps.
type Shapes<'a> = BTreeMap<(&'a str, &'a [u64]), Vec<&'a Tensor>>;

fn by_shape(bases: &Bases) -> Shapes<'_> {
    let mut shapes = Shapes::new();
    for tensor in bases.tensors() {
        let span = tensor.span();
        let alike = shapes.entry((&span.dtype, &span.shape)).or_default();
        alike.push(tensor);
    }
    shapes
}

/// A tensor with the bytes of `span` at a few places, under another name.
fn renamed<'a>(
    bases: &Bases,
    shapes: &Shapes<'a>,
    source: &Source,
    span: &Span,
) -> Result<Option<&'a Tensor>> {
    let is_worth_it = span.kind == SpanKind::Tensor && span.len >= RENAMED_LEN_MIN;
    let alike = shapes.get(&(span.dtype.as_str(), span.shape.as_slice()));
    let Some(alike) = alike.filter(|_| is_worth_it) else {
        return Ok(None);
    };
    let look = |bytes: &dyn ReadAt, start: u64| -> Result<[u8; 3 * LOOK_LEN]> {
        let mut seen = [0; 3 * LOOK_LEN];
        let last = span.len - LOOK_LEN as u64;
        for (seen, at) in seen
            .as_chunks_mut::<LOOK_LEN>()
            .0
            .iter_mut()
            .zip([0, last / 2, last])
        {
            bytes.read_exact_at(start + at, seen)?;
        }
        Ok(seen)
    };
    let seen = look(&*source.bytes, span.start)?;
    for tensor in alike {
        if look(&*bases.bytes(tensor)?, 0)? == seen {
            return Ok(Some(tensor));
        }
    }
    Ok(None)
}

/// Where bases are, seen from the folder of `image`: words for a person who looks for them later.
pub(crate) fn path_from(bases: &Bases, image: &Path) -> String {
    let Some(path) = bases.search_paths().first() else {
        return String::new();
    };
    let found = relative_path(path, image).unwrap_or_else(|| path.clone());
    found.to_string_lossy().into_owned()
}

/// The same for an image `to` that takes over the bases of another one: as that has it, if there is
/// nothing at that place any more.
pub(crate) fn path_moved(image: &Archive, to: &Path) -> String {
    let old = &image.index().base_path;
    let path = atomic::folder_of(image.path()).join(old);
    let path = if old.is_empty() {
        None
    } else {
        relative_path(&path, to)
    };
    path.map_or_else(|| old.clone(), |path| path.to_string_lossy().into_owned())
}

/// `path`, which must be there, seen from the folder of `image`; from the root if both have nothing
/// but that in common.
fn relative_path(path: &Path, image: &Path) -> Option<PathBuf> {
    let folder = atomic::folder_of(image).canonicalize().ok()?;
    let path = path.canonicalize().ok()?;
    let mut common = folder.as_path();
    let mut relative = PathBuf::new();
    while !path.starts_with(common) {
        common = common.parent()?;
        relative.push("..");
    }
    if common.parent().is_none() {
        return Some(path);
    }
    Some(relative.join(path.strip_prefix(common).unwrap_or(&path)))
}

/// Where the bases of images are looked for. Nothing is looked at before an image needs it.
#[derive(Debug)]
pub(crate) struct SearchPaths {
    paths: Vec<PathBuf>,
    beside: Option<PathBuf>,
    opened: OnceLock<Arc<Bases>>,
}

impl SearchPaths {
    /// Those that were named and, where the images are all in a folder, that folder.
    pub(crate) fn new(named: &[PathBuf], source: &Path) -> Self {
        let mut paths = named.to_vec();
        if source.is_dir() {
            paths.push(source.to_owned());
        }
        Self {
            paths,
            beside: None,
            opened: OnceLock::new(),
        }
    }

    /// Also the folder of `image`, where nothing was named.
    #[must_use]
    pub(crate) fn or_beside(mut self, image: &Path) -> Self {
        if self.paths.is_empty() {
            self.beside = Some(atomic::folder_of(image).to_owned());
        }
        self
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.beside.is_none()
    }

    /// What is there.
    pub(crate) fn open(&self) -> Result<&Arc<Bases>> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened);
        }
        let mut bases = Bases::unshared(DigestIndex::of_user());
        for path in &self.paths {
            bases.add(path)?;
        }
        if let Some(folder) = &self.beside {
            bases.add_beside(folder)?;
        }
        Ok(self.opened.get_or_init(|| Arc::new(bases)))
    }
}

impl BaseResolver for SearchPaths {
    fn resolve(&self, need: &Need) -> Result<Arc<dyn ReadAt>> {
        self.open()?.resolve(need)
    }

    fn availability(&self, need: &Need) -> Availability {
        let opened = self.open();
        opened.map_or(Availability::Missing, |bases| bases.availability(need))
    }

    fn search_paths(&self) -> &[PathBuf] {
        let opened = self.opened.get();
        opened.map_or(&self.paths, |bases| bases.search_paths())
    }
}

/// Opens an image, with its bases if it has any, all of which must be there.
pub(crate) fn open_archive(
    path: &Path,
    bases: &Arc<SearchPaths>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Archive> {
    let archive = Archive::open(path)?;
    if !archive.is_delta() {
        return Ok(archive);
    }
    let archive = if bases.is_empty() {
        archive
    } else {
        // an error in opening them says more than that a base is missing
        bases.open()?;
        archive.with_bases(bases.clone())
    };
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("reading the base of {label}"), 0);
    archive.find_bases(threads, progress)?;
    progress.end();
    Ok(archive)
}

/// Opens a file with tensors, in any form; a delta with its bases, all of which must be there.
pub(crate) fn open_model_file(
    path: &Path,
    bases: &Arc<SearchPaths>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ModelFile> {
    if folder::is_image(path) && !archive::is_package(&FileSource::open(path)?) {
        let archive = open_archive(path, bases, threads, progress)?;
        return ModelFile::of_archive(archive, &Opening::default());
    }
    ModelFile::open(path, &Opening::default())
}
