//! The read side: an open image, its original files as byte sources, the cache of decoded blocks, names.

pub mod bases;
pub mod cache;
pub mod digests;
pub mod image;
pub mod naming;
pub mod needed;
pub mod original;
pub mod package_file;
pub mod shards;
mod standing;
pub mod tensors;
pub mod virtual_file;

pub use bases::Bases;
pub use cache::BlockCache;
pub use cache::CacheCounts;
pub use cache::ImageId;
pub use digests::DigestIndex;
pub use image::Archive;
pub use image::claims_to_be_image;
pub use image::header_left;
pub use image::is_package;
pub use image::peek;
pub use needed::Files;
pub use needed::Needed;
pub use needed::needed;
pub use original::Original;
pub use package_file::PackageFile;
pub use shards::ShardIndex;
pub use shards::ShardNote;
pub use virtual_file::Piece;
pub use virtual_file::VirtualFile;

pub use crate::format::FileRecord;
pub use crate::format::Header;
pub use crate::format::ImageKind;
pub use crate::format::Member;
pub use crate::format::MemberKind;
