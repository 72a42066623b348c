//! What came of a run.

use serde::Serialize;

use crate::exec::engine::MemoryPlan;
use crate::ops::run::receipt::Receipt;

/// Where the weights were, in bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Placement {
    /// In memory, as they are.
    pub plain: u64,
    /// In memory, coded.
    pub compressed: u64,
    /// On the disk, read in each pass.
    pub streamed: u64,
}

impl Placement {
    pub(super) fn of(demand: &MemoryPlan) -> Self {
        Self {
            plain: demand.plain,
            compressed: demand.compressed,
            streamed: demand.streamed,
        }
    }
}

/// What came of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RunReport {
    /// New text without special tokens; none without a tokenizer.
    pub text: Option<String>,
    /// Ids of new tokens, that of the end included.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// What was promised.
    pub promised_bytes: u64,
    /// What was measured.
    pub peak_bytes: u64,
    /// Of the prompt.
    pub prefill_tokens_per_second: f64,
    /// Of new tokens but the first; none where there are no others.
    pub decode_tokens_per_second: Option<f64>,
    /// Until the first pass.
    pub load_seconds: f64,
    /// Where the weights were.
    pub placement: Placement,
    /// What can be replayed.
    pub receipt: Option<Receipt>,
}

impl RunReport {
    /// Whether more memory was taken than promised.
    pub(crate) fn is_promise_broken(&self) -> bool {
        self.peak_bytes > self.promised_bytes
    }
}
