//! What lies beside a file and belongs to it: its parity. Every command that puts a file in the
//! place of another, or removes one, does so here, so that no file is left beside the parity of
//! another. The old parity is out of the way before the new file has its name: a run that is
//! stopped at any moment leaves a file without parity, and never one with parity that could be
//! mistaken for its own.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::Unused;
use crate::base::atomic;
use crate::base::output_file;
use crate::ops::folder;
use crate::ops::folder::parity_path;
use crate::ops::protect;
use crate::ops::protect::PERCENT_DEFAULT;
use crate::ops::protect::Protected;
use crate::parity::Layout;
use crate::parity::Sidecar;
use crate::parity::sidecar;

/// Puts a file that was written in place, with `mtime` and `mode` if given. If there is parity
/// beside it, that of the file that stood there before, whether that is still there or not, then
/// the new one gets as much of its own, which is what is returned.
pub(crate) fn commit(
    output: OutputFile,
    (mtime, mode): (Option<SystemTime>, Option<u32>),
    threads: usize,
    progress: &dyn Progress,
) -> Result<Option<Protected>> {
    let target = output.target().to_owned();
    let Some(old) = OldParity::beside(&target, progress)? else {
        output.commit(mtime, mode)?;
        return Ok(None);
    };
    output.sync()?;
    let file = FileSource::open(output.temporary())?;
    let layout = Layout::choose(file.len(), old.percent);
    let write = |layout: &Layout| {
        let mut parity = OutputFile::create(&old.path, true)?;
        protect::write_to(&target, &file, layout, &mut parity, threads, progress)?;
        Ok((*layout, parity))
    };
    // a file without bytes needs none
    let new = layout.as_ref().map(write).transpose()?;
    let backup = old.back_up()?;
    if let Err(error) = output.commit(mtime, mode) {
        backup.put_back();
        return Err(error);
    }
    let written = match new {
        Some((layout, parity)) => {
            let mode = mode.unwrap_or_else(atomic::mode_of_new_file);
            parity.commit(None, Some(mode))?;
            Some(protect::protected(&target, &layout)?)
        }
        None => None,
    };
    backup.remove()?;
    Ok(written)
}

/// How a file has got a second name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondName {
    /// Both are names of one file (hard links).
    Linked,
    /// A copy is under it, as the file system gives none.
    Copied {
        /// Its bytes.
        bytes: u64,
    },
}

impl SecondName {
    /// Bytes that it takes.
    pub(crate) fn copied_bytes(self) -> u64 {
        match self {
            Self::Linked => 0,
            Self::Copied { bytes } => bytes,
        }
    }
}

/// Gives a file and its parity the name `to` as well, in the place of what is there, whose parity
/// goes. Where a file system gives no second name it is a copy.
pub(crate) fn put_name(from: &Path, to: &Path, progress: &dyn Progress) -> Result<SecondName> {
    if folder::is_same_file(from, to) {
        protect::put_name(from, to)?;
        return Ok(SecondName::Linked);
    }
    let old = OldParity::beside(to, progress)?;
    let backup = old.map(OldParity::back_up).transpose()?;
    let put = match output_file::link(from, to, true) {
        Ok(true) => Ok(SecondName::Linked),
        Ok(false) => folder::copy_over(from, to).map(|bytes| SecondName::Copied { bytes }),
        Err(error) => Err(error),
    };
    if put.is_err() {
        backup.iter().for_each(ParityBackup::put_back);
        return put;
    }
    protect::put_name(from, to)?;
    backup.map(ParityBackup::remove).transpose()?;
    put
}

/// Removes a file and its parity; where that was, if there was some.
pub(crate) fn remove(path: &Path, progress: &dyn Progress) -> Result<Option<PathBuf>> {
    let old = OldParity::beside(path, progress)?;
    let backup = old.map(OldParity::back_up).transpose()?;
    if let Err(e) = fs::remove_file(path) {
        backup.iter().for_each(ParityBackup::put_back);
        return Err(Error::io("cannot remove", path, e));
    }
    atomic::sync_folder(atomic::folder_of(path))?;
    backup.map(ParityBackup::remove).transpose()
}

/// Removes a file that is held, with all its names and the parity beside them; where that was.
pub(crate) fn remove_held(
    held: &Unused,
    names: &[&Path],
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let mut backup = Vec::new();
    for name in names {
        let old = OldParity::beside(name, progress)?;
        backup.extend(old.map(OldParity::back_up).transpose()?);
    }
    if let Err(error) = held.remove_names(names) {
        backup.iter().for_each(ParityBackup::put_back);
        return Err(error);
    }
    backup.into_iter().map(ParityBackup::remove).collect()
}

