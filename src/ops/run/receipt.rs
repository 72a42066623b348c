//! What was computed, so that anybody can compute it again: a receipt, and its replay.

use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::base::output_file::OutputFile;
use crate::kernels::CONTRACT;
use crate::ops::companions;
use crate::text::SamplerOptions;

/// Its schema.
const SCHEMA: &str = "bigsmall.receipt/1";
/// The longest receipt that is read.
const LEN_MAX: u64 = 256 << 20;

/// An original file of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OriginalDigest {
    /// Its name.
    pub file: String,
    /// sha256 of its bytes, computed in this run.
    pub sha256: String,
}

/// How tokens were chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerRecord {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
    repetition_penalty: f32,
    seed: u64,
}

impl From<&SamplerOptions> for SamplerRecord {
    fn from(options: &SamplerOptions) -> Self {
        Self {
            temperature: options.temperature,
            top_k: options.top_k,
            top_p: options.top_p,
            min_p: options.min_p,
            repetition_penalty: options.repetition_penalty,
            seed: options.seed,
        }
    }
}

impl From<&SamplerRecord> for SamplerOptions {
    fn from(record: &SamplerRecord) -> Self {
        Self {
            temperature: record.temperature,
            top_k: record.top_k,
            top_p: record.top_p,
            min_p: record.min_p,
            repetition_penalty: record.repetition_penalty,
            seed: record.seed,
        }
    }
}

/// What was computed in a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Receipt {
    schema: String,
    /// Version of the numeric contract.
    pub contract: u32,
    /// Family of the model.
    pub family: String,
    /// The original files of the model.
    pub model: Vec<OriginalDigest>,
    /// What was checked in this run: `weights`, if every block of weights that was used matched its
    /// checksum.
    pub checked: Vec<String>,
    /// Ids of the prompt.
    pub prompt: Vec<u32>,
    /// Ids of the new tokens.
    pub tokens: Vec<u32>,
    /// sha256 of the logits of each step, as f32 in little-endian order.
    pub logits_sha256: Vec<String>,
    /// Whether longrope's factors for long texts were used.
    pub is_long: bool,
    /// How tokens were chosen.
    pub sampler: SamplerRecord,
    /// Memory that was promised.
    pub promised_bytes: u64,
    /// Memory that was measured.
    pub peak_bytes: u64,
}

impl Receipt {
    /// A receipt without family, files and memory.
    pub(super) fn new(
        (prompt, tokens): (&[u32], &[u32]),
        digests: &[[u8; 32]],
        sampler: &SamplerOptions,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            contract: CONTRACT,
            family: String::new(),
            model: Vec::new(),
            checked: Vec::new(),
            prompt: prompt.to_vec(),
            tokens: tokens.to_vec(),
            logits_sha256: digests.iter().map(|digest| digest::hex(digest)).collect(),
            is_long: false,
            sampler: sampler.into(),
            promised_bytes: 0,
            peak_bytes: 0,
        }
    }

    /// Reads one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let len = std::fs::metadata(path)
            .map_err(|e| Error::io("cannot open", path, e))?
            .len();
        if len > LEN_MAX {
            return Err(Error::over_limit("a receipt this long is none").file(path));
        }
        let bytes = std::fs::read(path).map_err(|e| Error::io("cannot read", path, e))?;
        let receipt: Self = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(format!("no receipt: {e}")).file(path))?;
        if receipt.schema != SCHEMA {
            let what = format!("a receipt of schema `{}`, not `{SCHEMA}`", receipt.schema);
            return Err(Error::unsupported(what).file(path));
        }
        if receipt.contract != CONTRACT {
            let what = format!(
                "it was computed by version {} of the numeric contract, \
                 and this is version {CONTRACT}",
                receipt.contract
            );
            return Err(Error::unsupported(what).file(path));
        }
        let steps = receipt.tokens.len();
        if receipt.prompt.is_empty() || steps == 0 || receipt.logits_sha256.len() != steps {
            return Err(
                Error::invalid("a receipt without steps, or of too few digests").file(path),
            );
        }
        Ok(receipt)
    }

    /// Writes it whole, or not at all.
    pub(super) fn write(&self, path: &Path, progress: &dyn Progress) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)
            .map_err(|e| Error::invalid(format!("a receipt cannot be written: {e}")))?;
        text.push('\n');
        let mut file = OutputFile::create(path, true)?;
        file.write(text.as_bytes())?;
        companions::commit(file, (None, None), 1, progress).map(drop)
    }
}
