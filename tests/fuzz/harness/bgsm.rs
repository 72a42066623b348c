//! Files of the Python package from any bytes: refused, or every tensor gives bytes or an error.
//! The md5 is not mended, so that what is decoded is mostly refused in the end: it is the way there
//! that is tried.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::progress::Silent;
use bigsmall::bgsm::Package;
use bigsmall::bgsm::Plain;

/// Tensors of an input that are decoded, and bytes of one: a small file may claim a terabyte of
/// zeros.
const TENSORS_MAX: usize = 8;
const TENSOR_LEN_MAX: u64 = 1 << 20;

pub(crate) fn run(data: &[u8]) {
    let Ok(package) = open(data) else { return };
    for (number, tensor) in package.tensors.iter().enumerate().take(TENSORS_MAX) {
        if tensor.len > TENSOR_LEN_MAX {
            continue;
        }
        match package.decode(number) {
            Ok(bytes) => assert_eq!(bytes.len() as u64, tensor.len),
            Err(error) => assert!(is_expected(&error), "{error}"),
        }
    }
    let whole: u64 = package
        .tensors
        .iter()
        .fold(0, |sum, tensor| sum.saturating_add(tensor.len));
    let Ok(plain) = Plain::new(package) else {
        return;
    };
    if whole > TENSOR_LEN_MAX {
        return;
    }
    let poured = AtomicU64::new(0);
    let outcome = plain.pour(1, &Silent, |_, bytes| {
        poured.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Ok(())
    });
    match outcome {
        Ok(()) => assert_eq!(poured.into_inner(), plain.byte_len()),
        Err(error) => assert!(is_expected(&error), "{error}"),
    }
}

fn is_expected(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Damaged | ErrorKind::Unsupported | ErrorKind::MissingBase
    )
}

fn open(data: &[u8]) -> Result<Package, ()> {
    Package::open(Arc::new(data.to_vec()), Path::new("x.bs"))
        .map_err(|error| assert!(is_expected(&error), "{error}"))
}
