//! What a checkpoint is: dtypes, the safetensors header, and a file as a row of spans.

pub mod dtype;
pub mod header;
pub mod layout;
pub mod lookalike;
pub mod name;
pub mod values;

pub use dtype::Family;
pub use header::Header;
pub use header::TensorInfo;
pub use layout::Layout;
pub use layout::Span;
pub use layout::SpanKind;
pub use lookalike::Lookalike;
pub use name::natural;
