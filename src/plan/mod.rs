//! What is known of this machine, as plain figures with units, and what follows from them.
//!
//! ```text
//! probe    looks and measures: the only files here with a clock, files or threads, `store` apart
//!   |
//! facts    what came of it; whatever no probe gave says why not, and cannot be read by accident
//!   |
//! kept     what is worth keeping of it, for one machine; `store` has it in the user's cache folder
//! ```

pub mod facts;
pub mod kept;
pub mod machine;
pub mod measured;
pub mod probe;
pub mod store;

pub use facts::Facts;
pub use measured::Measured;