/// The parity of the file at `path` that would go with that; none if there is none, or what is
/// there is none of ours.
pub(crate) fn of(path: &Path, progress: &dyn Progress) -> Result<Option<PathBuf>> {
    Ok(OldParity::beside(path, progress)?.map(|old| old.path))
}

/// Parity that is there already.
struct OldParity {
    path: PathBuf,
    /// How much of its file it makes up for.
    percent: u32,
}

impl OldParity {
    /// That beside a file. A file of that name that cannot be known as parity may be anything, and
    /// is left alone.
    fn beside(path: &Path, progress: &dyn Progress) -> Result<Option<Self>> {
        let parity = parity_path(path);
        // a folder of that name, or a link that leads nowhere, is no parity
        if !parity.is_file() {
            return Ok(None);
        }
        let source = Arc::new(FileSource::open(&parity)?);
        if !sidecar::claims_to_be_parity(&*source) {
            let path = parity.display();
            let text = format!("`{path}` is no parity file of bigsmall, and stays as it is");
            progress.warn(&text);
            return Ok(None);
        }
        // of a later version, or its beginning is all that is left of it
        let percent = Sidecar::open(source, &parity).map_or(PERCENT_DEFAULT, |sidecar| {
            let asked: Vec<u32> = sidecar.header.layout.percents().collect();
            let is_usual = asked.contains(&PERCENT_DEFAULT) || asked.is_empty();
            asked
                .first()
                .filter(|_| !is_usual)
                .copied()
                .unwrap_or(PERCENT_DEFAULT)
        });
        Ok(Some(Self {
            path: parity,
            percent,
        }))
    }

    /// Takes it out of the way, under a name that a later run removes if this one is stopped.
    fn back_up(self) -> Result<ParityBackup> {
        let at = atomic::temporary_for(&self.path);
        atomic::rename(&self.path, &at, false)?;
        Ok(ParityBackup {
            path: self.path,
            at,
        })
    }
}

/// Parity that is out of the way.
struct ParityBackup {
    path: PathBuf,
    at: PathBuf,
}

impl ParityBackup {
    /// Its file stays after all.
    fn put_back(&self) {
        // the error that kept the file is the one to tell
        let _ = atomic::rename(&self.at, &self.path, false);
    }

    fn remove(self) -> Result<PathBuf> {
        match fs::remove_file(&self.at) {
            // another run took it for what it is: left over
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(self.path),
            Err(e) => Err(Error::io("cannot remove", &self.at, e)),
            Ok(()) => {
                atomic::sync_folder(atomic::folder_of(&self.at))?;
                Ok(self.path)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::base::progress::Silent;
    use crate::ops::protect::ProtectOptions;

    /// A file of `bytes` with its parity.
    fn protected(path: &Path, bytes: &[u8]) {
        let mut file = fs::File::create(path).unwrap();
        file.write_all(bytes).unwrap();
        let options = ProtectOptions {
            percent: PERCENT_DEFAULT,
            force: false,
            threads: 1,
        };
        protect::protect(&[path.to_owned()], &options, &Silent).unwrap();
    }

    #[test]
    fn a_file_that_could_not_be_replaced_keeps_its_parity() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("x");
        protected(&at, &[7; 5000]);
        let parity = fs::read(parity_path(&at)).unwrap();
        fs::remove_file(&at).unwrap();
        let mut output = OutputFile::create(&at, true).unwrap();
        output.write(&[8; 6000]).unwrap();
        // nothing takes the place of a folder
        fs::create_dir(&at).unwrap();
        commit(output, (None, None), 1, &Silent).unwrap_err();
        remove(&at, &Silent).unwrap_err();
        assert!(fs::read(parity_path(&at)).unwrap() == parity);
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 2, "nothing is left over");
    }

    /// Between two file systems there are no hard links.
    #[test]
    fn where_no_second_name_can_be_given_there_is_a_copy() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), Path::new("/dev/shm"));
        let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
        let there = device(elsewhere).expect("a second file system at /dev/shm");
        let here = device(folder.path());
        assert!(Some(there) != here, "TMPDIR must not be on /dev/shm");
        let elsewhere = tempfile::tempdir_in(elsewhere).unwrap();
        let (file, copy) = (folder.path().join("m"), elsewhere.path().join("n"));
        protected(&file, &[7; 5000]);
        let put = put_name(&file, &copy, &Silent).unwrap();
        assert_eq!(put, SecondName::Copied { bytes: 5000 });
        assert!(fs::read(&copy).unwrap() == [7; 5000]);
        let parities = [&file, &copy].map(|path| fs::read(parity_path(path)).unwrap());
        assert!(parities[0] == parities[1]);
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 2);
    }
}
