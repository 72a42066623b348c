//! A question before something that a person may not have meant.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;

/// Asks on the terminal unless the answer was given. Where nobody can be asked, that is an error, and nothing is to be done.
pub(super) fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let what = "nothing was changed: there is no terminal on which to ask";
        return Err(Error::invalid(what).hint("answer beforehand with `--yes`"));
    }
    let mut answer = String::new();
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let _ = io::stdin().lock().read_line(&mut answer);
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Interrupted, "nothing was changed"))
}
