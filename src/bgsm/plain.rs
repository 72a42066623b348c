//! A file of the package as the safetensors file that it stands for. The package keeps tensors and
//! metadata, but not the original header: this one has the same tensors, and header and tensors are
//! written as the safetensors library writes them. So it is mostly the original, byte for byte.

use std::ops::Range;
use std::sync::Arc;

use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::bgsm::Package;
use crate::tensor::header;

/// The safetensors file.
#[derive(Debug)]
pub struct Plain {
    package: Package,
    header: Arc<Vec<u8>>,
    /// The package's numbers of the tensors, in the order of the file.
    order: Vec<usize>,
    /// Where each of them begins, and the end.
    starts: Vec<u64>,
}

impl Plain {
    /// Of an open file.
    pub fn new(package: Package) -> Result<Self> {
        let all = &package.tensors;
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by(|&a, &b| {
            let key = |number: usize| (all[number].name.as_str(), all[number].dtype);
            header::cmp_as_written(key(a), key(b))
        });
        let header = header::write(
            &package.metadata,
            order.iter().map(|&number| {
                let tensor = &all[number];
                let (name, shape) = (tensor.name.as_str(), tensor.shape.as_slice());
                (name, tensor.dtype, shape, tensor.len)
            }),
        )?;
        let mut end = header.len() as u64;
        let mut starts = vec![end];
        for &number in &order {
            // that the sum is one was checked
            end += all[number].len;
            starts.push(end);
        }
        Ok(Self {
            package,
            header: Arc::new(header),
            order,
            starts,
        })
    }

    /// Bytes of the file.
    pub fn byte_len(&self) -> u64 {
        self.starts
            .last()
            .copied()
            .unwrap_or(self.header.len() as u64)
    }

    /// The package's file.
    pub fn package(&self) -> &Package {
        &self.package
    }

    /// The header, which lies before all tensors.
    pub fn header(&self) -> &Arc<Vec<u8>> {
        &self.header
    }

    /// The tensor that holds `offset`, which lies behind the header and before the end, and where
    /// it lies.
    pub fn tensor_at(&self, offset: u64) -> (usize, Range<u64>) {
        let number = self.starts.partition_point(|&start| start <= offset) - 1;
        (number, self.starts[number]..self.starts[number + 1])
    }

    /// The bytes of a tensor, by its number in the file.
    pub fn decode(&self, number: usize) -> Result<Vec<u8>> {
        self.package.decode(self.order[number])
    }

    /// Compares the md5 of every tensor.
    pub fn prove(&self, threads: usize, progress: &dyn Progress) -> Result<()> {
        let prove = |(): &mut (), number: usize| {
            progress.check()?;
            let _alone = self.package.alone_if_dense(self.order[number]);
            self.decode(number).map(|_| ())
        };
        parallel::ordered(threads, self.order.len(), || (), prove, |_, ()| Ok(()))
    }

    /// Gives all of the file to `write`, with its places, in any order and on all cores, every
    /// tensor decoded once. No md5 is compared: that is for whoever uses the bytes, with
    /// [`Package::md5s`].
    pub fn pour(
        &self,
        threads: usize,
        progress: &dyn Progress,
        write: impl Fn(u64, &[u8]) -> Result<()> + Sync,
    ) -> Result<()> {
        write(0, &self.header)?;
        let pour = |(): &mut (), number: usize| {
            progress.check()?;
            let _alone = self.package.alone_if_dense(self.order[number]);
            let bytes = self.package.decode_unproved(self.order[number])?;
            progress.advance(bytes.len() as u64);
            write(self.starts[number], &bytes)
        };
        parallel::ordered(threads, self.order.len(), || (), pour, |_, ()| Ok(()))
    }
}
