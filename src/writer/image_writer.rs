//! The writer of an image: owns its data, its index, the journal and which span has which tables.
//! What ways of coding give comes here, in order, and is put in its place.

use std::collections::BTreeMap;

use crate::base::OutputFile;
use crate::base::Result;
use crate::base::digest;
use crate::format::BlockRecord;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::ImageKind;
use crate::format::Index;
use crate::format::header::ALIGN;
use crate::writer::coded::CodedPiece;
use crate::writer::coded::Coding;
use crate::writer::coded::Strategy;
use crate::writer::data::DataWriter;
use crate::writer::delta;
use crate::writer::delta::Plan;
use crate::writer::journal::Entry;
use crate::writer::journal::TablesOf;
use crate::writer::large::Large;
use crate::writer::pooled::Pooled;
use crate::writer::task::ImageJob;
use crate::writer::task::Task;

/// Spans of at most this many bytes are coded whole, by one thread.
const SMALL_SPAN_LEN: u64 = 1 << 20;

/// Writes one image.
pub(super) struct ImageWriter<'a> {
    job: &'a ImageJob<'a>,
    /// Where coded bytes go; keeps the journal.
    data: DataWriter<'a>,
    index: Index,
    index_len: u64,
    owners: Owners,
}

/// For shared tables the span that has them: the first that uses them.
#[derive(Debug, Default)]
struct Owners {
    /// Of the pools of differences of a window.
    differences: BTreeMap<usize, usize>,
    /// Of the pools of families of a row of small spans.
    families: BTreeMap<usize, usize>,
}

impl Owners {
    /// The owner of these tables, which is `span` if there is none yet; none if they are a span's
    /// own.
    fn claim(&mut self, tables: TablesOf, span: usize) -> Option<usize> {
        let (owners, pool) = match tables {
            TablesOf::Span => return None,
            TablesOf::Family(pool) => (&mut self.families, pool),
            TablesOf::Differences(pool) => (&mut self.differences, pool),
        };
        Some(*owners.entry(pool).or_insert(span))
    }

    /// Whether a span has these tables; its own are always there.
    fn has(&self, tables: TablesOf) -> bool {
        match tables {
            TablesOf::Span => true,
            TablesOf::Family(pool) => self.families.contains_key(&pool),
            TablesOf::Differences(pool) => self.differences.contains_key(&pool),
        }
    }
}

impl<'a> ImageWriter<'a> {
    /// Of an image with this blank index, of `index_len` bytes, behind which `data` stands.
    pub(super) fn new(
        index: Index,
        index_len: u64,
        data: DataWriter<'a>,
        job: &'a ImageJob<'a>,
    ) -> Self {
        Self {
            job,
            data,
            index,
            index_len,
            owners: Owners::default(),
        }
    }

    /// The index, as far as it is known.
    pub(super) fn index_mut(&mut self) -> &mut Index {
        &mut self.index
    }

    /// The index, if nothing but that is wanted.
    pub(super) fn into_index(self) -> Index {
        self.index
    }

    /// Codes spans, in order.
    pub(super) fn code(&mut self, tasks: &[Task<'_>]) -> Result<()> {
        let mut rest = tasks;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(delta::window(rest));
            let plan = if self.job.has_all(now) {
                Plan::default()
            } else {
                Plan::look(now, self.job)?
            };
            self.code_window(now, &plan, |task| task.span.len)?;
            rest = later;
        }
        Ok(())
    }

