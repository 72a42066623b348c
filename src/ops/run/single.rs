//! One prompt, one answer.

use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::base::memory;
use crate::ops::run::Audience;
use crate::ops::run::Placement;
use crate::ops::run::Prompt;
use crate::ops::run::RunOptions;
use crate::ops::run::RunReport;
use crate::ops::run::answer::Answer;
use crate::ops::run::generate;
use crate::ops::run::generate::Listener;
use crate::ops::run::generate::Slot;
use crate::ops::run::locate::Located;
use crate::ops::run::logits::LogitsFile;
use crate::ops::run::prompt;
use crate::ops::run::receipt::OriginalDigest;
use crate::ops::run::receipt::Receipt;
use crate::ops::run::session;
use crate::ops::run::session::Companions;
use crate::ops::run::session::Load;

/// Logits go to a file, text to the audience.
struct Ears<'a> {
    logits: Option<&'a mut LogitsFile>,
    audience: &'a mut dyn Audience,
}

impl Listener for Ears<'_> {
    fn prompt_logits(&mut self, _: usize, logits: &[f32]) -> Result<()> {
        if let Some(file) = &mut self.logits {
            file.prompt(logits);
        }
        Ok(())
    }

    fn logits(&mut self, _: usize, logits: &[f32]) -> Result<()> {
        if let Some(file) = &mut self.logits {
            file.step(logits);
        }
        Ok(())
    }

    fn text(&mut self, _: usize, text: &str) -> Result<()> {
        self.audience.text(text)
    }
}

/// Runs a model with one prompt.
pub(crate) fn run(
    options: &RunOptions,
    prompt: &Prompt,
    audience: &mut dyn Audience,
    progress: &dyn Progress,
) -> Result<RunReport> {
    let located = Located::open(&options.model, &options.bases)?;
    let program = session::program(&located)?;
    let companions = Companions::open(&located)?;
    let new_tokens_max = options.new_tokens_max;
    let request = prompt::request(prompt, &options.sampling, new_tokens_max, &companions)?;
    let prompt_len = request.prompt.len();
    let context = session::context(options, prompt_len + new_tokens_max)?;
    if let Some(max) = program
        .context_max
        .filter(|&max| prompt_len + new_tokens_max > max)
    {
        audience.told(&format!(
            "the model was made for texts of {max} tokens at most"
        ));
    }
    let tokenizer = companions.tokenizer.as_ref();
    let answer = Answer::new(request, tokenizer, 0, options.receipt.is_some())?;
    let mut logits = match &options.logits {
        Some(path) => Some(LogitsFile::create(path)?),
        None => None,
    };
    let load = Load {
        positions: context,
        prompt_len,
        texts: 1,
        all_logits: options.all_logits,
        kept_len: if logits.is_some() {
            LogitsFile::memory_bytes(options, prompt_len, program.vocabulary)
        } else {
            0
        },
    };
    let mut started = session::start(&located, program, options, load, (audience, progress))?;
    let sequence = started.engine.sequence(context, prompt_len);
    let mut slots = [Slot { answer, sequence }];
    let mut ears = Ears {
        logits: logits.as_mut(),
        audience,
    };
    let engine = &mut started.engine;
    let timing = generate::generate(engine, &mut slots, started.pass, &mut ears, progress)?;
    let [Slot { answer, sequence }] = slots;
    if let Some(logits) = logits {
        logits.finish(progress)?;
    }
    let promised_bytes = started.demand.total();
    let receipt = match &options.receipt {
        None => None,
        Some(path) => {
            let mut receipt = receipt(&answer, &located, progress)?;
            receipt.family.clone_from(&started.engine.program().family);
            receipt.is_long = sequence.is_long();
            (receipt.promised_bytes, receipt.peak_bytes) = (promised_bytes, memory::peak_bytes());
            receipt.write(path, progress)?;
            Some(receipt)
        }
    };
    Ok(RunReport {
        text: answer.text,
        tokens: answer.tokens,
        prompt_tokens: prompt_len,
        promised_bytes,
        peak_bytes: memory::peak_bytes(),
        prefill_tokens_per_second: timing.prefill_rate(),
        decode_tokens_per_second: timing.decode_rate(),
        load_seconds: started.load_seconds,
        placement: Placement::of(&started.demand),
        receipt,
    })
}

/// What an answer was, and of which files.
fn receipt(answer: &Answer<'_>, located: &Located, progress: &dyn Progress) -> Result<Receipt> {
    let mut receipt = Receipt::new(
        (&answer.request.prompt, &answer.tokens),
        answer.digests.as_deref().unwrap_or_default(),
        &answer.request.sampler,
    );
    receipt.model = originals(located, progress)?;
    if located.model.is_checked() {
        receipt.checked.push("weights".to_owned());
    }
    Ok(receipt)
}

/// sha256 of each original file, computed now.
pub(super) fn originals(located: &Located, progress: &dyn Progress) -> Result<Vec<OriginalDigest>> {
    let mut digests = Vec::new();
    for (file, bytes) in located.model.originals() {
        progress.check()?;
        digests.push(OriginalDigest {
            file,
            sha256: digest::hex(&digest::sha256_of(bytes.as_ref())?),
        });
    }
    Ok(digests)
}
