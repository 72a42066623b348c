//! Which files are models, images or the parity of images, and those of a folder that are.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use crate::archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::progress::Skipped;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::walk;
use crate::parity;
use crate::tensor::Header;

/// Whether the file at `path` is taken for a model: by its name, or by its content if the name
/// says little: if it ends with `.sft`, or has no extension (as in the blobs of the Hugging Face
/// cache).
pub(crate) fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    match naming::model_extension(name) {
        Some(extension) if extension.eq_ignore_ascii_case(naming::MODEL_EXTENSION) => true,
        Some(_) => looks_like_safetensors(path),
        None => naming::has_no_extension(name) && looks_like_safetensors(path),
    }
}

fn looks_like_safetensors(path: &Path) -> bool {
    FileSource::open(path).is_ok_and(|source| Header::is_in(&source))
}

/// The image at `source`, or all images under it.
pub(crate) fn images_under(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let named = named_like_images(source, progress)?;
    if !source.is_dir() {
        return Ok(named);
    }
    let mut images = Vec::new();
    for path in named {
        match FileSource::open(&path) {
            Ok(source) if archive::claims_to_be_image(&source) => images.push(path),
            Ok(_) => {}
            Err(error) => progress.skip(Skipped::unreadable(&path, &error))?,
        }
    }
    Ok(images)
}

/// Images of ours under a folder, or the file at `source`. Files of the Python package are told of:
/// nothing here checks them.
pub(crate) fn own_images_under(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let mut paths = images_under(source, progress)?;
    if source.is_dir() {
        paths.retain(|path| {
            let is_package =
                FileSource::open(path).is_ok_and(|source| archive::is_package(&source));
            if is_package {
                progress.warn(&format!(
                    "`{}` is a file of the Python package, and was not verified: `bigsmall migrate` makes an image of it",
                    path.display()
                ));
            }
            !is_package
        });
    }
    Ok(paths)
}

/// The file at `source`, or all files under it whose names are those of images.
pub(crate) fn named_like_images(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(source).map_err(|e| Error::io("cannot open", source, e))?;
    if !metadata.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let named = |entry: &Entry| entry.path.file_name().is_some_and(naming::is_image_name);
    Ok(walk(source, progress)?
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File && named(entry))
        .map(|entry| source.join(entry.path))
        .collect())
}

/// Whether a file of this name is the parity of an image.
pub(crate) fn is_parity_name(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name.ends_with(format!("{}{}", naming::IMAGE_EXTENSION, parity::EXTENSION).as_bytes())
}

/// An error unless the file at `path` is an image, or claims to be one.
pub(crate) fn check_image(path: &Path) -> Result<()> {
    if archive::claims_to_be_image(&FileSource::open(path)?) {
        return Ok(());
    }
    Err(Error::invalid("is no image")
        .file(path)
        .hint("name a `.bs`; `bigsmall compress` makes one of a safetensors file"))
}

/// Whether the file at `path` is an image, by name and content.
pub(crate) fn is_image(path: &Path) -> bool {
    path.file_name().is_some_and(naming::is_image_name)
        && FileSource::open(path).is_ok_and(|source| archive::claims_to_be_image(&source))
}

/// The parity file of a file.
pub fn parity_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(naming::PARITY_EXTENSION);
    name.into()
}
