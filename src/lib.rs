//! Lossless compression for model weights.
//!
//! The data go one way: file -> [`archive`] -> blocks -> [`codec`] -> bytes. A room is a folder of
//! `src/`; it uses only rooms on floors below its own, which `tests/it/architecture` holds:
//!
//! | floor | rooms |
//! |---|---|
//! | 7 | `cli`: words in, words out |
//! | 6 | `ops`: one file for each verb |
//! | 5 | `exec`: runs a language model |
//! | 4 | `plan`: what is known of this machine |
//! | 3 | `archive`: read side; `writer`: write side |
//! | 2 | `codec`: blocks coded, and back; `format`: what lies where; `bgsm`: the Python package |
//! | 1 | `tensor`: a checkpoint; `entropy`: coders; `parity`: after damage; `text`: tokens |
//! |   | `kernels`: matrix products, attention, norms over plain slices |
//! | 0 | `base`: the error, `ReadAt`, limits, digests, atomic files, progress |

#[cfg(not(target_pointer_width = "64"))]
compile_error!("bigsmall needs a 64-bit platform: sizes of models do not fit in 32 bits");

pub mod archive;
pub mod base;
pub mod bgsm;
pub mod cli;
pub mod codec;
pub mod entropy;
#[cfg(feature = "run")]
pub mod exec;
pub mod format;
#[cfg(feature = "run")]
pub mod kernels;
pub mod ops;
pub mod parity;
#[cfg(feature = "run")]
pub mod plan;
pub mod tensor;
#[cfg(feature = "run")]
pub mod text;
pub(crate) mod writer;
