//! Import: a `.bs` file of the Python package coded anew as an image of ours.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive;
use crate::archive::Model;
use crate::archive::Opening;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::Unused;
use crate::base::in_use;
use crate::bgsm::Package;
use crate::bgsm::Plain;
use crate::bgsm::package::BaseTensors;
use crate::codec::Profile;
use crate::ops::base::SearchPaths;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::CompressReport;
use crate::ops::compress::ImageWritten;
use crate::ops::folder;
use crate::ops::folder::Stamp;
use crate::ops::origin::Replacing;
use crate::ops::protect::Protected;

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Where the image goes; beside the file under its name with `.safetensors.bs`, if none is
    /// named.
    pub output: Option<PathBuf>,
    /// The model that differences are from, in any form.
    pub base: Option<PathBuf>,
    /// What matters more: size or latency.
    pub profile: Profile,
    /// Replace an output that exists.
    pub force: bool,
    /// Threads to use.
    pub threads: usize,
}

/// The model that a file of the package is differences from.
#[derive(Debug)]
struct Base(Model);

impl BaseTensors for Base {
    fn bytes(&self, name: &str, len: u64) -> Result<Vec<u8>> {
        let tensor = self.0.tensor(name)?;
        if tensor.info().len != len {
            let what = format!(
                "has {} bytes, and the base of the model {len}",
                tensor.info().len
            );
            let error = Error::new(ErrorKind::MissingBase, what);
            return Err(error.tensor(name).file(tensor.path()));
        }
        let mut bytes = vec![0; len as usize];
        tensor.read(0..len, &mut bytes)?;
        Ok(bytes)
    }
}

/// Codes a file of the package anew. Every tensor has its md5 compared before a byte of it is used;
/// the image is read back and compared as any other.
pub fn import(
    source: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let target = options.output.clone().unwrap_or_else(|| {
        let mut name = source.file_stem().unwrap_or_default().to_owned();
        name.push(".safetensors.bs");
        source.with_file_name(name)
    });
    folder::check_not_same(source, &target)?;
    let file = FileSource::open(source)?;
    if archive::claims_to_be_image(&file) && !archive::is_package(&file) {
        let error = Error::invalid("is an image of this program already, and needs no import");
        return Err(error.file(source));
    }
    Replacing::forced(options.force).check(&target, source)?;
    import_to(source, &target, options, progress)
}

/// Codes files of the package anew in their places, of folders all that are below them. Each is
/// there until its image was read back and compared, and then the image has its name. Images of
/// ours, all of which are of the format's one version, are left alone.
pub fn migrate(
    paths: &[PathBuf],
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<MigrateReport> {
    let mut report = MigrateReport {
        images: Vec::new(),
        parity: Vec::new(),
        failed: Vec::new(),
        left: 0,
        bytes: 0,
        image_bytes: 0,
    };
    let options = ImportOptions {
        force: true,
        ..options.clone()
    };
    for path in paths {
        for file in folder::images_under(path, progress)? {
            if !archive::is_package(&FileSource::open(&file)?) {
                folder::check_image(&file)?;
                report.left += 1;
                continue;
            }
            let before = FileSource::open(&file)?.len();
            // its age says nothing: half a file fails its own digests
            let may_go = in_use::check_finished(&file).and_then(|()| Unused::hold(&file));
            let done = may_go.and_then(|held| {
                // who puts the image in its place holds it again
                drop(held);
                import_to(&file, &file, &options, progress)
            });
            match done {
                Ok(done) => {
                    report.bytes += before;
                    report.image_bytes += done.output_bytes;
                    report.parity.extend(done.parity);
                    report.images.extend(done.images);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                // it is as it was, and the others are none the worse for it
                Err(error) => {
                    progress.warn(&error.to_string());
                    let path = file.to_string_lossy().into_owned();
                    report.failed.push((path, error.to_string()));
                }
            }
        }
    }
    Ok(report)
}

/// What was migrated.
#[derive(Debug, Clone, Serialize)]
pub struct MigrateReport {
    /// Every image that was written.
    pub images: Vec<ImageWritten>,
    /// Parity that was made anew, since there was some of the files before.
    pub parity: Vec<Protected>,
    /// Files that could not be migrated, and why; they are as they were.
    pub failed: Vec<(String, String)>,
    /// Images that needed nothing.
    pub left: u64,
    /// Bytes of the files before.
    pub bytes: u64,
    /// And of their images.
    pub image_bytes: u64,
}

fn import_to(
    source: &Path,
    target: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let stamp = Stamp::of(source)?;
    let package = Package::open(Arc::new(FileSource::open(source)?), source)?;
    let package = match (&options.base, package.needs_base()) {
        (Some(base), true) => {
            let bases = Arc::new(SearchPaths::new(&[], base).or_beside(base));
            let opening = Opening {
                resolver: Some(bases),
                ..Opening::default()
            };
            package.with_base(Arc::new(Base(Model::open_with(base, opening)?)))
        }
        (None, true) => {
            let error = Error::new(
                ErrorKind::MissingBase,
                "is stored as differences from a base",
            );
            return Err(error
                .file(source)
                .hint("name the model that it was made from with `--base`"));
        }
        _ => package,
    };
    let restored = Plain::new(package)?;
    // the coders read their source several times, and a tensor of the package can only be decoded
    // as a whole: so the plain file is there for a while, under a name that goes with this process
    let mut plain_name = target.as_os_str().to_owned();
    plain_name.push(".plain");
    let plain = OutputFile::create(Path::new(&plain_name), false)?;
    let label = source.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("reading {label}"), restored.byte_len());
    restored.pour(options.threads, progress, |offset, bytes| {
        plain.write_at(offset, bytes)
    })?;
    progress.end();
    let bytes = FileSource::open(plain.temporary())?;
    let options = CompressOptions {
        force: options.force,
        ..CompressOptions::new(target, options.profile, options.threads)
    };
    let md5s = restored.package().md5s();
    let source = (source, stamp);
    let done = compress::compress_bytes(Arc::new(bytes), source, md5s, &options, progress);
    done.or_else(|error| match error.kind() {
        // whether it was the file or the disk
        ErrorKind::Io => restored.prove(options.threads, progress).and(Err(error)),
        _ => Err(error),
    })
}
