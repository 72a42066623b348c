//! What a model is asked, as tokens.

use crate::base::Error;
use crate::base::Result;
use crate::ops::run::answer::Request;
use crate::ops::run::session::Companions;
use crate::text::Message;
use crate::text::SamplerOptions;

/// What a model is asked.
#[derive(Debug, Clone)]
pub(crate) enum Prompt {
    /// Ids of tokens, as they are.
    Ids(Vec<u32>),
    /// A text that the model goes on with.
    Text(String),
    /// A conversation, by the template of the model.
    Messages(Vec<Message>),
}

/// How tokens are chosen, where the person says it; else as the makers of the model say.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sampling {
    /// What logits are divided by; 0 takes the largest.
    pub temperature: Option<f32>,
    /// Only so many of the largest.
    pub top_k: Option<u32>,
    /// Only those that together have this probability.
    pub top_p: Option<f32>,
    /// Only those with this part of the largest's probability.
    pub min_p: Option<f32>,
    /// What tokens that were there already are divided by.
    pub repetition_penalty: Option<f32>,
    /// Where random numbers start; none: somewhere else each time.
    pub seed: Option<u64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
}

impl Sampling {
    /// These, where they say something; else `other`.
    #[must_use]
    pub(crate) fn or(self, other: &Self) -> Self {
        Self {
            temperature: self.temperature.or(other.temperature),
            top_k: self.top_k.or(other.top_k),
            top_p: self.top_p.or(other.top_p),
            min_p: self.min_p.or(other.min_p),
            repetition_penalty: self.repetition_penalty.or(other.repetition_penalty),
            seed: self.seed.or(other.seed),
            stop: if self.stop.is_empty() {
                other.stop.clone()
            } else {
                self.stop
            },
        }
    }

    fn options(&self, companions: &Companions) -> SamplerOptions {
        let asks = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some();
        let made = companions
            .generation
            .sampler_options(self.seed.unwrap_or_else(any_seed));
        let temperature = if asks && made.temperature == 0.0 {
            1.0
        } else {
            made.temperature
        };
        SamplerOptions {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k.unwrap_or(made.top_k),
            top_p: self.top_p.unwrap_or(made.top_p),
            min_p: self.min_p.unwrap_or(made.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(made.repetition_penalty),
            seed: made.seed,
        }
    }
}

/// Another number each time.
fn any_seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(0)
}

/// The request of a prompt.
pub(super) fn request(
    prompt: &Prompt,
    sampling: &Sampling,
    new_tokens_max: usize,
    companions: &Companions,
) -> Result<Request> {
    let without_tokenizer = || {
        Error::invalid("the model has no tokenizer.json beside it")
            .hint("`--prompt-ids` takes ids of tokens")
    };
    let prompt = match prompt {
        Prompt::Ids(ids) => ids.clone(),
        Prompt::Text(text) => {
            let tokenizer = companions
                .tokenizer
                .as_ref()
                .ok_or_else(without_tokenizer)?;
            tokenizer.encode(text, true)?
        }
        Prompt::Messages(messages) => {
            let tokenizer = companions
                .tokenizer
                .as_ref()
                .ok_or_else(without_tokenizer)?;
            let template = companions.template()?;
            tokenizer.encode_prompt(&template.render(messages, true)?)?
        }
    };
    Ok(Request {
        prompt,
        new_tokens_max,
        sampler: sampling.options(companions),
        end_tokens: companions.generation.end_tokens.clone(),
        stop: sampling.stop.clone(),
    })
}
