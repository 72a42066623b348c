//! What a checkpoint is: dtypes, the safetensors header, and a file as a row of spans.

pub mod dtype;
pub(crate) mod header;
pub(crate) mod layout;
pub(crate) mod lookalike;
pub(crate) mod name;
pub(crate) mod values;

pub use dtype::Family;
pub use header::Header;
pub use header::TensorInfo;
pub use layout::Layout;
pub use layout::Span;
pub use layout::SpanKind;
pub use lookalike::Lookalike;
pub use name::natural;
