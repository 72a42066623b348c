//! A file of the package as the safetensors file that it stands for. The package keeps tensors and metadata, but not the original
//! header: this one has the same tensors in the same order, and is written as the safetensors library writes them.

use serde_json::json;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::bgsm::Package;

/// Headers are filled up with blanks to a multiple of this, so that data are aligned.
const ALIGN: usize = 8;

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
        let mut entries = serde_json::Map::new();
        if !package.metadata.is_empty() {
            entries.insert("__metadata__".into(), json!(package.metadata));
        }
        let mut end = 0_u64;
        let mut starts = Vec::with_capacity(package.tensors.len() + 1);
        for tensor in &package.tensors {
            let start = end;
            end = end
                .checked_add(tensor.len)
                .filter(|end| i64::try_from(*end).is_ok())
                .ok_or_else(|| Error::damaged("tensors of more bytes than there can be"))?;
            let entry =
                json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
            entries.insert(tensor.name.clone(), entry);
            starts.push(start);
        }
        starts.push(end);
        let json = serde_json::to_vec(&entries).map_err(|e| Error::invalid(e.to_string()))?;
        let padded = json.len().next_multiple_of(ALIGN);
        let mut header = (padded as u64).to_le_bytes().to_vec();
        header.extend(json);
        header.resize(8 + padded, b' ');
        for start in &mut starts {
            *start += header.len() as u64;
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
