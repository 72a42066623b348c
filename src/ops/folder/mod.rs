//! Folders: what is in them, in a fixed order, which of it are models or images, and how a new one
//! is written.

mod copies;
mod kinds;
mod names;
mod output;
mod places;
mod stamp;
mod walk;

pub use copies::are_same;
pub use copies::carry_attributes;
pub use copies::copy_file;
pub use copies::copy_over;
pub use kinds::check_image;
pub use kinds::images_under;
pub use kinds::is_image;
pub use kinds::is_model;
pub use kinds::is_parity_name;
pub use kinds::named_like_images;
pub use kinds::own_images_under;
pub use kinds::parity_path;
pub use names::FirstNames;
pub use output::OutputFolder;
pub use places::check_apart;
pub use places::check_not_mounted;
pub use places::check_not_same;
pub use places::is_same_file;
pub use places::real;
pub use stamp::Stamp;
pub use stamp::hold;
pub use walk::Entry;
pub use walk::EntryKind;
pub use walk::not_a_file;
pub use walk::walk;
