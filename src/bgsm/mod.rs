//! `.bs` files of the Python package of the same name, versions 1 and 2, as that writes them: read,
//! checked, and shown as the safetensors files that they came from (docs/python-package.md).
//! Nothing writes them.

mod blob;
mod coder;
pub(crate) mod package;
pub(crate) mod plain;

pub use package::MAGIC;
pub use package::Package;
pub use plain::Plain;
