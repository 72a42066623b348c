//! Parity files: any bytes, protected so that they can be put together again after sectors went
//! bad, an end was cut off, or bytes were put in or taken out (docs/parity.md). Nothing here knows
//! what an image is.

mod choose;
pub(crate) mod layout;
pub(crate) mod locate;
pub(crate) mod protect;
pub mod rebuild;
pub mod sidecar;
mod table;

pub use layout::Layout;
pub use locate::Located;
pub use locate::locate;
pub use protect::protect;
pub use rebuild::beginning;
pub use rebuild::rebuild;
pub use sidecar::Sidecar;

/// What a parity file is called: the protected file's name and this.
pub const EXTENSION: &str = ".par";
