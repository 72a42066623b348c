//! Here is a block: give me fewer bytes; here are the coded bytes: give me the block. No file, no
//! index, no name of a tensor is known here. What each codec writes is specified in docs/format.md,
//! sections 6 to 8.

pub(crate) mod analyse;
mod block;
pub(crate) mod decode;
pub mod delta;
pub(crate) mod delta_pools;
pub mod encode;
pub mod frequency_table;
mod gain;
pub(crate) mod profile;
mod r16;
mod r32;
mod scratch;
mod simple;
pub mod span;
pub mod tables;
pub(crate) mod transform;

pub use analyse::Analysis;
pub use analyse::Counts;
pub use block::CodedBlock;
pub use decode::decode_block;
pub use decode::decode_two;
pub use decode::is_paired;
pub use encode::SpanCoder;
pub use profile::Profile;
pub use scratch::Scratch;
pub use span::encode_span;
pub use tables::SpanTables;
pub use transform::Transform;
