//! How long work tells that it goes on, and learns that it should stop.

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;

/// Told about long work. All methods may be called from many threads.
pub trait Progress: Sync {
    /// A piece of work begins: what it is and how many bytes it has.
    fn begin(&self, _what: &str, _bytes_total: u64) {}

    /// That many bytes more are done.
    fn advance(&self, _bytes: u64) {}

    /// The piece of work is over.
    fn end(&self) {}

    /// Something that the person should read, which does not stop the work.
    fn warn(&self, _text: &str) {}

    /// Whether the person wants the work to stop.
    fn interrupted(&self) -> bool {
        false
    }

    /// An error of kind `Interrupted` if the person wants the work to stop.
    fn check(&self) -> Result<()> {
        if self.interrupted() {
            return Err(Error::new(ErrorKind::Interrupted, "interrupted"));
        }
        Ok(())
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {}
