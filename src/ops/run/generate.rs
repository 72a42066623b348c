//! Passes over the weights, each shared by all texts that are being written.

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use std::time::Duration;
use std::time::Instant;

use crate::base::Progress;
use crate::base::Result;
use crate::exec::Engine;
use crate::exec::Row;
use crate::exec::Sequence;
use crate::ops::run::answer::Answer;

/// A text, and what the model keeps of it.
#[derive(Debug)]
pub(super) struct Slot<'t> {
    pub(super) answer: Answer<'t>,
    pub(super) sequence: Sequence,
}

/// Who hears of what comes, text by text.
pub(super) trait Listener {
    /// Logits of a position of the prompt.
    fn prompt_logits(&mut self, slot: usize, logits: &[f32]) -> Result<()>;
    /// Logits by which the next token is chosen.
    fn logits(&mut self, slot: usize, logits: &[f32]) -> Result<()>;
    /// Text that is certain now.
    fn text(&mut self, slot: usize, text: &str) -> Result<()>;
}

/// How passes are made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassOptions {
    /// Rows of one, at most.
    pub(super) rows_max: usize,
    /// Whether the logits of all positions are wanted.
    pub(super) all_logits: bool,
    /// Whether progress is told of while tokens are written: not where they are seen themselves.
    pub(super) tells_of_writing: bool,
}

/// How long it took, and how much there was.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timing {
    prefill: Duration,
    prefill_tokens: usize,
    decode: Duration,
    decode_tokens: usize,
}

impl Timing {
    pub(super) fn prefill_rate(&self) -> f64 {
        self.prefill_tokens as f64 / self.prefill.as_secs_f64().max(1e-9)
    }

    /// None where no token came after the first.
    pub(super) fn decode_rate(&self) -> Option<f64> {
        let rate = self.decode_tokens as f64 / self.decode.as_secs_f64().max(1e-9);
        (self.decode_tokens > 0).then_some(rate)
    }
}

/// What progress is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Reading,
    Writing,
}

/// What is told of passes: of those that read, and of those that write if nobody sees the text.
struct Story<'p> {
    progress: &'p dyn Progress,
    phase: Option<Phase>,
    options: PassOptions,
    pass_len: u64,
}

impl Story<'_> {
    /// A pass begins; at most `left` tokens will still be written.
    fn pass(&mut self, is_prefill: bool, left: usize) {
        if !is_prefill {
            self.is_read();
        }
        if self.phase.is_none() && self.options.tells_of_writing {
            self.progress.begin("writing", left as u64 * self.pass_len);
            self.phase = Some(Phase::Writing);
        }
    }

    /// Prompts are read: the line goes, as text may come.
    fn is_read(&mut self) {
        if self.phase == Some(Phase::Reading) {
            self.progress.end();
            self.phase = None;
        }
    }

    fn advance(&self, bytes: u64) -> Result<()> {
        if self.phase.is_some() {
            self.progress.advance(bytes);
        }
        self.progress.check()
    }
}

/// Rows of one pass, and which of them want logits.
#[derive(Debug, Default)]
struct Plan {
    rows: Vec<Row>,
    wanted: Vec<usize>,
    /// Whether a part of a prompt is among them.
    is_prefill: bool,
}

/// Writes all texts to their ends.
pub(super) fn generate(
    engine: &mut Engine,
    slots: &mut [Slot<'_>],
    options: PassOptions,
    listener: &mut dyn Listener,
    progress: &dyn Progress,
) -> Result<Timing> {
    let mut timing = Timing::default();
    let pass_len = engine.pass_len();
    let waiting: usize = slots.iter().map(|slot| slot.answer.waiting().len()).sum();
    let passes = waiting.div_ceil(options.rows_max) as u64;
    progress.begin("reading the prompt", passes * pass_len);
    let mut story = Story {
        progress,
        phase: Some(Phase::Reading),
        options,
        pass_len,
    };
    while let Some(plan) = plan(slots, options) {
        let started = Instant::now();
        let left = slots.iter().map(|slot| slot.answer.left()).max();
        story.pass(plan.is_prefill, left.unwrap_or(0));
        let mut sequences: Vec<&mut Sequence> =
            slots.iter_mut().map(|slot| &mut slot.sequence).collect();
        // what comes after a pass is known but for texts that end
        let more = Some(true).filter(|_| goes_on(&plan, options));
        let logits = engine.pass(&plan.rows, &plan.wanted, &mut sequences, more, &|bytes| {
            story.advance(bytes)
        })?;
        let vocabulary = engine.program().vocabulary;
        for row in &plan.rows {
            slots[row.sequence].answer.feed(1);
        }
        for (&at, logits) in plan.wanted.iter().zip(logits.chunks_exact(vocabulary)) {
            let Row {
                sequence, position, ..
            } = plan.rows[at];
            let answer = &mut slots[sequence].answer;
            if options.all_logits && position < answer.request.prompt.len() {
                listener.prompt_logits(sequence, logits)?;
            }
            if position + 1 < answer.request.prompt.len() {
                continue;
            }
            listener.logits(sequence, logits)?;
            let text = answer.take(logits)?;
            if slots.iter().all(|slot| !slot.answer.is_reading()) {
                story.is_read();
            }
            listener.text(sequence, &text)?;
        }
        let took = started.elapsed();
        if plan.is_prefill {
            timing.prefill += took;
            timing.prefill_tokens += plan.rows.len();
        } else {
            timing.decode += took;
            timing.decode_tokens += plan.rows.len();
        }
    }
    if story.phase.is_some() {
        progress.end();
    }
    Ok(timing)
}

/// One row of each text that is written, and as many as there is room for of those that are read.
fn plan(slots: &[Slot<'_>], options: PassOptions) -> Option<Plan> {
    let mut plan = Plan::default();
    let mut room = options.rows_max;
    let open = slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !slot.answer.is_done());
    let (reading, writing): (Vec<_>, Vec<_>) = open.partition(|(_, slot)| slot.answer.is_reading());
    for (number, slot) in writing.into_iter().chain(reading) {
        let waiting = slot.answer.waiting();
        let count = waiting.len().min(room);
        let is_last = count == waiting.len();
        plan.is_prefill |= slot.answer.is_reading() && count > 0;
        for (at, &token) in waiting[..count].iter().enumerate() {
            if options.all_logits || (is_last && at + 1 == count) {
                plan.wanted.push(plan.rows.len());
            }
            plan.rows.push(Row {
                sequence: number,
                position: slot.sequence.len() + at,
                token,
            });
        }
        room -= count;
        if room == 0 {
            break;
        }
    }
    (!plan.rows.is_empty()).then_some(plan)
}

/// Whether a pass with logits will most likely follow.
fn goes_on(plan: &Plan, options: PassOptions) -> bool {
    !plan.wanted.is_empty() || options.all_logits
}
