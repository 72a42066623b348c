//! Words of `run`, and what they ask for.

use std::fs::File;
use std::io;
use std::io::IsTerminal;
use std::io::Read;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use clap::ValueEnum;

use crate::base::Error;
use crate::base::Result;
use crate::base::units;
use crate::cli::global::Global;
use crate::ops::run;
use crate::ops::run::Prompt;
use crate::ops::run::RunOptions;
use crate::ops::run::Sampling;

/// The longest prompt.
pub(super) const PROMPT_LEN_MAX: u64 = 64 << 20;

/// Words of `run`.
#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// A model: a file, the index of its shards, or a folder; compressed or not
    model: PathBuf,
    /// Where the base of a delta is; may be given more than once
    #[arg(long, value_name = "MODEL")]
    base: Vec<PathBuf>,
    /// The text that the model goes on with [default: what comes from stdin, without a newline at
    /// its end]
    #[arg(long, value_name = "TEXT", group = "ask")]
    prompt: Option<String>,
    /// The same from a file
    #[arg(long, value_name = "FILE", group = "ask")]
    prompt_file: Option<PathBuf>,
    /// The prompt as ids of tokens, with commas between them; needs no tokenizer
    #[arg(long, value_name = "IDS", value_delimiter = ',', group = "ask")]
    prompt_ids: Option<Vec<u32>>,
    /// Talk with the model, by its chat template; a line each, an empty one or end of file ends it
    #[arg(long, group = "ask")]
    pub(super) chat: bool,
    /// What the model is told before a conversation
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(super) system: Option<String>,
    /// Answer the prompts of a file of JSON lines together: `{"id", "prompt" or "messages"}`
    #[arg(long, value_name = "FILE", group = "ask")]
    pub(super) batch: Option<PathBuf>,
    /// Compute again what a receipt says, and compare every step
    #[arg(long, value_name = "RECEIPT", group = "ask")]
    pub(super) verify: Option<PathBuf>,
    /// At most so many new tokens
    #[arg(long, value_name = "N", default_value_t = run::NEW_TOKENS_DEFAULT)]
    max_new_tokens: usize,
    /// Draw tokens; logits are divided by it, and 0 takes the largest
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f32>,
    /// Draw among so many of the largest only
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Draw among the largest that together have this probability
    #[arg(long, value_name = "PROBABILITY")]
    top_p: Option<f32>,
    /// Draw among those with this part of the largest's probability
    #[arg(long, value_name = "PART")]
    min_p: Option<f32>,
    /// Make tokens that were there already less likely; 1 does nothing
    #[arg(long, value_name = "NUMBER")]
    repetition_penalty: Option<f32>,
    /// Where random numbers start [default: somewhere else each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// A text that ends the answer; may be given more than once
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Positions of the text [default: prompt and new tokens, rounded up to 256; of a conversation
    /// 4096, or what the model was made for, if that is less]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// Memory that the whole process may take, as 4G [default: what is free]
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    ram: Option<u64>,
    /// Read weights from the disk in each pass, even where there is memory
    #[arg(long)]
    stream: bool,
    /// How it is computed [default: exact]
    #[arg(long, value_enum)]
    numerics: Option<Numerics>,
    /// Write the logits of every step to a safetensors file
    #[arg(long, value_name = "FILE")]
    logits: Option<PathBuf>,
    /// Those of every position of the prompt, too
    #[arg(long, requires = "logits")]
    all_logits: bool,
    /// Write down what was computed, so that anybody can compute it again
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Numerics {
    /// The same bits on every machine
    Exact,
    /// What this machine computes faster, within rounding; so far nothing, so that it is exact
    Fast,
}

impl RunArguments {
    pub(super) fn options(&self, global: &Global) -> RunOptions {
        RunOptions {
            model: self.model.clone(),
            bases: self.base.clone(),
            new_tokens_max: self.max_new_tokens,
            context: self.context,
            ram: self.ram,
            threads: global.threads(),
            is_streamed: self.stream,
            sampling: Sampling {
                temperature: self.temperature,
                top_k: self.top_k,
                top_p: self.top_p,
                min_p: self.min_p,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
                stop: self.stop.clone(),
            },
            logits: self.logits.clone(),
            all_logits: self.all_logits,
            receipt: self.receipt.clone(),
        }
    }

    /// What to say of how it is computed, where it is not what was asked for.
    pub(super) fn numerics_told(&self) -> Option<&'static str> {
        let asked = self.numerics == Some(Numerics::Fast);
        asked.then_some("numerics: nothing is faster than exact yet, so this is exact")
    }

    pub(super) fn prompt(&self) -> Result<Prompt> {
        if let Some(ids) = &self.prompt_ids {
            return Ok(Prompt::Ids(ids.clone()));
        }
        if let Some(text) = &self.prompt {
            return Ok(Prompt::Text(text.clone()));
        }
        if let Some(path) = &self.prompt_file {
            let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
            return Ok(Prompt::Text(read(file, path)?));
        }
        if io::stdin().is_terminal() {
            let what = "nothing is asked: `--prompt`, `--chat`, or a text from a pipe";
            return Err(Error::invalid(what));
        }
        Ok(Prompt::Text(read(io::stdin().lock(), Path::new("stdin"))?))
    }
}

fn read(from: impl Read, path: &Path) -> Result<String> {
    let mut text = String::new();
    let mut bounded = from.take(PROMPT_LEN_MAX);
    bounded
        .read_to_string(&mut text)
        .map_err(|e| Error::io("cannot read", path, e))?;
    if text.len() as u64 == PROMPT_LEN_MAX {
        return Err(Error::over_limit("a text this long is no prompt").file(path));
    }
    // echo and editors end a text so
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
