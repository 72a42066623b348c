//! A receipt computed again: the whole text is read as one prompt, and every step's logits and
//! tokens are compared.

use std::path::Path;

use serde::Serialize;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::ops::run::Audience;
use crate::ops::run::Request;
use crate::ops::run::RunOptions;
use crate::ops::run::answer;
use crate::ops::run::answer::Answer;
use crate::ops::run::generate;
use crate::ops::run::generate::Listener;
use crate::ops::run::generate::Slot;
use crate::ops::run::locate::Located;
use crate::ops::run::receipt::Receipt;
use crate::ops::run::session;
use crate::ops::run::session::Load;
use crate::ops::run::single;
use crate::text::Sampler;
use crate::text::SamplerOptions;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Replayed {
    /// Steps of the receipt.
    pub steps: usize,
    /// Original files whose sha256 is not that of the receipt.
    pub other_files: Vec<String>,
    /// The first step whose logits differ.
    pub other_logits: Option<usize>,
    /// The first step whose token is another.
    pub other_token: Option<usize>,
}

impl Replayed {
    /// Whether everything is the same.
    pub(crate) fn is_same(&self) -> bool {
        self.other_files.is_empty() && self.other_logits.is_none() && self.other_token.is_none()
    }
}

/// Compares the logits of each step with the receipt.
struct Comparison<'a> {
    receipt: &'a Receipt,
    sampler: Sampler,
    /// Prompt and new tokens so far.
    all: Vec<u32>,
    position: usize,
    step: usize,
    other_logits: Option<usize>,
    other_token: Option<usize>,
}

impl Comparison<'_> {
    fn compare(&mut self, logits: &[f32]) {
        self.position += 1;
        if self.position < self.receipt.prompt.len() || self.step >= self.receipt.tokens.len() {
            return;
        }
        let found = digest::hex(&answer::digest(logits));
        if found != self.receipt.logits_sha256[self.step] {
            self.other_logits.get_or_insert(self.step);
        }
        let token = self.sampler.next(logits, &self.all);
        let wanted = self.receipt.tokens[self.step];
        if token != wanted {
            self.other_token.get_or_insert(self.step);
        }
        self.all.push(wanted);
        self.step += 1;
    }
}

impl Listener for Comparison<'_> {
    fn prompt_logits(&mut self, _: usize, logits: &[f32]) -> Result<()> {
        self.compare(logits);
        Ok(())
    }

    fn logits(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn text(&mut self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Computes again what the receipt says of the model.
pub(crate) fn replay(
    path: &Path,
    options: &RunOptions,
    audience: &dyn Audience,
    progress: &dyn Progress,
) -> Result<Replayed> {
    let receipt = Receipt::read(path)?;
    let located = Located::open(&options.model, &options.bases)?;
    let program = session::program(&located)?;
    if program.family != receipt.family {
        let what = format!(
            "the receipt is of a model of family `{}`, and this one is `{}`",
            receipt.family, program.family
        );
        return Err(Error::invalid(what).file(path));
    }
    let mut prompt = receipt.prompt.clone();
    prompt.extend(&receipt.tokens[..receipt.tokens.len() - 1]);
    let prompt_len = prompt.len();
    let context = session::context(options, prompt_len + 1)?;
    let load = Load {
        positions: context,
        prompt_len,
        texts: 1,
        all_logits: true,
        kept_len: 0,
    };
    let mut started = session::start(&located, program, options, load, (audience, progress))?;
    let mut sequence = started.engine.sequence(context, receipt.prompt.len());
    sequence.set_long(receipt.is_long);
    let request = Request {
        prompt,
        new_tokens_max: 1,
        sampler: SamplerOptions::default(),
        end_tokens: Vec::new(),
        stop: Vec::new(),
    };
    let answer = Answer::new(request, None, 0, false)?;
    let mut comparison = Comparison {
        sampler: Sampler::new((&receipt.sampler).into())?,
        all: receipt.prompt.clone(),
        position: 0,
        step: 0,
        other_logits: None,
        other_token: None,
        receipt: &receipt,
    };
    let mut slots = [Slot { answer, sequence }];
    let engine = &mut started.engine;
    generate::generate(engine, &mut slots, started.pass, &mut comparison, progress)?;
    let found = single::originals(&located, progress)?;
    let others = receipt
        .model
        .iter()
        .filter(|original| !found.contains(original));
    Ok(Replayed {
        steps: comparison.step,
        other_files: others.map(|original| original.file.clone()).collect(),
        other_logits: comparison.other_logits,
        other_token: comparison.other_token,
    })
}
