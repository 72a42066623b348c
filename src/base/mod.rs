//! What every room needs: the one error, byte sources, limits, digests, atomic outputs, progress.

pub mod atomic;
pub mod codec_id;
pub mod digest;
pub mod error;
pub mod file;
pub mod limits;
pub mod lock;
pub mod parallel;
pub mod progress;
pub mod read_at;
pub mod units;

pub use atomic::OutputFile;
pub use codec_id::CodecId;
pub use error::Error;
pub use error::ErrorKind;
pub use error::Result;
pub use file::FileSource;
pub use limits::Limits;
pub use lock::LockedFile;
pub use progress::Progress;
pub use read_at::ReadAt;
