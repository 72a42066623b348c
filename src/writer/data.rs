//! The data of an image being written: an append with alignment, in large writes.

use crate::base::OutputFile;
use crate::base::Result;

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 1 << 20;

/// Appends to an output and knows its place.
#[derive(Debug)]
pub(super) struct DataWriter<'a> {
    output: &'a mut OutputFile,
    buffer: Vec<u8>,
    position: u64,
}

impl<'a> DataWriter<'a> {
    /// Begins at the start of the output.
    pub(super) fn new(output: &'a mut OutputFile) -> Self {
        Self {
            output,
            buffer: Vec::with_capacity(BUFFER_LEN * 2),
            position: 0,
        }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        self.position += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_LEN {
            self.flush()?;
        }
        Ok(())
    }

    /// Appends zeros up to `position`.
    pub(super) fn pad_to(&mut self, position: u64) -> Result<()> {
        while self.position < position {
            let zeros = [0_u8; 4096];
            let len = (position - self.position).min(zeros.len() as u64) as usize;
            self.put(&zeros[..len])?;
        }
        Ok(())
    }

    /// Writes what is gathered.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.output.write(&self.buffer)?;
        self.buffer.clear();
        Ok(())
    }

    /// The output, for what is filled in last.
    pub(super) fn into_output(mut self) -> Result<&'a mut OutputFile> {
        self.flush()?;
        Ok(self.output)
    }
}
