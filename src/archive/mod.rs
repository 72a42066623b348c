//! The read side: an open image, its original files as byte sources, the cache of decoded blocks, names.

pub mod bases;
pub mod cache;
mod decode;
pub mod digests;
pub mod hf_cache;
pub mod image;
pub mod naming;
pub mod needed;
mod needs;
pub mod original;
pub mod package_file;
mod packed;
pub mod shards;
mod standing;
pub mod tensors;
pub mod virtual_file;
mod whole;

pub use bases::Bases;
pub use cache::BlockCache;
pub use cache::CacheCounts;
pub use cache::ImageId;
pub use decode::ReadScratch;
pub use digests::DigestIndex;
pub use image::Image;
pub use image::claims_to_be_image;
pub use image::header_left;
pub use image::is_package;
pub use image::peek;
pub use needed::Files;
pub use needed::Needed;
pub use needed::needed;
pub use needs::Need;
pub use original::Original;
pub use package_file::PackageFile;
pub use shards::ShardIndex;
pub use shards::ShardNote;
pub use virtual_file::Piece;
pub use virtual_file::VirtualFile;
pub use whole::Archive;

pub use crate::format::FileRecord;
pub use crate::format::Header;
pub use crate::format::ImageKind;
pub use crate::format::Member;
pub use crate::format::MemberKind;
