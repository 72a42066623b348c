//! The model that another is stored as differences from: its tensors by name, and each by its BLAKE3-256.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::archive::Archive;
use crate::archive::BlockCache;
use crate::archive::VirtualFile;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::base::read_at::Part;
use crate::format::BaseRecord;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::tensor::Layout;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::writer::Base;

/// Decoded blocks of bases that are images.
const CACHE_BYTES: u64 = 64 << 20;

/// A tensor of the base model.
#[derive(Debug)]
struct BaseTensor {
    span: Span,
    bytes: Arc<dyn ReadAt>,
    blake3: Mutex<Option<[u8; 32]>>,
}

impl BaseTensor {
    /// The BLAKE3-256 of its bytes, which are read once.
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

/// A model by its tensors, whatever files they are in.
#[derive(Debug)]
pub struct BaseModel {
    path: PathBuf,
    tensors: BTreeMap<String, Arc<BaseTensor>>,
}

impl BaseModel {
    /// Opens a model file, an image, or a folder of them.
    pub fn open(path: &Path) -> Result<Self> {
        let mut model = Self {
            path: path.to_owned(),
            tensors: BTreeMap::new(),
        };
        let cache = BlockCache::new(CACHE_BYTES);
        for file in model_files(path)? {
            model.add(&file, &cache)?;
        }
        if model.tensors.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "no tensor here to be a base").file(path));
        }
        Ok(model)
    }

    fn add(&mut self, path: &Path, cache: &Arc<BlockCache>) -> Result<()> {
        if !folder::is_image(path) {
            let file = FileSource::open(path)?;
            let layout = Layout::of_safetensors(&file).map_err(|e| e.file(path))?;
            let bytes: Arc<dyn ReadAt> = Arc::new(file);
            self.add_spans(&layout.spans, &bytes);
            return Ok(());
        }
        let archive = Arc::new(Archive::open(path)?);
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
                blake3: Mutex::new(None),
            };
            // the first of a name, in the order of the files
            self.tensors
                .entry(span.name.clone())
                .or_insert(Arc::new(tensor));
        }
    }

    /// For each span the tensor of the same name, dtype and shape.
    pub fn bases_of(
        &self,
        spans: &[Span],
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Option<Base>>> {
        let like = |span: &Span| {
            let tensor = self.tensors.get(&span.name)?;
            let same = tensor.span.dtype == span.dtype && tensor.span.shape == span.shape;
            (span.kind == SpanKind::Tensor && span.len > 0 && same).then(|| Arc::clone(tensor))
        };
        let tensors: Vec<Option<Arc<BaseTensor>>> = spans.iter().map(like).collect();
        let mut bases = Vec::new();
        parallel::ordered(
            threads,
            tensors.len(),
            || (),
            |(), number| {
                progress.check()?;
                let Some(tensor) = &tensors[number] else {
                    return Ok(None);
                };
                let record = BaseRecord {
                    blake3: tensor.blake3()?,
                    name: tensor.span.name.clone(),
                };
                let bytes = Arc::clone(&tensor.bytes);
                Ok(Some(Base { record, bytes }))
            },
            |_, base| {
                bases.push(base);
                Ok(())
            },
        )
        .map_err(|e| e.file(&self.path))?;
        Ok(bases)
    }

    /// The archive with its bases from this model; an error that names the first that is not in it, or is another.
    pub fn serve(&self, archive: Archive, threads: usize) -> Result<Archive> {
        let records = &archive.index().bases;
        let mut bases = Vec::new();
        parallel::ordered(
            threads,
            records.len(),
            || (),
            |(), number| self.find(&records[number]),
            |_, bytes| {
                bases.push(Some(bytes));
                Ok(())
            },
        )
        .map_err(|e| e.file(archive.path()))?;
        Ok(archive.with_bases(bases))
    }

    fn find(&self, record: &BaseRecord) -> Result<Arc<dyn ReadAt>> {
        let path = self.path.display();
        let Some(tensor) = self.tensors.get(&record.name) else {
            let what = format!("its base tensor `{}` is not in `{path}`", record.name);
            return Err(
                Error::new(ErrorKind::NotFound, what).hint("name another base with `--base`")
            );
        };
        if tensor.blake3()? != record.blake3 {
            let what = format!(
                "the tensor `{}` in `{path}` is not its base: BLAKE3 {} expected",
                record.name,
                digest::hex(&record.blake3)
            );
            return Err(Error::new(ErrorKind::Invalid, what).hint(
                "the base was changed, or this is another model: name the right one with `--base`",
            ));
        }
        Ok(Arc::clone(&tensor.bytes))
    }
}

/// Opens an image, with its bases from `base` if it has any.
pub fn open_archive(path: &Path, base: Option<&BaseModel>, threads: usize) -> Result<Archive> {
    let archive = Archive::open(path)?;
    if archive.index().bases.is_empty() {
        return Ok(archive);
    }
    let Some(base) = base else {
        let count = archive.index().bases.len();
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "is stored as differences from {count} tensors of another model, which is not named"
            ),
        )
        .file(path)
        .hint("name that model with `--base PATH`; `bigsmall info` tells its tensors"));
    };
    base.serve(archive, threads)
}

fn model_files(path: &Path) -> Result<Vec<PathBuf>> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let files = folder::walk(path)?
        .into_iter()
        .filter(|entry| match entry.kind {
            EntryKind::File | EntryKind::Link(_) => true,
            EntryKind::Folder | EntryKind::Special => false,
        });
    let paths = files.map(|entry| path.join(entry.path));
    Ok(paths
        .filter(|path| folder::is_model(path) || folder::is_image(path))
        .collect())
}
