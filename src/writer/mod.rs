//! The write side: files in, one image out. The blocks are coded on all cores, written in order,
//! and the digests of the originals are taken beside the coding.

mod coded;
mod data;
mod dedup;
mod delta;
mod digests;
pub(crate) mod image;
mod image_writer;
mod journal;
mod large;
pub(crate) mod measure;
mod outline;
mod pooled;
pub(crate) mod remux;
mod source;
mod task;

pub(crate) use image::write_image;
pub(crate) use remux::MovedSpan;
pub(crate) use remux::write_moved;
pub(crate) use source::Base;
pub(crate) use source::Source;
pub(crate) use source::WriteOptions;
