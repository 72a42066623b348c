//! Folders: what is in them, in a fixed order, which of it are models or images, and how a new one
//! is written.

mod copies;
mod kinds;
mod names;
mod output;
mod paths;
mod stamp;
mod walk;

pub(crate) use copies::are_same;
pub(crate) use copies::carry_attributes;
pub(crate) use copies::copy_file;
pub(crate) use copies::copy_over;
pub(crate) use kinds::check_image;
pub(crate) use kinds::images_under;
pub(crate) use kinds::is_image;
pub(crate) use kinds::is_model;
pub(crate) use kinds::is_parity_name;
pub(crate) use kinds::named_like_images;
pub(crate) use kinds::own_images_under;
pub use kinds::parity_path;
pub(crate) use names::FirstNames;
pub(crate) use output::OutputFolder;
pub(crate) use paths::check_apart;
pub(crate) use paths::check_not_mounted;
pub(crate) use paths::check_not_same;
pub(crate) use paths::is_same_file;
pub(crate) use paths::real;
pub(crate) use stamp::Stamp;
pub(crate) use stamp::hold;
pub(crate) use walk::Entry;
pub(crate) use walk::EntryKind;
pub(crate) use walk::not_a_file;
pub(crate) use walk::walk;
