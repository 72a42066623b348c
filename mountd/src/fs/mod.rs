//! The file system without anything of the protocol: lookup, attributes, listings, opens and reads
//! over the source tree.

mod admission;
mod attributes;
mod catalog;
pub(crate) mod changes;
mod errno;
pub(crate) mod handover;
mod image;
mod images;
mod listed;
mod listing;
mod models;
mod names;
mod needed;
mod nodes;
mod open_files;
mod opened;
mod passthrough;
mod readahead;
pub(crate) mod root;
pub(crate) mod source;
pub(crate) mod tree;
mod view;

pub(crate) use view::Fs;
pub(crate) use view::FsOptions;
