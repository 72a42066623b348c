//! Runs a language model: token ids in, logits out, weights as they come out of a [`Model`].
//!
//! ```text
//! config.json -> families -> Program      what is computed, as switches
//! Model       -> weights                  matrices as tiles: plain, packed, coded or streamed
//! Program + weights + Session -> forward  rows of activations, one pass over the weights
//! ```
//!
//! [`Model`]: crate::archive::Model

pub mod config;
pub mod engine;
mod families;
mod forward;
mod layout;
mod matmul;
mod matrix;
mod pack;
mod packed_tiles;
pub mod place;
pub mod program;
mod rope;
mod state;
mod stream;
mod weights;

pub use engine::Engine;
pub use forward::Row;
pub use program::Program;
pub use state::Sequence;
