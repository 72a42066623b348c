//! The read side: an open image, its original files as byte sources, the cache of decoded blocks,
//! names.

pub mod bases;
pub(crate) mod cache;
mod decode;
pub(crate) mod digests;
pub mod hf_cache;
pub(crate) mod image;
pub(crate) mod loading_cache;
mod model;
mod model_file;
#[cfg(feature = "run")]
mod model_originals;
pub mod naming;
pub(crate) mod needed;
pub(crate) mod original;
pub(crate) mod package_file;
mod packed;
mod resolve;
mod settled;
pub(crate) mod shards;
mod standing;
pub(crate) mod tensor_cache;
mod tensor_digests;
mod tensor_ref;
pub(crate) mod virtual_file;
mod whole;

pub use bases::Bases;
pub use cache::BlockCache;
pub use cache::ImageId;
pub use decode::CodedRun;
pub use digests::DigestIndex;
pub use image::Image;
pub use image::Need;
pub use image::claims_to_be_image;
pub use image::header_left;
pub use image::is_package;
pub use image::peek;
pub use loading_cache::CacheCounts;
pub use model::Model;
pub use model::Tensor;
pub use model_file::ModelFile;
pub use model_file::Opening;
pub use model_file::OriginalFile;
pub use needed::Files;
pub use needed::Needed;
pub use needed::needed;
pub use original::Original;
pub use package_file::PackageFile;
pub use resolve::Availability;
pub use resolve::BaseResolver;
pub use resolve::BoundImage;
pub use resolve::ReadScratch;
pub use shards::ShardIndex;
pub use shards::ShardNote;
pub use tensor_cache::TensorCache;
pub use tensor_ref::CodedTensor;
pub use tensor_ref::TensorRef;
pub use virtual_file::Piece;
pub use virtual_file::VirtualFile;
pub use whole::Archive;

pub use crate::format::FileRecord;
pub use crate::format::Header;
pub use crate::format::ImageKind;
pub use crate::format::Member;
pub use crate::format::MemberKind;
