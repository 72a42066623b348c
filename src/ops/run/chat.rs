//! A conversation: what was said stays in the cache from turn to turn.

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::ops::run::Audience;
use crate::ops::run::Prompt;
use crate::ops::run::RunOptions;
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

/// Positions of a conversation, where nobody asked for a number and the model has more.
const CONTEXT_DEFAULT: usize = 4096;

/// The other side of a conversation.
pub(crate) trait Talk: Audience {
    /// What the person says next; none at the end.
    fn next(&mut self) -> Result<Option<String>>;
    /// An answer is over.
    fn answered(&mut self) -> Result<()>;
}

struct Ears<'a>(&'a mut dyn Talk);

impl Listener for Ears<'_> {
    fn prompt_logits(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn logits(&mut self, _: usize, _: &[f32]) -> Result<()> {
        Ok(())
    }

    fn text(&mut self, _: usize, text: &str) -> Result<()> {
        self.0.text(text)
    }
}

/// Talks until the person ends it.
pub(crate) fn chat(
    options: &RunOptions,
    system: Option<&str>,
    talk: &mut dyn Talk,
    progress: &dyn Progress,
) -> Result<()> {
    let located = Located::open(&options.model, &options.bases)?;
    let program = session::program(&located)?;
    let companions = Companions::open(&located)?;
    companions.template()?;
    let made_for = program.context_max.unwrap_or(CONTEXT_DEFAULT);
    let context = options.context.unwrap_or(made_for.min(CONTEXT_DEFAULT));
    let load = Load {
        positions: context,
        prompt_len: context,
        texts: 1,
        all_logits: false,
        kept_len: 0,
    };
    let audience: &dyn Audience = talk;
    let mut started = session::start(&located, program, options, load, (audience, progress))?;
    let mut messages: Vec<Message> = Vec::new();
    messages.extend(system.map(|text| Message::new("system", text)));
    let mut sequence = started.engine.sequence(context, 0);
    // what the cache holds
    let mut cached: Vec<u32> = Vec::new();
    while let Some(said) = talk.next()? {
        messages.push(Message::new("user", said));
        let prompt = Prompt::Messages(messages.clone());
        let sampling = &options.sampling;
        let mut request = prompt::request(&prompt, sampling, options.new_tokens_max, &companions)?;
        let len = request.prompt.len();
        if len >= context {
            let what = format!("the conversation has {len} tokens, and room for {context}");
            return Err(Error::over_limit(what).hint("a larger `--context`"));
        }
        request.new_tokens_max = request.new_tokens_max.min(context - len);
        let fresh = started.engine.sequence(0, len).is_long();
        let same = cached
            .iter()
            .zip(&request.prompt)
            .take_while(|(a, b)| a == b);
        let mut same = same.count().min(len - 1);
        if fresh != sequence.is_long() {
            // other angles from the first token on
            sequence.set_long(fresh);
            same = 0;
        }
        sequence.truncate(same);
        let tokenizer = companions.tokenizer.as_ref();
        let answer = Answer::new(request, tokenizer, same, false)?;
        let mut slots = [Slot { answer, sequence }];
        let mut ears = Ears(talk);
        let engine = &mut started.engine;
        let outcome = generate::generate(engine, &mut slots, started.pass, &mut ears, progress);
        if let Err(error) = outcome {
            // the person wants no more of this answer: the conversation is over as well
            if error.kind() == ErrorKind::Interrupted {
                talk.answered()?;
            }
            return Err(error);
        }
        let [
            Slot {
                answer,
                sequence: grown,
            },
        ] = slots;
        sequence = grown;
        cached = answer.request.prompt;
        cached.extend(&answer.tokens);
        cached.truncate(sequence.len());
        messages.push(Message::new("assistant", answer.text.unwrap_or_default()));
        talk.answered()?;
    }
    Ok(())
}
