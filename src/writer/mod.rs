//! The write side: files in, one image out. The blocks are coded on all cores, written in order,
//! and the digests of the originals are taken beside the coding.

mod coded;
mod data;
mod dedup;
mod delta;
mod digests;
pub mod image;
mod image_writer;
mod journal;
mod large;
pub mod measure;
mod outline;
mod pooled;
pub mod remux;
mod source;
mod task;

pub use image::Written;
pub use image::write_image;
pub use image_writer::Unsealed;
pub use remux::MovedSpan;
pub use remux::write_moved;
pub use source::Base;
pub use source::Source;
pub use source::WriteOptions;
