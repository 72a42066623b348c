//! A model that is ready to be asked, within what was promised.

use std::time::Instant;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::memory;
use crate::base::units;
use crate::exec::Engine;
use crate::exec::Program;
use crate::exec::engine;
use crate::exec::engine::EngineOptions;
use crate::exec::engine::MemoryPlan;
use crate::exec::engine::PASS_ROWS_MAX;
use crate::exec::engine::Survey;
use crate::ops::run::Audience;
use crate::ops::run::RunOptions;
use crate::ops::run::generate::PassOptions;
use crate::ops::run::locate::Located;
use crate::text::ChatTemplate;
use crate::text::GenerationConfig;
use crate::text::Tokenizer;

/// A context is a multiple of so many positions.
const CONTEXT_STEP: usize = 256;
/// Of the free memory, this part is left to others.
const LEFT_TO_OTHERS: u64 = 16;
/// Rows of a pass of which all want logits: each is as long as the vocabulary.
const LOGITS_ROWS_MAX: usize = 16;

/// What lies beside a model.
#[derive(Debug)]
pub(super) struct Companions {
    pub(super) tokenizer: Option<Tokenizer>,
    pub(super) generation: GenerationConfig,
    template: Option<ChatTemplate>,
}

impl Companions {
    pub(super) fn open(located: &Located) -> Result<Self> {
        let folder = &located.companions;
        let tokenizer = Tokenizer::open(folder)?;
        let template = match &tokenizer {
            Some(tokenizer) => ChatTemplate::open(folder, tokenizer)?,
            None => None,
        };
        Ok(Self {
            tokenizer,
            generation: GenerationConfig::open(folder)?,
            template,
        })
    }

    pub(super) fn template(&self) -> Result<&ChatTemplate> {
        self.template.as_ref().ok_or_else(|| {
            Error::invalid("the model has no chat template")
                .hint("`--prompt` takes a text that the model goes on with")
        })
    }
}

/// How much of a model is asked at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Positions of all texts together.
    pub(super) positions: usize,
    /// Tokens of all prompts together.
    pub(super) prompt_len: usize,
    /// Texts that are written at the same time.
    pub(super) texts: usize,
    /// Whether logits of all positions are wanted.
    pub(super) all_logits: bool,
    /// Bytes that results take which are kept until the end.
    pub(super) kept_len: u64,
}

/// A model that is ready.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) engine: Engine,
    pub(super) demand: MemoryPlan,
    pub(super) load_seconds: f64,
    pub(super) pass: PassOptions,
}

/// Positions that a text with so many tokens has room for.
pub(super) fn context(options: &RunOptions, needed: usize) -> Result<usize> {
    let context = options
        .context
        .unwrap_or(needed.next_multiple_of(CONTEXT_STEP));
    if needed > context {
        let what = format!(
            "prompt and new tokens are up to {needed}, and the context has room for {context}"
        );
        return Err(Error::invalid(what).hint("a larger `--context`, or fewer `--max-new-tokens`"));
    }
    Ok(context)
}

/// Says what is promised, then reads weights.
pub(super) fn start(
    located: &Located,
    program: Program,
    options: &RunOptions,
    load: Load,
    (audience, progress): (&dyn Audience, &dyn Progress),
) -> Result<Session> {
    let started = Instant::now();
    let rows_max = if load.all_logits {
        LOGITS_ROWS_MAX
    } else {
        PASS_ROWS_MAX
    };
    let rows_max = rows_max.max(load.texts);
    let rows = load.prompt_len.clamp(1, rows_max);
    let free = memory::available_bytes().unwrap_or(u64::MAX);
    let taken = memory::peak_bytes();
    // what is taken is not free any more, and is ours
    let budget = (free - free / LEFT_TO_OTHERS).saturating_add(taken);
    let engine_options = EngineOptions {
        threads: options.threads,
        budget: options.ram.unwrap_or(budget),
        is_streamed: options.is_streamed,
        positions: load.positions,
        rows: (rows, if load.all_logits { rows } else { load.texts }),
        taken: taken.saturating_add(load.kept_len),
        layout: None,
    };
    let survey = Survey::new(located.model.clone(), program)?;
    // whole MiB, and one more: what the process takes already is not the same each time
    let least = (survey.least_bytes(&engine_options) >> 20) + 2;
    let prepared = survey.prepare(engine_options);
    let prepared = prepared.map_err(|e| e.hint(format!("`--ram {least}M` would do")))?;
    let demand = prepared.demand();
    audience.told(&promise(&demand));
    progress.begin("reading weights", prepared.load_len());
    let engine = prepared.load(&|bytes| {
        progress.advance(bytes);
        progress.check()
    })?;
    progress.end();
    Ok(Session {
        engine,
        demand,
        load_seconds: started.elapsed().as_secs_f64(),
        pass: PassOptions {
            tells_of_writing: !audience.shows_text(),
            rows_max,
            all_logits: load.all_logits,
        },
    })
}

/// The program of a model.
pub(super) fn program(located: &Located) -> Result<Program> {
    engine::program_of(&located.config()?, &located.model)
}

fn promise(demand: &MemoryPlan) -> String {
    let weights = [
        (demand.plain, "as they are"),
        (demand.compressed, "compressed"),
        (demand.streamed, "from the disk in each pass"),
    ];
    let weights = weights.iter().filter(|(bytes, _)| *bytes > 0);
    let weights: Vec<String> = weights
        .map(|(bytes, how)| format!("{} {how}", units::human_bytes(*bytes)))
        .collect();
    format!(
        "promised: at most {} of memory; weights: {}",
        units::human_bytes(demand.total()),
        weights.join(", ")
    )
}