    /// Codes spans that have this plan. Which are small is told by what `len` gives.
    pub(super) fn code_window(
        &mut self,
        tasks: &[Task<'_>],
        plan: &Plan,
        len: impl Fn(&Task<'_>) -> u64,
    ) -> Result<()> {
        self.owners.differences.clear();
        let mut rest = tasks;
        while let Some(first) = rest.first() {
            let is_small = |task: &&Task<'_>| len(task) <= SMALL_SPAN_LEN;
            let small = rest.iter().take_while(is_small).count();
            let (now, later) = rest.split_at(small.max(1));
            if small > 0 {
                self.owners.families.clear();
                let pooled = Pooled::look(now, plan, self.job)?;
                self.run(&pooled)?;
            } else {
                self.code_large(first, plan)?;
            }
            rest = later;
        }
        Ok(())
    }

    fn code_large(&mut self, task: &Task<'_>, plan: &Plan) -> Result<()> {
        let job = self.job;
        if let Some(entries) = job.resumed.whole(task.number, task.block_count()) {
            for entry in entries {
                self.pass_over(task, entry);
            }
            job.progress.advance(task.len());
            return Ok(());
        }
        let is_written = |pool| self.owners.has(TablesOf::Differences(pool));
        if let Some(delta) = plan.large(*task, job, is_written)? {
            return self.run(&delta);
        }
        self.run(&Large::look(*task, job)?)
    }

    /// Codes spans in this way, on all cores.
    fn run(&mut self, strategy: &dyn Strategy) -> Result<()> {
        self.job.ordered(
            strategy.pieces(),
            |scratch, number| strategy.code(number, scratch),
            |_, pieces| {
                let mut pieces = pieces.into_iter();
                pieces.try_for_each(|piece| self.put(piece, strategy))
            },
        )
    }

    fn put(&mut self, piece: CodedPiece<'_>, strategy: &dyn Strategy) -> Result<()> {
        let (task, first, len) = (piece.task, piece.first, piece.len);
        if let Some(coding) = piece.coding {
            let alone = piece.unless_shared;
            let coding = match alone.filter(|_| !self.owners.has(coding.tables)) {
                Some(alone) => alone,
                None => coding,
            };
            self.put_coding(task, first, coding, strategy)?;
        } else if let Some(entry) = self.job.resumed.entry(task.number, first) {
            self.pass_over(task, entry);
        }
        self.job.progress.advance(len);
        Ok(())
    }

    fn put_coding(
        &mut self,
        task: &Task<'_>,
        first: usize,
        coding: Coding,
        strategy: &dyn Strategy,
    ) -> Result<()> {
        let mut tables_len = 0;
        if first == 0 {
            let owner = self.owners.claim(coding.tables, task.number);
            let tables = match owner {
                None => &coding.own_tables,
                Some(owner) if owner == task.number => strategy.shared_tables(coding.tables),
                Some(_) => &[],
            };
            tables_len = tables.len() as u32;
            self.index.spans[task.number].tables_of = owner.filter(|&owner| owner != task.number);
            self.begin_span(task.number, tables)?;
        }
        self.put_blocks(task.number, first, &coding)?;
        self.data.note(&Entry {
            span: task.number,
            first,
            tables: coding.tables,
            tables_len,
            blocks: coding.blocks,
            end: self.data.position(),
        });
        Ok(())
    }

    /// Begins a span with its tables, unless it is empty.
    pub(super) fn begin_span(&mut self, number: usize, tables: &[u8]) -> Result<()> {
        let record = &mut self.index.spans[number];
        if record.span.len == 0 {
            return Ok(());
        }
        record.tables_len = tables.len() as u32;
        self.data.align_to(record.align())?;
        self.data.put(tables)?;
        self.data.align_to(ALIGN)
    }

    /// Puts the next block of an image, which has this number there.
    pub(super) fn put_block(
        &mut self,
        number: usize,
        record: BlockRecord,
        coded: &[u8],
    ) -> Result<()> {
        self.index.blocks[number] = BlockRecord {
            offset: self.data.position(),
            ..record
        };
        self.data.put(coded)?;
        self.data.align_to(ALIGN)
    }

    fn put_blocks(&mut self, span: usize, first: usize, coding: &Coding) -> Result<()> {
        let mut rest = coding.bytes.as_slice();
        let start = self.index.spans[span].blocks.start + first;
        for (number, record) in (start..).zip(&coding.blocks) {
            let (block, after) = rest.split_at(record.coded_len as usize);
            rest = after;
            self.put_block(number, *record, block)?;
        }
        Ok(())
    }

    /// Writes down what an earlier run has left of a span, and passes over its bytes.
    fn pass_over(&mut self, task: &Task<'_>, entry: &Entry) {
        if entry.first == 0 {
            let owner = self.owners.claim(entry.tables, task.number);
            let record = &mut self.index.spans[task.number];
            record.tables_of = owner.filter(|&owner| owner != task.number);
            record.tables_len = entry.tables_len;
        }
        let start = self.index.spans[task.number].blocks.start + entry.first;
        let records = &mut self.index.blocks[start..];
        records[..entry.blocks.len()].copy_from_slice(&entry.blocks);
        self.data.pass_to(entry.end);
    }

    /// Writes index and header.
    pub(super) fn finish(mut self, kind: ImageKind, suffix: &str) -> Result<Unsealed> {
        let data_offset = Header::data_offset(self.index_len);
        self.index.assign_offsets(data_offset)?;
        let (end, position) = (self.index.data_end, self.data.position());
        assert_eq!(end, position, "data lie where the index says");
        let bytes = self.index.encode();
        let len = bytes.len() as u64;
        assert_eq!(len, self.index_len, "the index has the length left for it");
        self.data.pad_to(self.index.tail_offset())?;
        let files = &self.index.files;
        let header = Header {
            kind,
            suffix: suffix.to_owned(),
            required_features: self.index.required_features(),
            image_len: self.index.tail_offset() + len + HEADER_LEN as u64,
            original_len: files.iter().map(|file| file.len).sum(),
            index_len: len,
            tail_index_offset: self.index.tail_offset(),
            index_checksum: digest::xxh3(&bytes),
            file_count: files.len() as u32,
        };
        put_index(&header, &bytes, self.data.into_output()?)?;
        let index = self.index;
        Ok(Unsealed { header, index })
    }
}

/// Both copies of the header and the index.
fn put_index(header: &Header, index: &[u8], output: &OutputFile) -> Result<()> {
    let tail = header.tail_index_offset;
    output.write_at(tail, index)?;
    output.write_at(tail + header.index_len, &header.encode())?;
    output.write_at(Header::FRONT_INDEX_OFFSET, index)?;
    output.write_at(0, &header.encode())
}

/// An image that is written.
#[derive(Debug)]
pub(crate) struct Unsealed {
    header: Header,
    index: Index,
}

impl Unsealed {
    /// Bytes of the image.
    pub(crate) fn image_len(&self) -> u64 {
        self.header.image_len
    }

    /// Notes what the sha256 of its only file is.
    pub(crate) fn seal(mut self, sha256: [u8; 32], output: &OutputFile) -> Result<()> {
        for file in &mut self.index.files {
            file.sha256 = sha256;
        }
        let bytes = self.index.encode();
        self.header.index_checksum = digest::xxh3(&bytes);
        put_index(&self.header, &bytes, output)
    }
}
