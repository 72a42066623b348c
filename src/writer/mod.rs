//! The write side: files in, one image out. The blocks are coded on all cores, written in order, and the digests of the
//! originals are taken beside the coding.

mod against;
mod coding;
mod data;
pub mod image;
mod journal;
pub mod measure;
pub mod moved;
mod receipts;
mod small;
mod twins;

pub use image::Base;
pub use image::Source;
pub use image::Unsealed;
pub use image::WriteOptions;
pub use image::Written;
pub use image::write_image;
pub use moved::MovedSpan;
pub use moved::write_moved;
