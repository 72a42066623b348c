//! What lies where in a `.bs` (docs/format.md): header, index, the offsets of blocks. Codec numbers
//! are known here, codecs are not.

mod base;
pub(crate) mod block;
pub(crate) mod file;
pub mod header;
pub(crate) mod index;
pub(crate) mod location;
pub(crate) mod member;
pub(crate) mod parse;
mod section;
mod span;
mod stream;

pub use base::BaseRecord;
pub use block::BlockRecord;
pub use file::FileRecord;
pub use header::HEADER_LEN;
pub use header::Header;
pub use header::ImageKind;
pub use index::Index;
pub use location::Grid;
pub use location::SpanLocation;
pub use member::Member;
pub use member::MemberKind;
pub use span::SpanRecord;
