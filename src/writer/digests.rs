//! Digests: sha256 of each file and md5 of each span, taken by a thread of its own from the files
//! themselves, so that they also prove that the coders read the same bytes.

use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::base::digest::Sha256;
use crate::writer::source::Source;

/// Bytes read at once: enough to keep the disk busy, few enough to stay in the second-level cache.
const READ_LEN: usize = 256 << 10;

/// The digests of one file.
#[derive(Debug)]
pub(super) struct FileDigests {
    pub(super) sha256: [u8; 32],
    pub(super) md5s: Vec<[u8; 16]>,
}

/// Reads every source once, from its first byte to its last.
pub(super) fn take(sources: &[Source], progress: &dyn Progress) -> Result<Vec<FileDigests>> {
    sources
        .iter()
        .map(|source| take_one(source, progress))
        .collect()
}

fn take_one(source: &Source, progress: &dyn Progress) -> Result<FileDigests> {
    let mut sha256 = Sha256::default();
    let mut md5s = Vec::with_capacity(source.layout.spans.len());
    let mut buffer = vec![0; READ_LEN];
    for span in &source.layout.spans {
        let mut md5 = Md5::default();
        let mut offset = 0;
        while offset < span.len {
            progress.check()?;
            let len = (span.len - offset).min(READ_LEN as u64) as usize;
            let bytes = &mut buffer[..len];
            source.bytes.read_exact_at(span.start + offset, bytes)?;
            sha256.update(bytes);
            md5.update(bytes);
            offset += len as u64;
        }
        md5s.push(md5.finish());
    }
    Ok(FileDigests {
        sha256: sha256.finish(),
        md5s,
    })
}
