//! Many prompts from a file of JSON lines: each pass over the weights is shared among them, and
//! each answer is the same as alone.

use std::io::BufRead;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Value;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::ops::run::Audience;
use crate::ops::run::Prompt;
use crate::ops::run::Request;
use crate::ops::run::RunOptions;
use crate::ops::run::Sampling;
use crate::ops::run::answer::Answer;
use crate::ops::run::generate;
use crate::ops::run::generate::Listener;
use crate::ops::run::generate::Slot;
use crate::ops::run::locate::Located;
use crate::ops::run::prompt;
use crate::ops::run::session;
use crate::ops::run::session::Companions;
use crate::ops::run::session::Load;
use crate::text::Message;

/// Texts that are written at the same time.
const TEXTS_MAX: usize = 32;
/// The longest line.
const LINE_LEN_MAX: u64 = 64 << 20;

/// A line of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Value,
    prompt: Option<String>,
    prompt_ids: Option<Vec<u32>>,
    messages: Option<Vec<LineMessage>>,
    max_new_tokens: Option<usize>,
    temperature: Option<f32>,
    top_k: Option<u32>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
    #[serde(default)]
    stop: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct LineMessage {
    role: String,
    content: String,
}

/// An answer, as a line.
#[derive(Debug, Serialize)]
struct AnswerLine<'a> {
    id: &'a Value,
    text: Option<&'a str>,
    tokens: &'a [u32],
    prompt_tokens: usize,
}

impl Line {
    fn prompt(&self) -> Result<Prompt> {
        match (&self.prompt, &self.prompt_ids, &self.messages) {
            (Some(text), None, None) => Ok(Prompt::Text(text.clone())),
            (None, Some(ids), None) => Ok(Prompt::Ids(ids.clone())),
            (None, None, Some(messages)) => {
                let messages = messages.iter();
                let messages = messages.map(|said| Message::new(&said.role, &said.content));
                Ok(Prompt::Messages(messages.collect()))
            }
            _ => Err(Error::invalid(
                "a line has one of `prompt`, `prompt_ids` and `messages`",
            )),
        }
    }

    fn sampling(&self) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
            stop: self.stop.clone(),
        }
    }
}

/// Nobody hears of single steps.
struct Nobody;

impl Listener for Nobody {
    fn prompt_logits(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn text(&mut self, _: usize, _: &str) -> Result<()> {
        Ok(())
    }
}

/// Answers all prompts of `lines`, which were read from `path`; the audience gets JSON lines in
/// their order.
pub(crate) fn batch(
    (lines, path): (&mut dyn BufRead, &Path),
    options: &RunOptions,
    audience: &mut dyn Audience,
    progress: &dyn Progress,
) -> Result<()> {
    let located = Located::open(&options.model, &options.bases)?;
    let program = session::program(&located)?;
    let companions = Companions::open(&located)?;
    let lines = read(lines, path)?;
    let asked = lines.iter().enumerate().map(|(number, line)| {
        let request = line.prompt().and_then(|prompt| {
            let new_tokens_max = line.max_new_tokens.unwrap_or(options.new_tokens_max);
            let sampling = line.sampling().or(&options.sampling);
            let request = prompt::request(&prompt, &sampling, new_tokens_max, &companions)?;
            let needed = request.prompt.len() + new_tokens_max;
            Ok((session::context(options, needed)?, request))
        });
        request.map_err(|e| Error::invalid(format!("line {}: {e}", number + 1)).file(path))
    });
    let asked: Vec<(usize, Request)> = asked.collect::<Result<_>>()?;
    let groups = || asked.chunks(TEXTS_MAX);
    let of_group = |group: &[(usize, Request)]| group.iter().map(|(context, _)| context).sum();
    let prompt_len =
        |group: &[(usize, Request)]| group.iter().map(|(_, request)| request.prompt.len()).sum();
    let load = Load {
        positions: groups().map(of_group).max().unwrap_or(0),
        prompt_len: groups().map(prompt_len).max().unwrap_or(1),
        texts: asked.len().min(TEXTS_MAX),
        all_logits: false,
        kept_len: 0,
    };
    let mut started = session::start(&located, program, options, load, (audience, progress))?;
    for (group, lines) in groups().zip(lines.chunks(TEXTS_MAX)) {
        let slot = |(context, request): &(usize, Request)| {
            let sequence = started.engine.sequence(*context, request.prompt.len());
            let tokenizer = companions.tokenizer.as_ref();
            let answer = Answer::new(request.clone(), tokenizer, 0, false)?;
            Ok(Slot { answer, sequence })
        };
        let mut slots = group.iter().map(slot).collect::<Result<Vec<_>>>()?;
        let engine = &mut started.engine;
        generate::generate(engine, &mut slots, started.pass, &mut Nobody, progress)?;
        for (slot, line) in slots.iter().zip(lines) {
            let answer = AnswerLine {
                id: &line.id,
                text: slot.answer.text.as_deref(),
                tokens: &slot.answer.tokens,
                prompt_tokens: slot.answer.request.prompt.len(),
            };
            let json = serde_json::to_string(&answer)
                .map_err(|e| Error::invalid(format!("an answer cannot be written: {e}")))?;
            audience.text(&format!("{json}\n"))?;
        }
    }
    Ok(())
}

fn read(lines: &mut dyn BufRead, path: &Path) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    let mut text = Vec::new();
    loop {
        text.clear();
        let mut bounded = std::io::Read::take(&mut *lines, LINE_LEN_MAX);
        let read = bounded.read_until(b'\n', &mut text);
        let read = read.map_err(|e| Error::io("cannot read", path, e))?;
        if read == 0 {
            break;
        }
        if read as u64 == LINE_LEN_MAX {
            return Err(Error::over_limit("a line this long is no prompt").file(path));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line = serde_json::from_slice(&text)
            .map_err(|e| Error::invalid(format!("line {}: {e}", all.len() + 1)).file(path))?;
        all.push(line);
    }
    if all.is_empty() {
        return Err(Error::invalid("no prompts").file(path));
    }
    Ok(all)
}
