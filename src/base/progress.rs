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

/// Passes on what one of several like pieces of work tells, with its number.
#[derive(Clone, Copy)]
pub struct Part<'a> {
    whole: &'a dyn Progress,
    number: usize,
    count: usize,
}

impl std::fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.number, self.count)
    }
}

impl<'a> Part<'a> {
    /// Piece `number`, from 1 on, of `count`.
    pub fn new(whole: &'a dyn Progress, number: usize, count: usize) -> Self {
        Self {
            whole,
            number,
            count,
        }
    }
}

impl Progress for Part<'_> {
    fn begin(&self, what: &str, bytes_total: u64) {
        let what = format!("{} of {}: {what}", self.number, self.count);
        self.whole.begin(&what, bytes_total);
    }

    fn advance(&self, bytes: u64) {
        self.whole.advance(bytes);
    }

    fn end(&self) {
        self.whole.end();
    }

    fn warn(&self, text: &str) {
        self.whole.warn(text);
    }

    fn interrupted(&self) -> bool {
        self.whole.interrupted()
    }
}
