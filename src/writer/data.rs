//! The data of an image being written: an append with alignment, in large writes.

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Result;
use crate::writer::journal::Entry;
use crate::writer::journal::Journal;
use crate::writer::journal::Resumed;

/// Bytes gathered before they are written.
const BUFFER_LEN: usize = 1 << 20;

/// Appends to an output and knows how far it is.
#[derive(Debug)]
pub(super) struct DataWriter<'a> {
    /// None where only the length of what is put is wanted.
    output: Option<&'a mut OutputFile>,
    buffer: Vec<u8>,
    position: u64,
    /// What the output has already, and is not written again.
    there: u64,
    journal: Option<Journal>,
}

impl<'a> DataWriter<'a> {
    /// Begins at the start of the output.
    pub(super) fn new(output: &'a mut OutputFile) -> Self {
        Self {
            output: Some(output),
            ..Self::nowhere()
        }
    }

    /// Of what is put nothing is kept but the place where the next byte would go.
    pub(super) fn nowhere() -> Self {
        Self {
            output: None,
            buffer: Vec::new(),
            position: 0,
            there: 0,
            journal: None,
        }
    }

    /// Keeps a journal for a job from here on; gives what an earlier run of it has left, whose
    /// bytes need not be put again.
    pub(super) fn keep_journal(&mut self, job: &[u8; 32]) -> Result<Resumed> {
        self.flush()?;
        let Some(output) = &mut self.output else {
            return Ok(Resumed::default());
        };
        let (journal, resumed) = Journal::open(output, job, self.position)?;
        self.there = resumed.end.max(self.position);
        output.cut(self.there)?;
        self.journal = Some(journal);
        Ok(resumed)
    }

    /// Passes over bytes that the output has.
    pub(super) fn pass_to(&mut self, position: u64) {
        assert!(
            (self.position..=self.there).contains(&position),
            "only what is there is passed over"
        );
        self.position = position;
    }

    /// Notes what was put since the last entry, once it is written; nothing for what was there.
    pub(super) fn note(&mut self, entry: &Entry) {
        if let Some(journal) = &mut self.journal
            && self.position > self.there
        {
            journal.note(entry);
        }
    }

    /// Where the next byte goes.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Appends bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let known = self.there.saturating_sub(self.position);
        let new = &bytes[known.min(bytes.len() as u64) as usize..];
        self.buffer.extend_from_slice(new);
        if let Some(journal) = &mut self.journal {
            journal.take(new);
        }
        self.position += bytes.len() as u64;
        if self.buffer.len() >= BUFFER_LEN {
            self.flush()?;
        }
        Ok(())
    }

    /// Appends zeros up to a multiple of `align`.
    pub(super) fn align_to(&mut self, align: u64) -> Result<()> {
        self.pad_to(self.position.next_multiple_of(align))
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
        let Some(output) = &mut self.output else {
            self.buffer.clear();
            return Ok(());
        };
        output.write(&self.buffer)?;
        self.buffer.clear();
        if let Some(journal) = &mut self.journal {
            let target = output.target();
            journal
                .flush()
                .map_err(|e| Error::io("cannot keep a journal of", target, e))?;
        }
        Ok(())
    }

    /// The output, for what is filled in last.
    pub(super) fn into_output(mut self) -> Result<&'a mut OutputFile> {
        self.flush()?;
        let nowhere = || Error::invalid("what was to be measured is not written");
        self.output.ok_or_else(nowhere)
    }
}
