//! A file of the package as the safetensors file that it stands for. The package keeps tensors and metadata, but not the original
//! header: this one has the same tensors in the same order, and is written as the safetensors library writes them.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;

use crate::base::Error;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::bgsm::Package;

/// Headers are filled up with blanks to a multiple of this, so that data are aligned.
const ALIGN: usize = 8;
/// Decoded tensors that are kept: readers go from one to the next.
const KEPT: usize = 4;

/// The safetensors file.
#[derive(Debug)]
pub struct View {
    package: Package,
    header: Vec<u8>,
    /// Where each tensor begins, in the order of the file, and the end.
    starts: Vec<u64>,
    kept: Mutex<Vec<(usize, Arc<Vec<u8>>)>>,
}

impl View {
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
            kept: Mutex::default(),
        })
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

    fn tensor(&self, number: usize) -> Result<Arc<Vec<u8>>> {
        // held while it is decoded: whoever wants the same waits for it
        let mut kept = self.kept.lock();
        if let Some(place) = kept.iter().position(|(of, _)| *of == number) {
            let found = kept.remove(place);
            let bytes = Arc::clone(&found.1);
            kept.push(found);
            return Ok(bytes);
        }
        let bytes = Arc::new(self.package.decode(number)?);
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push((number, Arc::clone(&bytes)));
        Ok(bytes)
    }
}

impl ReadAt for View {
    fn len(&self) -> u64 {
        self.starts
            .last()
            .copied()
            .unwrap_or(self.header.len() as u64)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len()) {
            return Err(Error::invalid("a read beyond the end").file(self.package.path()));
        }
        let (mut at, mut rest) = (offset, out);
        while !rest.is_empty() {
            let header_len = self.header.len() as u64;
            let (start, bytes) = if at < header_len {
                (0, None)
            } else {
                // tensors without bytes begin where the next one does
                let number = self.starts.partition_point(|start| *start <= at) - 1;
                (self.starts[number], Some(self.tensor(number)?))
            };
            let source = bytes.as_ref().map_or(&self.header[..], |bytes| &bytes[..]);
            let from = (at - start) as usize;
            let len = rest.len().min(source.len() - from);
            let (head, tail) = std::mem::take(&mut rest).split_at_mut(len);
            head.copy_from_slice(&source[from..from + len]);
            rest = tail;
            at += len as u64;
        }
        Ok(())
    }
}
