//! Here is a block: give me fewer bytes; here are the coded bytes: give me the block. No file, no
//! index, no name of a tensor is known here. What each codec writes is specified in docs/format.md,
//! sections 6 to 8.

pub mod analyse;
mod block;
pub mod decode;
pub mod delta;
pub mod delta_pools;
pub mod encode;
pub mod frequency_table;
mod gain;
pub mod profile;
mod r16;
mod r32;
mod scratch;
mod simple;
pub mod span;
pub mod tables;
pub mod transform;

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
