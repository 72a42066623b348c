//! What every room needs: the one error, byte sources, limits, digests, atomic outputs, progress.

pub mod atomic;
pub mod attributes;
pub(crate) mod codec_id;
pub mod digest;
pub mod error;
pub mod file;
pub mod identity;
pub mod in_use;
pub(crate) mod lease;
pub(crate) mod level;
pub(crate) mod limits;
pub(crate) mod lock;
pub mod mounts;
pub mod mutex;
pub(crate) mod output_file;
pub(crate) mod parallel;
pub mod progress;
pub(crate) mod read_at;
pub(crate) mod reader;
pub mod units;

pub use codec_id::CodecId;
pub use error::Error;
pub use error::ErrorKind;
pub use error::Remedy;
pub use error::Result;
pub use file::FileSource;
pub use in_use::Unused;
pub use limits::Limits;
pub use lock::LockedFile;
pub use lock::TreeLock;
pub use output_file::OutputFile;
pub use progress::Progress;
pub use read_at::ReadAt;
pub use read_at::SourceIdentity;
pub use reader::ByteReader;
