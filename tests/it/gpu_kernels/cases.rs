//! Coded blocks and what they must become, as a case file for the kernels.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::OnceLock;

use bigsmall::base::CodecId;
use bigsmall::base::ErrorKind;
use bigsmall::codec;
use bigsmall::codec::CodedBlock;
use bigsmall::codec::Scratch;
use bigsmall::codec::SpanTables;

use crate::roundtrip::put;

pub(crate) const WELL_FORMED: u32 = 0;
pub(crate) const DAMAGED: u32 = 1;
pub(crate) const NOT_HERE: u32 = 2;

/// A coded block, and what it must become.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) codec: CodecId,
    pub(crate) version: u8,
    pub(crate) lanes_shift: u8,
    pub(crate) coded: Vec<u8>,
    pub(crate) out_len: usize,
    pub(crate) tables: Option<Arc<SpanTables>>,
}

impl Block {
    pub(crate) fn new(
        codec: CodecId,
        coded: Vec<u8>,
        out_len: usize,
        tables: Option<Arc<SpanTables>>,
    ) -> Self {
        let version = codec.version();
        Self {
            codec,
            version,
            lanes_shift: 6,
            coded,
            out_len,
            tables,
        }
    }

    pub(crate) fn is_for_kernels(&self) -> bool {
        match self.codec {
            CodecId::RAW | CodecId::CONST => true,
            CodecId::R16 | CodecId::R32_BF16 => self.lanes_shift == 6,
            _ => false,
        }
    }

    /// The library's verdict and bytes.
    pub(crate) fn decode(&self) -> (u32, Vec<u8>) {
        let mut out = vec![0; self.out_len];
        if !self.is_for_kernels() {
            return (NOT_HERE, out);
        }
        let (tables, lanes) = (self.tables.as_deref(), 1 << self.lanes_shift);
        let mut scratch = Scratch::default();
        let block = CodedBlock {
            codec: self.codec,
            version: self.version,
            bytes: &self.coded,
            lanes,
            base: &[],
        };
        let decoded = codec::decode_block(&block, tables, &mut out, &mut scratch);
        match decoded.map_err(|e| e.kind()) {
            Ok(()) => (WELL_FORMED, out),
            Err(ErrorKind::Unsupported) => (NOT_HERE, out),
            Err(_) => (DAMAGED, out),
        }
    }
}

/// A case file, as `src/gpu/kernels/cases.h` reads it.
#[derive(Debug, Default)]
pub(crate) struct Cases {
    pub(crate) blocks: Vec<u8>,
    pub(crate) tables: Vec<u8>,
    pub(crate) slots: Vec<u8>,
    pub(crate) status: Vec<u32>,
    pub(crate) data: Vec<u8>,
    pub(crate) out: Vec<u8>,
    /// The tables that are there, by place.
    pub(crate) known: Vec<Arc<SpanTables>>,
}

impl Cases {
    /// Adds a block that must give `original`.
    pub(crate) fn add_good(&mut self, block: &Block, original: &[u8]) {
        let (status, out) = block.decode();
        assert!(
            status == WELL_FORMED && out == original,
            "{:?}",
            block.codec
        );
        self.add_with(block, status, &out);
    }

    /// Adds any block whatever, with the library's verdict.
    pub(crate) fn add(&mut self, block: &Block) -> u32 {
        let (status, out) = block.decode();
        self.add_with(block, status, &out);
        status
    }

    pub(crate) fn add_with(&mut self, block: &Block, status: u32, out: &[u8]) {
        let tables = block
            .tables
            .as_ref()
            .map_or(u32::MAX, |tables| self.tables_at(tables));
        self.blocks.extend((self.data.len() as u64).to_le_bytes());
        self.blocks.extend((self.out.len() as u64).to_le_bytes());
        for field in [block.coded.len() as u32, block.out_len as u32, tables] {
            self.blocks.extend(field.to_le_bytes());
        }
        self.blocks
            .extend([block.codec.0, block.version, block.lanes_shift, 0]);
        self.status.push(status);
        self.data.extend(&block.coded);
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        self.out.extend(out);
        self.out.resize(self.out.len().next_multiple_of(16), 0);
    }

    pub(crate) fn tables_at(&mut self, tables: &Arc<SpanTables>) -> u32 {
        if let Some(at) = self
            .known
            .iter()
            .position(|known| Arc::ptr_eq(known, tables))
        {
            return at as u32;
        }
        let plane = &tables.planes[0];
        self.tables
            .extend((self.slots.len() as u32 / (4 * 4096)).to_le_bytes());
        self.tables.extend([
            plane.tables.len() as u8,
            plane.bits as u8,
            plane.base,
            tables.codec.0,
        ]);
        let slots = plane.tables.iter().flat_map(|table| table.iter());
        self.slots.extend(slots.flat_map(|slot| slot.to_le_bytes()));
        self.known.push(Arc::clone(tables));
        self.known.len() as u32 - 1
    }

    pub(crate) fn write(&self, name: &str) -> PathBuf {
        let mut bytes = b"BSCASES1".to_vec();
        bytes.extend((self.status.len() as u32).to_le_bytes());
        bytes.extend((self.known.len() as u32).to_le_bytes());
        for len in [self.slots.len() / 4, self.data.len(), self.out.len()] {
            bytes.extend((len as u64).to_le_bytes());
        }
        let status: Vec<u8> = self
            .status
            .iter()
            .flat_map(|status| status.to_le_bytes())
            .collect();
        for part in [
            &self.blocks,
            &self.tables,
            &self.slots,
            &status,
            &self.data,
            &self.out,
        ] {
            bytes.extend(part);
        }
        let path = folder().join(name);
        put(&path, &bytes);
        path
    }

    /// Decodes all of them by the kernels: each alone and all at once.
    pub(crate) fn run(&self, name: &str) {
        let path = self.write(name);
        let output = Command::new(emulator()).arg(&path).output().unwrap();
        assert!(
            output.status.success(),
            "{name}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

pub(crate) fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// The kernels compiled for the CPU, once, with the sanitizers of addresses and of undefined
/// behaviour.
pub(crate) fn emulator() -> &'static Path {
    static EMULATOR: OnceLock<PathBuf> = OnceLock::new();
    let compile = || {
        let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = folder().join("emulate");
        let output = Command::new(&compiler)
            .args([
                "-std=c++17",
                "-O1",
                "-g",
                "-fno-strict-aliasing",
                "-Wall",
                "-Wextra",
                "-Werror",
            ])
            .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
            .arg("-I")
            .arg(root.join("src/gpu/kernels"))
            .arg(root.join("tests/gpu/emulate.cpp"))
            .arg("-o")
            .arg(&program)
            .output()
            .unwrap_or_else(|error| panic!("a C++ compiler, `{compiler}`: {error}"));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        program
    };
    EMULATOR.get_or_init(compile)
}
