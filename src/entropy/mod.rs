//! Coders over plain slices: counts, frequencies, rANS, planes, clusters. Nothing here knows a file
//! or an error.

pub mod cluster;
pub(crate) mod context;
pub(crate) mod difference;
pub mod frequency;
pub mod planes;
pub mod r16;
pub mod r32;
pub mod simd;
