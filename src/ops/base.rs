//! The model that others are stored as differences from, as the verbs take it.

use std::path::Path;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::Bases;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::tensor::Span;
use crate::writer::Base;

/// Opens the model that was named.
pub fn open(path: Option<&Path>) -> Result<Option<Arc<Bases>>> {
    let bases = path.map(Bases::open).transpose()?;
    Ok(bases.map(Arc::new))
}

/// For each span the tensor of the same name, dtype and shape.
pub fn bases_of(
    bases: &Bases,
    spans: &[Span],
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Option<Base>>> {
    let mut found = Vec::new();
    parallel::ordered(
        threads,
        spans.len(),
        || (),
        |(), number| {
            progress.check()?;
            let Some(tensor) = bases.like(&spans[number]) else {
                return Ok(None);
            };
            let (record, bytes) = tensor.identify()?;
            Ok(Some(Base { record, bytes }))
        },
        |_, base| {
            found.push(base);
            Ok(())
        },
    )?;
    Ok(found)
}

/// Opens an image, with its bases if it has any, all of which must be there.
pub fn open_archive(path: &Path, bases: Option<&Arc<Bases>>) -> Result<Archive> {
    let archive = Archive::open(path)?;
    if archive.index().bases.is_empty() {
        return Ok(archive);
    }
    let Some(bases) = bases else {
        let count = archive.index().bases.len();
        let what = format!(
            "is stored as differences from {count} tensors of another model, which is not named"
        );
        return Err(Error::new(ErrorKind::NotFound, what)
            .file(path)
            .hint("name that model with `--base PATH`; `bigsmall info` tells its tensors"));
    };
    let archive = archive.with_bases(Arc::clone(bases));
    archive.find_bases()?;
    Ok(archive)
}
