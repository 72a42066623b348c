//! Run: text out of a model, with the logits of the plain one, in the memory that was promised.

mod answer;
mod batch;
mod chat;
mod generate;
mod locate;
mod logits;
mod prompt;
mod receipt;
mod replay;
mod report;
mod session;
mod single;

use std::path::PathBuf;

pub(crate) use answer::Request;
pub(crate) use batch::batch;
pub(crate) use chat::Talk;
pub(crate) use chat::chat;
pub(crate) use prompt::Prompt;
pub(crate) use prompt::Sampling;
pub(crate) use replay::replay;
pub(crate) use report::Placement;
pub(crate) use report::RunReport;
pub(crate) use single::run;

/// New tokens, where nobody asked for a number.
pub(crate) const NEW_TOKENS_DEFAULT: usize = 256;

/// What is run, where, and in which memory.
#[derive(Debug, Clone)]
pub(crate) struct RunOptions {
    /// A file with tensors, the index of shards, or a folder.
    pub model: PathBuf,
    /// Where the bases of a delta are.
    pub bases: Vec<PathBuf>,
    /// At most so many new tokens.
    pub new_tokens_max: usize,
    /// Positions of a text; none: as many as needed.
    pub context: Option<usize>,
    /// Bytes that the process may take; none: what is free.
    pub ram: Option<u64>,
    /// Threads that compute.
    pub threads: usize,
    /// Everything comes from the disk.
    pub is_streamed: bool,
    /// How tokens are chosen, and where a text ends.
    pub sampling: Sampling,
    /// Where the logits of every step go.
    pub logits: Option<PathBuf>,
    /// Those of every position of the prompt, too.
    pub all_logits: bool,
    /// Where the receipt goes.
    pub receipt: Option<PathBuf>,
}

/// Who hears of a run while it goes on.
pub(crate) trait Audience {
    /// A line about what happens: what was promised, for one.
    fn told(&self, line: &str);
    /// Whether new text is shown where progress would be drawn over it.
    fn shows_text(&self) -> bool;
    /// New text.
    fn text(&mut self, text: &str) -> crate::base::Result<()>;
}
