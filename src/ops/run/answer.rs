//! One text that is written: from its prompt to where it ends.

use crate::base::Error;
use crate::base::Result;
use crate::base::digest::Sha256;
use crate::text::Sampler;
use crate::text::SamplerOptions;
use crate::text::StopStrings;
use crate::text::TextStream;
use crate::text::Tokenizer;

/// What is asked of a text.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Ids of the prompt's tokens.
    pub prompt: Vec<u32>,
    /// At most so many new tokens.
    pub new_tokens_max: usize,
    /// How tokens are chosen.
    pub sampler: SamplerOptions,
    /// Tokens that end it.
    pub end_tokens: Vec<u32>,
    /// Texts that end it.
    pub stop: Vec<String>,
}

/// A text that is being written.
#[derive(Debug)]
pub(super) struct Answer<'t> {
    pub(super) request: Request,
    /// New tokens.
    pub(super) tokens: Vec<u32>,
    /// What they say, if there is a tokenizer.
    pub(super) text: Option<String>,
    /// sha256 of the logits of each step, if they are wanted.
    pub(super) digests: Option<Vec<[u8; 32]>>,
    /// Prompt and new tokens.
    all: Vec<u32>,
    /// How many of these went through the model.
    fed: usize,
    sampler: Sampler,
    stop: StopStrings,
    stream: Option<TextStream<'t>>,
    is_done: bool,
}

impl<'t> Answer<'t> {
    /// `fed` tokens of the prompt are in the cache already.
    pub(super) fn new(
        request: Request,
        tokenizer: Option<&'t Tokenizer>,
        fed: usize,
        with_digests: bool,
    ) -> Result<Self> {
        if request.prompt.is_empty() {
            return Err(Error::invalid("the prompt has no tokens"));
        }
        if tokenizer.is_none() && !request.stop.is_empty() {
            return Err(Error::invalid(
                "a text cannot be looked for without a tokenizer",
            ));
        }
        Ok(Self {
            tokens: Vec::new(),
            text: tokenizer.map(|_| String::new()),
            digests: with_digests.then(Vec::new),
            all: request.prompt.clone(),
            fed,
            sampler: Sampler::new(request.sampler)?,
            stop: StopStrings::new(request.stop.clone()),
            stream: tokenizer.map(Tokenizer::stream),
            is_done: request.new_tokens_max == 0,
            request,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Tokens that the model has not seen.
    pub(super) fn waiting(&self) -> &[u32] {
        &self.all[self.fed..]
    }

    /// New tokens that may still come.
    pub(super) fn left(&self) -> usize {
        self.request.new_tokens_max - self.tokens.len()
    }

    /// Whether it still reads its prompt.
    pub(super) fn is_reading(&self) -> bool {
        self.fed < self.request.prompt.len()
    }

    /// Notes that the model has seen `count` more.
    pub(super) fn feed(&mut self, count: usize) {
        self.fed += count;
    }

    /// Chooses the next token, and gives the text that is certain now.
    pub(super) fn take(&mut self, logits: &[f32]) -> Result<String> {
        if let Some(digests) = &mut self.digests {
            digests.push(digest(logits));
        }
        let token = self.sampler.next(logits, &self.all);
        self.tokens.push(token);
        self.all.push(token);
        let is_end = self.request.end_tokens.contains(&token);
        self.is_done = is_end || self.tokens.len() >= self.request.new_tokens_max;
        let Some(stream) = self.stream.as_mut() else {
            return Ok(String::new());
        };
        let mut piece = String::new();
        if !is_end && let Some(text) = stream.push(token)? {
            piece = self.stop.push(&text);
        }
        self.is_done |= self.stop.found();
        if self.is_done && !self.stop.found() {
            piece.push_str(&self.stop.push(&stream.finish()?));
            piece.push_str(&self.stop.finish());
        }
        self.text.get_or_insert_default().push_str(&piece);
        Ok(piece)
    }
}

/// sha256 of logits, as f32 in little-endian order.
pub(super) fn digest(logits: &[f32]) -> [u8; 32] {
    let mut sha256 = Sha256::default();
    let mut bytes = [0; 4096];
    for part in logits.chunks(bytes.len() / size_of::<f32>()) {
        let (words, _) = bytes.as_chunks_mut::<4>();
        for (word, logit) in words.iter_mut().zip(part) {
            *word = logit.to_le_bytes();
        }
        sha256.update(&bytes[..size_of_val(part)]);
    }
    sha256.finish()
}
