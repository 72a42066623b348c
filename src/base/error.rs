//! The one error of the library: what happened, to which file, tensor and block, and what to do
//! next.

use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

/// How much of a name is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// Result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kinds of failure. Exit codes and errno values are derived from it by two matches without a
/// `_` arm, so adding a kind stops both from compiling until they know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// A file or folder is not there.
    NotFound,
    /// The operating system refused or failed.
    Io,
    /// Somebody else is at work on a file, or has changed it meanwhile.
    Busy,
    /// Bytes are not what their checksums or the format say.
    Damaged,
    /// A delta's base is not at hand.
    MissingBase,
    /// A version, codec or feature that this build does not know.
    Unsupported,
    /// A remote side failed.
    Network,
    /// A GPU or other device failed or is absent.
    Device,
    /// Beyond one of the [`Limits`](crate::base::Limits).
    OverLimit,
    /// A request that makes no sense.
    Invalid,
    /// Stopped by the user.
    Interrupted,
}

/// What another command does about an error. By which words that is called only the command line
/// knows, which gives them to [`name_remedies`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// It makes an image of a file of the Python package.
    Import,
    /// The same, of a file that is stored as differences from a base.
    ImportWithBase,
    /// It makes images in place of all files of the Python package in a folder.
    Migrate,
    /// It mends a file by its parity.
    Repair,
    /// It shows a model to other programs.
    Mount,
}

impl Remedy {
    /// The words for it; none where nobody gave any.
    pub fn words(self) -> Option<&'static str> {
        REMEDY_WORDS.get().map(|words| words(self))
    }
}

/// The words for each remedy; none in a program without commands.
static REMEDY_WORDS: OnceLock<fn(Remedy) -> &'static str> = OnceLock::new();

/// Gives the words of hints that name a command. Of several calls the first one counts.
pub fn name_remedies(words: fn(Remedy) -> &'static str) {
    let _ = REMEDY_WORDS.set(words);
}

/// An error with its place. Cheap to clone, so that everybody who waits for one block gets it;
/// boxed, so that a result that is fine stays small.
#[derive(Debug, Clone)]
pub struct Error(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    kind: ErrorKind,
    what: String,
    file: Option<PathBuf>,
    tensor: Option<String>,
    block: Option<u64>,
    hint: Option<Hint>,
    source: Option<Arc<io::Error>>,
}

/// What to do next.
#[derive(Debug, Clone)]
enum Hint {
    Text(String),
    Remedy(Remedy),
}

impl Hint {
    fn words(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Remedy(remedy) => remedy.words(),
        }
    }
}

impl Error {
    /// An error of `kind`; `what` is lower case, without a full stop.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self(Box::new(Details {
            kind,
            what: what.into(),
            file: None,
            tensor: None,
            block: None,
            hint: None,
            source: None,
        }))
    }

    /// Bytes that are not what they should be.
    pub fn damaged(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Damaged, what)
    }

    /// A request that makes no sense.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, what)
    }

    /// Something this build does not know.
    pub fn unsupported(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, what)
    }

    /// Beyond a stated limit.
    pub fn over_limit(what: impl Into<String>) -> Self {
        Self::new(ErrorKind::OverLimit, what)
    }

    /// A failure of the operating system while doing `what` to `file`.
    pub fn io(what: impl Into<String>, file: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        let mut error = Self::new(kind, what).file(file);
        error.0.source = Some(Arc::new(source));
        error
    }

    /// Names the file, unless one is named already (the innermost place is the right one).
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.0.file.get_or_insert_with(|| file.to_owned());
        self
    }

    /// Names the tensor.
    #[must_use]
    pub fn tensor(mut self, name: &str) -> Self {
        // cut here already: a hostile image has a name of megabytes, and one error for each of its
        // blocks
        self.0
            .tensor
            .get_or_insert_with(|| name.chars().take(SHOWN_CHARS_MAX + 1).collect());
        self
    }

    /// Names the block, counted within its tensor.
    #[must_use]
    pub fn block(mut self, number: u64) -> Self {
        self.0.block.get_or_insert(number);
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint.get_or_insert_with(|| Hint::Text(hint.into()));
        self
    }

    /// Says which command helps, as a hint.
    #[must_use]
    pub fn remedy(mut self, remedy: Remedy) -> Self {
        self.0.hint.get_or_insert(Hint::Remedy(remedy));
        self
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What happened, without its place and without a hint.
    pub fn what(&self) -> String {
        match &self.0.source {
            Some(source) => format!("{}: {source}", self.0.what),
            None => self.0.what.clone(),
        }
    }

    /// The file that is named.
    pub fn path(&self) -> Option<&Path> {
        self.0.file.as_deref()
    }

    /// The operating system's error number, if it failed.
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.source.as_ref()?.raw_os_error()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.0.file {
            write!(f, "`{}`: ", escaped(&file.to_string_lossy()))?;
        }
        match (&self.0.tensor, self.0.block) {
            (Some(tensor), Some(block)) => {
                write!(f, "tensor `{}`, block {block}: ", escaped(tensor))?;
            }
            (Some(tensor), None) => write!(f, "tensor `{}`: ", escaped(tensor))?,
            (None, Some(block)) => write!(f, "block {block}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.what)?;
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        if let Some(hint) = self.0.hint.as_ref().and_then(Hint::words) {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A name from a file, made fit for a terminal or a log: control characters, line breaks and
/// direction marks are written as escapes, and very long names are cut.
pub fn escaped(name: &str) -> String {
    let mut shown = String::with_capacity(name.len().min(SHOWN_CHARS_MAX));
    for (count, c) in name.chars().enumerate() {
        if count == SHOWN_CHARS_MAX {
            shown.push_str("...");
            break;
        }
        let direction_mark = matches!(
            c,
            '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        );
        if c.is_control() || direction_mark {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_and_what_next() {
        let error = Error::damaged("checksum differs")
            .file(Path::new("m.bs"))
            .tensor("a\nb")
            .block(3)
            .hint("run `bigsmall verify m.bs`");
        assert_eq!(
            error.to_string(),
            "`m.bs`: tensor `a\\nb`, block 3: checksum differs\nhint: run `bigsmall verify m.bs`"
        );
    }
}
