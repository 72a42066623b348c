//! A model that is ready: tokens in, logits out.

use std::sync::Arc;

use crate::archive::Model;
use crate::base::Error;
use crate::base::Result;
use crate::base::units;
use crate::exec::config::Config;
use crate::exec::families;
use crate::exec::forward;
use crate::exec::forward::Pass;
use crate::exec::forward::Row;
use crate::exec::layout;
use crate::exec::matmul::Workers;
use crate::exec::matrix;
use crate::exec::matrix::Matrix;
use crate::exec::pack;
use crate::exec::place;
use crate::exec::place::Home;
use crate::exec::place::Layout;
use crate::exec::place::Unplaced;
use crate::exec::program::Program;
use crate::exec::state::Sequence;
use crate::exec::stream::Stream;
use crate::exec::weights::Weights;
use crate::kernels;

/// Rows that a pass takes at most: a long prompt is cut into so many.
pub const PASS_ROWS_MAX: usize = 128;
/// What is read ahead of a model on the disk, where nothing else is asked for, and at least.
const RING_LEN: u64 = 64 << 20;
const RING_LEN_MIN: u64 = 4 << 20;
/// What threads, their stacks and the allocator take besides what is counted.
const OVERHEAD_LEN: u64 = 6 << 20;
const OVERHEAD_LEN_OF_THREAD: u64 = 1 << 20;

/// What the memory is needed for, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights in memory, as they are.
    pub plain: u64,
    /// Weights in memory, smaller than they are.
    pub compressed: u64,
    /// Weights on the disk, of each pass.
    pub streamed: u64,
    /// What is read ahead of these.
    pub ring: u64,
    /// Everything else.
    pub fixed: u64,
}

impl MemoryPlan {
    /// All that is in memory.
    pub fn total(&self) -> u64 {
        self.plain + self.compressed + self.ring + self.fixed
    }
}

/// How a model is run.
#[derive(Debug, Clone, Copy)]
pub struct EngineOptions {
    /// Threads that compute.
    pub threads: usize,
    /// Bytes that all of the process may take.
    pub budget: u64,
    /// Everything comes from the disk, even where there is memory.
    pub is_streamed: bool,
    /// Positions of all texts together.
    pub positions: usize,
    /// Rows of a pass, and how many of these want logits.
    pub rows: (usize, usize),
    /// What the process takes already.
    pub taken: u64,
    /// How weights are kept where there is memory for any way; none is the one that is measured
    /// to be faster.
    pub layout: Option<Layout>,
}

/// A model that was looked at; nothing large is in memory yet.
#[derive(Debug)]
pub struct Survey {
    model: Arc<Model>,
    program: Program,
    unplaced: Vec<Unplaced>,
}

/// A model, and where its weights will be.
#[derive(Debug)]
pub struct Prepared {
    survey: Survey,
    homes: Vec<Home>,
    demand: MemoryPlan,
    workers: Workers,
}

/// The program of a model, from its configuration.
pub fn program_of(config: &Config, model: &Model) -> Result<Program> {
    families::program(config, &|name| model.tensor(name).is_ok())
}

impl Survey {
    /// Looks at all matrices: whether they are those of the program, and how large.
    pub fn new(model: Arc<Model>, program: Program) -> Result<Self> {
        Ok(Self {
            unplaced: place::survey(&model, &program)?,
            model,
            program,
        })
    }

    /// The smallest budget that would do.
    pub fn least_bytes(&self, options: &EngineOptions) -> u64 {
        let (whole, kept) = self.plain_len();
        self.fixed_len(options) + kept + RING_LEN_MIN.min(whole - kept)
    }

    /// Bytes of all matrices as they are, and of those that are kept so in any case.
    fn plain_len(&self) -> (u64, u64) {
        let whole = self.unplaced.iter().map(|matrix| matrix.plain_len).sum();
        let kept = self
            .unplaced
            .iter()
            .filter(|matrix| matrix.linear.is_transposed);
        (whole, kept.map(|matrix| matrix.plain_len).sum())
    }

