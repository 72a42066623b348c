//! Where the bases of deltas are looked for: models by their tensors, whatever files these are in, and each tensor known by its
//! BLAKE3-256.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::archive::BlockCache;
use crate::archive::VirtualFile;
use crate::archive::image::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::read_at::Part;
use crate::format::BaseRecord;
use crate::tensor::Layout;
use crate::tensor::Span;
use crate::tensor::SpanKind;

/// Decoded blocks of bases that are images.
const CACHE_BYTES: u64 = 64 << 20;

/// A tensor that may be a base.
#[derive(Debug)]
pub struct BaseTensor {
    span: Span,
    bytes: Arc<dyn ReadAt>,
    /// Number of the file that it is in.
    file: usize,
    blake3: Mutex<Option<[u8; 32]>>,
}

impl BaseTensor {
    /// What it is, and its bytes. They are read once, for the digest.
    pub fn identify(&self) -> Result<(BaseRecord, Arc<dyn ReadAt>)> {
        let record = BaseRecord {
            blake3: self.blake3()?,
            name: self.span.name.clone(),
        };
        Ok((record, Arc::clone(&self.bytes)))
    }

    fn blake3(&self) -> Result<[u8; 32]> {
        let mut known = self.blake3.lock();
        if let Some(blake3) = *known {
            return Ok(blake3);
        }
        let blake3 = digest::blake3_of(&*self.bytes)?;
        *known = Some(blake3);
        Ok(blake3)
    }
}

/// The tensors of some models.
#[derive(Debug, Default)]
pub struct Bases {
    places: Vec<PathBuf>,
    tensors: BTreeMap<String, Vec<BaseTensor>>,
    file_count: usize,
    /// Files of which a tensor was found to be a base: their other tensors are tried first.
    proven: Mutex<BTreeSet<usize>>,
}

impl Bases {
    /// The tensors of a model file, an image, or all of them under a folder. In a folder, what cannot be read and what is stored as
    /// differences itself is passed over.
    pub fn open(path: &Path) -> Result<Self> {
        let mut bases = Self::default();
        bases.add(path)?;
        Ok(bases)
    }

    /// Adds another place to look.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let before = self.file_count;
        let cache = BlockCache::new(CACHE_BYTES);
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
        if metadata.is_dir() {
            for file in model_files(path)? {
                if let Err(error) = self.add_file(&file, &cache) {
                    tracing::debug!("no base: {error}");
                }
            }
        } else {
            self.add_file(path, &cache)?;
        }
        self.places.push(path.to_owned());
        if self.file_count == before {
            return Err(Error::new(ErrorKind::NotFound, "no model here to be a base").file(path));
        }
        Ok(())
    }

    fn add_file(&mut self, path: &Path, cache: &Arc<BlockCache>) -> Result<()> {
        let source = FileSource::open(path)?;
        if !crate::archive::claims_to_be_image(&source) {
            let layout = Layout::of_safetensors(&source).map_err(|e| e.file(path))?;
            let bytes: Arc<dyn ReadAt> = Arc::new(source);
            self.add_spans(&layout.spans, &bytes);
            return Ok(());
        }
        let archive = Arc::new(Archive::from_source(Arc::new(source), path)?);
        if !archive.index().bases.is_empty() {
            return Err(Error::unsupported("is stored as differences itself")
                .file(path)
                .hint("restore it first, and name the restored model as the base"));
        }
        for (number, record) in archive.files().iter().enumerate() {
            let spans = archive.spans(record).iter();
            let spans: Vec<Span> = spans.map(|record| record.span.clone()).collect();
            let file = VirtualFile::new(Arc::clone(&archive), number, Arc::clone(cache))?;
            let bytes: Arc<dyn ReadAt> = Arc::new(file);
            self.add_spans(&spans, &bytes);
        }
        Ok(())
    }

    fn add_spans(&mut self, spans: &[Span], bytes: &Arc<dyn ReadAt>) {
        for span in spans.iter().filter(|span| span.kind == SpanKind::Tensor) {
            let part = Part::new(Arc::clone(bytes), span.start, span.len);
            let tensor = BaseTensor {
                span: span.clone(),
                bytes: Arc::new(part),
                file: self.file_count,
                blake3: Mutex::new(None),
            };
            let alike = self.tensors.entry(span.name.clone()).or_default();
            alike.push(tensor);
        }
        self.file_count += 1;
    }

    /// The first tensor of the same name, dtype and shape as `span`.
    pub fn like(&self, span: &Span) -> Option<&BaseTensor> {
        let same = |other: &&BaseTensor| {
            other.span.dtype == span.dtype && other.span.shape == span.shape && span.len > 0
        };
        let is_tensor = span.kind == SpanKind::Tensor;
        self.tensors
            .get(&span.name)?
            .iter()
            .find(same)
            .filter(|_| is_tensor)
    }

    /// The bytes of the base of this record and length; an error that says where it was looked for if none is it.
    pub fn find(&self, record: &BaseRecord, len: u64) -> Result<Arc<dyn ReadAt>> {
        let alike = self.tensors.get(&record.name).into_iter().flatten();
        let mut alike: Vec<&BaseTensor> = alike.filter(|tensor| tensor.span.len == len).collect();
        let proven = self.proven.lock().clone();
        alike.sort_by_key(|tensor| !proven.contains(&tensor.file));
        for tensor in &alike {
            if tensor.blake3()? == record.blake3 {
                self.proven.lock().insert(tensor.file);
                return Ok(Arc::clone(&tensor.bytes));
            }
        }
        let places: Vec<String> = self
            .places
            .iter()
            .map(|p| format!("`{}`", p.display()))
            .collect();
        let places = places.join(", ");
        if alike.is_empty() {
            let what = format!("its base tensor `{}` is not in {places}", record.name);
            return Err(
                Error::new(ErrorKind::NotFound, what).hint("name another base with `--base`")
            );
        }
        let what = format!(
            "no tensor `{}` in {places} is its base: BLAKE3 {} expected",
            record.name,
            digest::hex(&record.blake3)
        );
        Err(Error::new(ErrorKind::Io, what).hint(
            "the base was changed, or these are other models: name the right one with `--base`",
        ))
    }

    /// Whether there is a tensor of this name and length, whatever its content.
    pub fn may_have(&self, record: &BaseRecord, len: u64) -> bool {
        let alike = self.tensors.get(&record.name);
        alike.is_some_and(|alike| alike.iter().any(|tensor| tensor.span.len == len))
    }
}

/// Models and images under a folder, by path; links to files are followed, links to folders are not.
fn model_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let failed = |e| Error::io("cannot list", &folder, e);
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let is_folder = entry.file_type().map_err(failed)?.is_dir();
            let name = entry.file_name();
            if is_folder {
                folders.push(entry.path());
            } else if naming::is_image_name(&name) || naming::is_model_name(&name) {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}
