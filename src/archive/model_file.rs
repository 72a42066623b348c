//! A file with tensors, whatever its form: a safetensors file, an image of one or of a folder, a
//! file of the Python package. It is opened here and nowhere else.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::image;
use crate::archive::package_file::PackageFile;
use crate::archive::resolve::BaseResolver;
use crate::archive::tensor_cache::TensorCache;
use crate::archive::virtual_file::VirtualFile;
use crate::archive::whole::Archive;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::FileRecord;
use crate::tensor::Layout;

/// What files are opened with.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Decoded blocks of images go there.
    pub cache: Arc<BlockCache>,
    /// Decoded tensors of the Python package's files go there.
    pub tensors: Arc<TensorCache>,
    /// Finds the bases of deltas; with none they cannot be read.
    pub resolver: Option<Arc<dyn BaseResolver>>,
}

impl Default for Opening {
    /// A cache of its own, and no bases.
    fn default() -> Self {
        Self {
            cache: BlockCache::new(BlockCache::BYTES_DEFAULT),
            tensors: TensorCache::new(),
            resolver: None,
        }
    }
}

/// A file that was opened, and the original files that it stands for.
#[derive(Debug)]
pub struct ModelFile {
    path: PathBuf,
    archive: Option<Archive>,
    originals: Vec<OriginalFile>,
}

/// An original file: itself, or as it comes out of what it was made into.
#[derive(Debug, Clone)]
pub struct OriginalFile {
    /// Path within an image of a folder; else empty.
    pub path: String,
    /// Its spans.
    pub layout: Arc<Layout>,
    /// Its bytes.
    pub bytes: Arc<dyn ReadAt>,
    /// The same, where they come out of an image.
    pub(super) in_image: Option<VirtualFile>,
}

impl ModelFile {
    /// Opens the file at `path`.
    pub fn open(path: &Path, opening: &Opening) -> Result<Self> {
        Self::from_source(FileSource::open(path)?, path, opening)
    }

    /// Takes an open file; `path` is for messages. What is wrong with it is told as the library of
    /// its form tells it.
    pub fn from_source(source: FileSource, path: &Path, opening: &Opening) -> Result<Self> {
        if image::is_package(&source) {
            return Self::of_package(source, path, opening);
        }
        if image::claims_to_be_image(&source) {
            let archive = Archive::from_source(Arc::new(source), path)?;
            return Self::of_archive(archive, opening);
        }
        Ok(Self {
            path: path.to_owned(),
            archive: None,
            originals: vec![OriginalFile::plain(source, path)?],
        })
    }

    /// Takes an open image.
    pub fn of_archive(archive: Archive, opening: &Opening) -> Result<Self> {
        let archive = match &opening.resolver {
            Some(resolver) if archive.is_delta() => archive.with_bases(Arc::clone(resolver)),
            _ => archive,
        };
        let files = VirtualFile::all(archive.image(), &opening.cache);
        let original = |(file, record): (VirtualFile, &FileRecord)| OriginalFile {
            path: record.path.clone(),
            layout: Arc::new(archive.layout_of(record)),
            bytes: Arc::new(file.clone()),
            in_image: Some(file),
        };
        let originals = files.into_iter().zip(archive.files()).map(original);
        Ok(Self {
            path: archive.path().to_owned(),
            originals: originals.collect(),
            archive: Some(archive),
        })
    }

    fn of_package(source: FileSource, path: &Path, opening: &Opening) -> Result<Self> {
        let caches = (Arc::clone(&opening.cache), Arc::clone(&opening.tensors));
        let file = PackageFile::open(Arc::new(source), path, caches.0, caches.1)?;
        let original = OriginalFile {
            path: String::new(),
            layout: Arc::new(Layout::of_safetensors(&file).map_err(|e| e.file(path))?),
            bytes: Arc::new(file),
            in_image: None,
        };
        Ok(Self {
            path: path.to_owned(),
            archive: None,
            originals: vec![original],
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The image, if it is one.
    pub fn archive(&self) -> Option<&Archive> {
        self.archive.as_ref()
    }

    /// The files that it stands for, in ascending order of their paths.
    pub fn originals(&self) -> &[OriginalFile] {
        &self.originals
    }

    /// The path, the image if it is one, and the files that it stands for.
    pub(super) fn into_parts(self) -> (PathBuf, Option<Archive>, Vec<OriginalFile>) {
        (self.path, self.archive, self.originals)
    }

    /// The only file with tensors that it stands for; an error if it is an image of a folder, or
    /// of plain bytes. Of an image the header is compared with what the index says.
    pub fn only_model(&self) -> Result<&OriginalFile> {
        let [original] = self.originals.as_slice() else {
            return Err(Error::invalid("is an image of a folder")
                .file(&self.path)
                .hint("mount it, and name a file in it"));
        };
        if !original.layout.is_safetensors {
            return Err(Error::invalid("holds no safetensors file").file(&self.path));
        }
        original.check_layout(&self.path)?;
        Ok(original)
    }
}

impl OriginalFile {
    /// A safetensors file as it is.
    pub fn plain(source: FileSource, path: &Path) -> Result<Self> {
        let layout = Layout::of_safetensors(&source).map_err(|e| e.file(path))?;
        Ok(Self::new(Arc::new(source), layout))
    }

    /// The same, as the file of that path within a folder.
    #[must_use]
    pub fn named(self, path: String) -> Self {
        Self { path, ..self }
    }

    /// Any other file as it is: one span of bytes.
    pub fn opaque(source: FileSource) -> Self {
        let layout = Layout::of_bytes(source.len());
        Self::new(Arc::new(source), layout)
    }

    fn new(bytes: Arc<dyn ReadAt>, layout: Layout) -> Self {
        Self {
            path: String::new(),
            layout: Arc::new(layout),
            bytes,
            in_image: None,
        }
    }

    /// An error if what the index of an image says of its tensors is not what its own header says;
    /// `path` is for messages.
    pub fn check_layout(&self, path: &Path) -> Result<()> {
        if self.in_image.is_none() || !self.layout.is_safetensors {
            return Ok(());
        }
        let layout = Layout::of_safetensors(&*self.bytes).map_err(|e| e.file(path))?;
        if layout.spans != self.layout.spans {
            let error = Error::damaged("its index lists other tensors than its header");
            return Err(error.file(path));
        }
        Ok(())
    }
}
