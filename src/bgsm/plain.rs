//! A file of the package as the safetensors file that it stands for. The package keeps tensors and metadata, but not the original
//! header: this one has the same tensors in the same order, and is written as the safetensors library writes them.

use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::bgsm::Package;
use crate::tensor::header;

/// The safetensors file.
#[derive(Debug)]
pub struct Plain {
    package: Package,
    header: Vec<u8>,
    /// Where each tensor begins, in the order of the file, and the end.
    starts: Vec<u64>,
}

impl Plain {
    /// Of an open file.
    pub fn new(package: Package) -> Result<Self> {
        let tensors = package.tensors.iter();
        let header = header::write(
            &package.metadata,
            tensors.clone().map(|tensor| {
                let (name, dtype) = (tensor.name.as_str(), tensor.dtype);
                (name, dtype, tensor.shape.as_slice(), tensor.len)
            }),
        )?;
        let mut starts = vec![header.len() as u64];
        for tensor in tensors {
            // their sum was checked
            starts.push(starts.last().copied().unwrap_or(0) + tensor.len);
        }
        Ok(Self {
            package,
            header,
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

    /// Gives all of the file to `write`, with its places, every tensor decoded once.
    pub fn pour(
        &self,
        threads: usize,
        progress: &dyn Progress,
        mut write: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        write(0, &self.header)?;
        let decode = |(): &mut (), number: usize| {
            progress.check()?;
            self.package.decode(number)
        };
        let count = self.package.tensors.len();
        parallel::ordered(
            threads,
            count,
            || (),
            decode,
            |number, bytes| {
                progress.advance(bytes.len() as u64);
                write(self.starts[number], &bytes)
            },
        )
    }
}
