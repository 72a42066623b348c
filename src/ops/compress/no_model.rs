//! Files that are called models and are none.

use std::path::Path;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::progress::Reason;
use crate::base::progress::Skipped;
use crate::tensor::Lookalike;

/// A file that is called a model and cannot be compressed.
pub(super) fn no_model(path: &Path, error: &Error) -> Skipped {
    let lookalike = FileSource::open(path)
        .ok()
        .and_then(|file| Lookalike::of(&file));
    let reason = match (lookalike, error.kind()) {
        (Some(Lookalike::GitLfsPointer), _) => Reason::GitLfsPointer,
        (Some(Lookalike::HtmlPage), _) => Reason::HtmlPage,
        (None, ErrorKind::Io | ErrorKind::NotFound) => {
            return Skipped::new(
                path,
                Reason::Unreadable,
                format!("{}: left out", error.what()),
            );
        }
        (None, _) => Reason::NotSafetensors,
    };
    Skipped::new(path, reason, format!("{}: not compressed", error.what()))
}