    /// Bytes besides weights: what the process takes, small tensors, caches of the texts,
    /// activations, and a tile of each thread.
    fn fixed_len(&self, options: &EngineOptions) -> u64 {
        let (program, unplaced) = (&self.program, &self.unplaced);
        let tile = unplaced
            .iter()
            .map(|matrix| matrix.tile_len.min(matrix.plain_len))
            .max();
        let tile = tile.unwrap_or(0).max(matrix::TILE_LEN);
        let panel = unplaced
            .iter()
            .map(|matrix| kernels::padded(matrix.linear.columns))
            .max();
        let panel = kernels::kernels().panel_len(panel.unwrap_or(0)) * size_of::<f32>();
        // decoding takes about as much again as a tile, beside it
        let of_thread = 2 * tile + panel as u64 + OVERHEAD_LEN_OF_THREAD;
        let (rows, logits) = options.rows;
        let caches = (options.positions as u64).saturating_mul(program.position_len() as u64);
        // what nobody has is enough to be refused
        caches.min(1 << 60)
            + options.taken
            + Weights::small_len(program)
            + forward::activation_bytes(program, rows, logits) as u64
            + options.threads as u64 * of_thread
            + OVERHEAD_LEN
    }

    /// Decides where weights go.
    pub fn prepare(self, options: EngineOptions) -> Result<Prepared> {
        let least = self.least_bytes(&options);
        if least > options.budget {
            let what = format!(
                "it does not fit: {} are needed at least, and {} may be taken",
                units::human_bytes(least),
                units::human_bytes(options.budget)
            );
            return Err(Error::over_limit(what));
        }
        let workers = Workers::new(options.threads, kernels::kernels())?;
        let packable = self.unplaced.iter().filter(|matrix| matrix.is_packable());
        let packable: u64 = packable.map(|matrix| matrix.plain_len).sum();
        let layout = match options.layout {
            Some(layout) => layout,
            None if options.is_streamed => Layout::Plain,
            None => {
                let free = options.budget - self.fixed_len(&options);
                layout::faster(&workers, packable, free)?
            }
        };
        let (mut homes, mut demand) = self.placed(&options, Some(layout));
        // what packing takes besides may be what does not fit any more
        if demand.total() > options.budget {
            (homes, demand) = self.placed(&options, None);
        }
        Ok(Prepared {
            survey: self,
            homes,
            demand,
            workers,
        })
    }

    /// Where weights go, and what memory is then needed for; without a layout nothing is packed.
    fn placed(&self, options: &EngineOptions, layout: Option<Layout>) -> (Vec<Home>, MemoryPlan) {
        let mut fixed = self.fixed_len(options);
        let (whole, kept) = self.plain_len();
        let place = |budget| place::place(&self.unplaced, budget, options.is_streamed, layout);
        let mut free = options.budget - fixed;
        let mut homes = place(free);
        if homes.contains(&Home::Packed) {
            let of_threads = options.threads as u64 * pack::scratch_len();
            fixed += of_threads;
            free = free.saturating_sub(of_threads);
            homes = place(free);
        }
        let with_homes = || self.unplaced.iter().zip(&homes);
        let mut ring = 0;
        if with_homes().any(|(_, home)| *home == Home::Streamed) {
            ring = RING_LEN.min(free / 4).min(whole - kept);
            ring = ring.max(RING_LEN_MIN.min(whole - kept));
        } else if with_homes().any(|(matrix, home)| *home == Home::Packed && !matrix.is_coded) {
            // what cannot be packed after all, and is in no image, will come from the disk
            ring = RING_LEN_MIN;
        }
        if ring > 0 {
            homes = place(free.saturating_sub(ring));
        }
        let demand = self.demand(&homes, ring, fixed);
        (homes, demand)
    }

    fn demand(&self, homes: &[Home], ring: u64, fixed: u64) -> MemoryPlan {
        let mut demand = MemoryPlan {
            ring,
            fixed,
            ..MemoryPlan::default()
        };
        for (matrix, home) in self.unplaced.iter().zip(homes) {
            let held = matrix.held_len(*home);
            match home {
                Home::Plain => demand.plain += held,
                Home::Packed | Home::Coded => demand.compressed += held,
                Home::Streamed => demand.streamed += matrix.stored_len,
            }
        }
        demand
    }
}

