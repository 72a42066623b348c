//! `generation_config.json`: how the makers of a model want it sampled, and where its answers end.

use serde::Deserialize;
use serde_json::Number;

use crate::base::Error;
use crate::base::Result;
use crate::text::beside;
use crate::text::beside::ModelFolder;
use crate::text::sampler::SamplerOptions;

/// Real ones have some hundred bytes; a `config.json`, up to some hundred thousand.
const LEN_MAX: u64 = 4 << 20;
/// Real ones have up to a dozen.
const END_TOKENS_MAX: usize = 1024;

/// What is read of the file; the rest of it is for others.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct GenerationConfig {
    /// The tokens that end an answer.
    pub end_tokens: Vec<u32>,
    /// Whether tokens are drawn; otherwise the largest is taken.
    pub do_sample: bool,
    /// See [`SamplerOptions`], as the following.
    pub temperature: Option<f32>,
    /// Number of candidates.
    pub top_k: Option<u32>,
    /// Probability of all candidates.
    pub top_p: Option<f32>,
    /// Least probability, relative to the largest.
    pub min_p: Option<f32>,
    /// What tokens that were there already are divided by.
    pub repetition_penalty: Option<f32>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Tokens {
    One(u32),
    Several(Vec<u32>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Page {
    eos_token_id: Option<Tokens>,
    do_sample: Option<bool>,
    temperature: Option<Number>,
    top_k: Option<u32>,
    top_p: Option<Number>,
    min_p: Option<Number>,
    repetition_penalty: Option<Number>,
}

/// What is read of `config.json`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct ModelPage {
    eos_token_id: Option<Tokens>,
    /// Of a model that also sees or hears.
    text_config: Option<Box<Self>>,
}

impl GenerationConfig {
    /// Reads it from a model's folder. Where it says nothing of the end of an answer, `config.json`
    /// is asked.
    ///
    /// # Errors
    /// A file that is no JSON, or whose values mean nothing.
    pub fn open(folder: &(impl ModelFolder + ?Sized)) -> Result<Self> {
        const NAME: &str = "generation_config.json";
        let path = folder.path_of(NAME);
        let page = beside::read_json::<Page>(folder, NAME, LEN_MAX)?.unwrap_or_default();
        let mut config = Self::from_page(page).map_err(|e| e.file(&path))?;
        if config.end_tokens.is_empty() {
            config.end_tokens = Self::end_of_model(folder)?;
        }
        Ok(config)
    }

    /// The options that it asks for. What it does not name is as in transformers: where tokens are
    /// drawn, temperature 1 and the 50 largest; of the rest, each leaves everything as it is.
    pub fn sampler_options(&self, seed: u64) -> SamplerOptions {
        let neutral = SamplerOptions::default();
        let (temperature, top_k) = if self.do_sample {
            (self.temperature.unwrap_or(1.0), self.top_k.unwrap_or(50))
        } else {
            (0.0, self.top_k.unwrap_or(neutral.top_k))
        };
        SamplerOptions {
            temperature,
            top_k,
            top_p: self.top_p.unwrap_or(neutral.top_p),
            min_p: self.min_p.unwrap_or(neutral.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(1.0),
            seed,
        }
    }

    fn from_page(page: Page) -> Result<Self> {
        let config = Self {
            end_tokens: end_tokens(page.eos_token_id)?,
            do_sample: page.do_sample.unwrap_or(false),
            temperature: number(page.temperature),
            top_k: page.top_k,
            top_p: number(page.top_p),
            min_p: number(page.min_p),
            repetition_penalty: number(page.repetition_penalty),
        };
        config.sampler_options(0).check()?;
        // also where it is not used
        let temperature = config.temperature.unwrap_or(1.0);
        SamplerOptions {
            temperature,
            ..config.sampler_options(0)
        }
        .check()?;
        Ok(config)
    }

    fn end_of_model(folder: &(impl ModelFolder + ?Sized)) -> Result<Vec<u32>> {
        const NAME: &str = "config.json";
        let Some(page) = beside::read_json::<ModelPage>(folder, NAME, LEN_MAX)? else {
            return Ok(Vec::new());
        };
        let of_text = page.text_config.and_then(|text| text.eos_token_id);
        end_tokens(page.eos_token_id.or(of_text)).map_err(|e| e.file(&folder.path_of(NAME)))
    }
}

fn end_tokens(tokens: Option<Tokens>) -> Result<Vec<u32>> {
    let mut ids = match tokens {
        None => Vec::new(),
        Some(Tokens::One(id)) => vec![id],
        Some(Tokens::Several(ids)) => ids,
    };
    if ids.len() > END_TOKENS_MAX {
        let what = format!("`eos_token_id` has {} tokens", ids.len());
        return Err(Error::over_limit(what));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

/// A number as `f32`; one beyond its range is infinite, which the check refuses.
fn number(number: Option<Number>) -> Option<f32> {
    number.map(|number| number.as_f64().unwrap_or(f64::NAN) as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<GenerationConfig> {
        GenerationConfig::from_page(serde_json::from_str(json).unwrap())
    }

    #[test]
    fn reads_what_it_knows_and_leaves_the_rest() {
        let json = r#"{"eos_token_id": [151645, 151643], "do_sample": true, "temperature": 0.6,
            "top_k": 20, "top_p": 0.95, "min_p": null, "transformers_version": "5.0", "x": {}}"#;
        let config = read(json).unwrap();
        assert_eq!(config.end_tokens, [151_643, 151_645]);
        let options = config.sampler_options(9);
        let expected = SamplerOptions {
            temperature: 0.6,
            top_k: 20,
            top_p: 0.95,
            seed: 9,
            ..SamplerOptions::default()
        };
        assert_eq!(options, expected);
        assert_eq!(read(r#"{"eos_token_id": 2}"#).unwrap().end_tokens, [2]);
    }

    #[test]
    fn takes_the_largest_unless_sampling_is_asked_for() {
        let config = read(r#"{"temperature": 0.7, "repetition_penalty": 1.1}"#).unwrap();
        let options = config.sampler_options(1);
        assert_eq!(
            (options.temperature, options.repetition_penalty),
            (0.0, 1.1)
        );
        let drawn = read(r#"{"do_sample": true}"#).unwrap().sampler_options(1);
        assert_eq!((drawn.temperature, drawn.top_k), (1.0, 50));
    }

    #[test]
    fn values_without_sense_are_errors() {
        for json in [
            r#"{"temperature": -1}"#,
            r#"{"temperature": 1e300}"#,
            r#"{"top_p": 0}"#,
            r#"{"min_p": 2}"#,
            r#"{"repetition_penalty": 0}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
        for json in [
            r#"{"eos_token_id": -1}"#,
            r#"{"eos_token_id": "</s>"}"#,
            r#"{"eos_token_id": 5000000000}"#,
            r#"{"top_k": 1.5}"#,
            r#"{"do_sample": "yes"}"#,
            r#"{"temperature": "hot"}"#,
        ] {
            assert!(serde_json::from_str::<Page>(json).is_err(), "{json}");
        }
        let many = format!(r#"{{"eos_token_id": {:?}}}"#, vec![1; 2000]);
        assert!(read(&many).is_err());
    }
}
