//! The progress of long work: what it reports while it runs, and how it learns that it should stop.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;
use serde::Serializer;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;

/// Why something was passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The system does not let it be read.
    Unreadable,
    /// A Git LFS pointer: the model itself was never fetched.
    GitLfsPointer,
    /// A web page, which a download brought in place of the model.
    HtmlPage,
    /// No valid safetensors file, though called one.
    NotSafetensors,
    /// An image that is damaged, or that this build cannot open.
    Damaged,
    /// A device, FIFO or socket, or a link to none of what there is.
    NotAFile,
    /// Its name, or that of what would be made of it, is too long, not valid or taken.
    Name,
}

/// Something that a run over a folder passed over.
#[derive(Debug, Clone, Serialize)]
pub struct Skipped {
    /// What.
    #[serde(serialize_with = "as_text")]
    pub path: PathBuf,
    /// Why.
    pub reason: Reason,
    /// The same for a person, and what became of it.
    pub why: String,
}

impl Skipped {
    /// By this error, whose own place may be another.
    pub fn new(path: &Path, reason: Reason, why: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            reason,
            why: why.into(),
        }
    }

    /// A file that is not what it is called, as the error says.
    pub fn no_good(path: &Path, error: &Error) -> Self {
        let reason = match error.kind() {
            ErrorKind::Invalid => Reason::NotSafetensors,
            ErrorKind::Io | ErrorKind::NotFound => Reason::Unreadable,
            _ => Reason::Damaged,
        };
        Self::new(path, reason, error.what())
    }

    /// Something that cannot be read, as the error says.
    pub fn unreadable(path: &Path, error: &Error) -> Self {
        Self::new(path, Reason::Unreadable, error.what())
    }
}

fn as_text<S: Serializer>(path: &Path, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.serialize_str(&path.to_string_lossy())
}

/// Told about long work. All methods may be called from many threads.
pub trait Progress: Sync {
    /// Who is told all that this one does not answer itself; nobody if there is none.
    fn inner(&self) -> Option<&dyn Progress> {
        None
    }

    /// A piece of work begins: what it is and how many bytes it has.
    fn begin(&self, what: &str, bytes_total: u64) {
        if let Some(inner) = self.inner() {
            inner.begin(what, bytes_total);
        }
    }

    /// That many bytes more are done.
    fn advance(&self, bytes: u64) {
        if let Some(inner) = self.inner() {
            inner.advance(bytes);
        }
    }

    /// The piece of work is over.
    fn end(&self) {
        if let Some(inner) = self.inner() {
            inner.end();
        }
    }

    /// Something that the person should read, which does not stop the work.
    fn warn(&self, text: &str) {
        if let Some(inner) = self.inner() {
            inner.warn(text);
        }
    }

    /// Something in a folder is passed over. An error if the work is to stop then.
    fn skip(&self, skipped: Skipped) -> Result<()> {
        if let Some(inner) = self.inner() {
            return inner.skip(skipped);
        }
        self.warn(&format!("`{}`: {}", skipped.path.display(), skipped.why));
        Ok(())
    }

    /// The same of several things, of which all are told before the work stops.
    fn skip_all(&self, skipped: Vec<Skipped>) -> Result<()> {
        if let Some(inner) = self.inner() {
            return inner.skip_all(skipped);
        }
        skipped
            .into_iter()
            .try_for_each(|skipped| self.skip(skipped))
    }

    /// Whether the person wants the work to stop.
    fn interrupted(&self) -> bool {
        self.inner().is_some_and(Progress::interrupted)
    }

    /// An error if the work is to stop: of kind `Interrupted` if the person wants that.
    fn check(&self) -> Result<()> {
        if let Some(inner) = self.inner() {
            return inner.check();
        }
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
pub struct NumberedProgress<'a> {
    whole: &'a dyn Progress,
    number: usize,
    count: usize,
}

impl std::fmt::Debug for NumberedProgress<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", self.number, self.count)
    }
}

impl<'a> NumberedProgress<'a> {
    /// Piece `number`, from 1 on, of `count`.
    pub fn new(whole: &'a dyn Progress, number: usize, count: usize) -> Self {
        Self {
            whole,
            number,
            count,
        }
    }
}

impl Progress for NumberedProgress<'_> {
    fn inner(&self) -> Option<&dyn Progress> {
        Some(self.whole)
    }

    fn begin(&self, what: &str, bytes_total: u64) {
        let what = format!("{} of {}: {what}", self.number, self.count);
        self.whole.begin(&what, bytes_total);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Notes what it is told, and wants the work to stop.
    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Progress for Notes {
        fn begin(&self, what: &str, _bytes_total: u64) {
            self.0.lock().unwrap().push(what.to_owned());
        }

        fn skip(&self, skipped: Skipped) -> Result<()> {
            self.0.lock().unwrap().push(skipped.why);
            self.check()
        }

        fn interrupted(&self) -> bool {
            true
        }
    }

    #[test]
    fn what_is_not_answered_goes_to_the_inner_one() {
        let notes = Notes::default();
        let numbered = NumberedProgress::new(&notes, 2, 3);
        numbered.begin("reading", 5);
        let skipped = || Skipped::new(Path::new("x"), Reason::Damaged, "it is damaged");
        assert!(numbered.skip(skipped()).is_err());
        assert!(numbered.skip_all(vec![skipped()]).is_err());
        assert!(numbered.interrupted() && numbered.check().is_err());
        let told = notes.0.into_inner().unwrap();
        assert_eq!(told, ["2 of 3: reading", "it is damaged", "it is damaged"]);
    }
}