impl Prepared {
    /// What memory is needed for.
    pub fn demand(&self) -> MemoryPlan {
        self.demand
    }

    /// Bytes that are read to make it ready.
    pub fn load_len(&self) -> u64 {
        let kept = self.survey.unplaced.iter().zip(&self.homes);
        let kept = kept.filter(|(_, home)| **home != Home::Streamed);
        kept.map(|(matrix, _)| matrix.plain_len).sum()
    }

    /// Reads what is kept in memory; `each` hears of every step's bytes.
    pub fn load(self, each: &(dyn Fn(u64) -> Result<()> + Sync)) -> Result<Engine> {
        let Survey {
            model,
            program,
            unplaced,
        } = self.survey;
        let workers = self.workers;
        let weights = Weights::load(&model, &program, &unplaced, &self.homes, &workers, each)?;
        let streamed = weights.streamed.clone();
        let stream = Stream::new(Arc::clone(&model), streamed, self.demand.ring)?;
        Ok(Engine {
            model,
            program,
            weights,
            workers,
            stream,
            ahead: None,
        })
    }
}

/// A model that is ready.
#[derive(Debug)]
pub struct Engine {
    model: Arc<Model>,
    program: Program,
    weights: Weights,
    workers: Workers,
    stream: Stream,
    /// A pass that is being read ahead: what its first tile is called, and how many these are.
    ahead: Option<(u64, usize)>,
}

impl Engine {
    /// What is computed.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// An empty text with room for `capacity` positions, whose prompt has `prompt_len` tokens.
    pub fn sequence(&self, capacity: usize, prompt_len: usize) -> Sequence {
        Sequence::new(&self.program, capacity, prompt_len)
    }

    /// Bytes of weights that a pass goes through, as they are.
    pub fn pass_len(&self) -> u64 {
        self.weights.matrices.iter().map(Matrix::len).sum()
    }

    /// One pass: tokens of texts, each behind what its text has. Gives the logits of the rows in
    /// `wanted`, one behind another. `more`: another pass will most likely follow, with logits or
    /// without. `tell` hears of each layer's bytes, and may end it.
    pub fn pass(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        sequences: &mut [&mut Sequence],
        more: Option<bool>,
        tell: &(dyn Fn(u64) -> Result<()> + Sync),
    ) -> Result<Vec<f32>> {
        let vocabulary = self.program.vocabulary;
        if let Some(row) = rows.iter().find(|row| row.token as usize >= vocabulary) {
            let what = format!("token {} of a vocabulary of {vocabulary}", row.token);
            return Err(Error::invalid(what));
        }
        let count = self.tiles_of(!wanted.is_empty());
        let first_tile = match self.ahead.take() {
            Some((first, expected)) if expected == count => first,
            // another kind of pass was expected: what was read of it is used up
            Some((first, expected)) => {
                self.skip(first, expected)?;
                self.stream.expect(count)
            }
            None => self.stream.expect(count),
        };
        if let Some(with_logits) = more {
            let count = self.tiles_of(with_logits);
            self.ahead = Some((self.stream.expect(count), count));
        }
        let pass = Pass {
            program: &self.program,
            weights: &self.weights,
            workers: &self.workers,
            model: &self.model,
            stream: &self.stream,
            first_tile,
        };
        let logits = self
            .workers
            .install(|| pass.run(rows, wanted, sequences, tell))?;
        for row in rows {
            sequences[row.sequence].grow(1);
        }
        Ok(logits)
    }

    fn tiles_of(&self, with_logits: bool) -> usize {
        if with_logits {
            self.weights.streamed.len()
        } else {
            self.weights.streamed_before_head
        }
    }

    fn skip(&self, first: u64, count: usize) -> Result<()> {
        for number in 0..count {
            let loaded = self.stream.take(first + number as u64)?;
            self.stream.give_back(loaded);
        }
        Ok(())
    }
}
