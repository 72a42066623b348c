//! Parity files from any bytes, of files of any bytes: refused, or what is put together again has
//! the digest that the parity file names, or is known not to have it. Checksums are mended first,
//! as a hostile file would have them right.

use std::path::Path;
use std::sync::Arc;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::digest;
use bigsmall::base::progress::Silent;
use bigsmall::parity;
use bigsmall::parity::Sidecar;
use bigsmall::parity::rebuild;
use bigsmall::parity::sidecar::HEADER_LEN;
use bigsmall::parity::sidecar::MAGIC;

use super::choices::Choices;

const CHECKED_LEN: usize = 248;
const CHUNK_LEN: usize = 4080;
/// A parity file may claim more than there is; so much of it is put together.
const WHOLE_LEN_MAX: u64 = 1 << 22;

/// The length of the file, the file, and its parity file.
pub(crate) fn run(data: &[u8]) {
    let mut choices = Choices(data);
    let len = usize::from(choices.u16());
    let file = choices.take(len).to_vec();
    let sidecar = choices.0.to_vec();
    judge(&file, sidecar.clone());
    if let Some(mended) = mended(sidecar) {
        judge(&file, mended);
    }
}

fn is_expected(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported)
}

/// Magic and checksums as they should be, of the header at both ends and of the chunks behind the
/// first.
fn mended(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let header_len = HEADER_LEN as usize;
    if bytes.len() < 2 * header_len {
        return None;
    }
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&[1, 0, 2, 0]);
    let checksum = digest::xxh3(&bytes[..CHECKED_LEN]).to_le_bytes();
    bytes[CHECKED_LEN..header_len].copy_from_slice(&checksum);
    let mut at = header_len;
    while bytes.len() - at > CHUNK_LEN + 8 + header_len {
        let checksum = digest::xxh3(&bytes[at..at + CHUNK_LEN]).to_le_bytes();
        bytes[at + CHUNK_LEN..at + CHUNK_LEN + 8].copy_from_slice(&checksum);
        at += CHUNK_LEN + 8;
    }
    let header = bytes[..header_len].to_vec();
    let end = bytes.len() - header_len;
    bytes[end..].copy_from_slice(&header);
    Some(bytes)
}

fn judge(file: &[u8], sidecar: Vec<u8>) {
    let sidecar = match Sidecar::open(Arc::new(sidecar), Path::new("x.par")) {
        Ok(sidecar) => sidecar,
        Err(error) => return assert!(is_expected(&error), "{error}"),
    };
    let layout = sidecar.header.layout;
    let file = file.to_vec();
    let located = parity::locate(&file, &sidecar, &Silent).expect("nothing interrupts");
    assert_eq!(located.offsets.len(), layout.shards());
    if layout.data_len > WHOLE_LEN_MAX {
        return;
    }
    let mut whole = vec![0; layout.data_len as usize];
    let mut given = 0;
    let restored = rebuild::restore(&file, &sidecar, &located, 1, &Silent, |offset, bytes| {
        let at = offset as usize;
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        given += bytes.len();
        Ok(())
    });
    match restored {
        Ok(()) => assert_eq!(given as u64, layout.data_len, "every byte once"),
        Err(error) => {
            assert!(!located.is_repairable, "{error}");
            assert!(is_expected(&error), "{error}");
        }
    }
}
