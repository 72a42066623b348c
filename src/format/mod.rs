//! What lies where in a `.bs` (docs/format.md): header, index, the places of blocks. Codec numbers are known here,
//! codecs are not.

mod base;
pub mod header;
pub mod index;
pub mod member;
pub mod parse;
pub mod place;
mod record;
mod section;
mod span;
mod stream;

pub use base::BaseRecord;
pub use header::HEADER_LEN;
pub use header::Header;
pub use header::ImageKind;
pub use index::BlockRecord;
pub use index::FileRecord;
pub use index::Index;
pub use member::Member;
pub use member::MemberKind;
pub use place::Grid;
pub use place::Place;
pub use span::SpanRecord;
