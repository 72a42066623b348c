//! Asks before something that a person may not have meant.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;

use crate::base::Error;
use crate::base::Result;
use crate::cli::exit;

/// Asks on the terminal unless the answer was given. No is a fine answer: it is said that nothing
/// was changed, and nothing is to be. Where nobody can be asked, that is an error.
pub(super) fn confirm(question: &str, yes: bool) -> Result<bool> {
    if yes {
        return Ok(true);
    }
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        let what = "nothing was changed: there is no terminal on which to ask";
        return Err(Error::invalid(what).hint("answer beforehand with `--yes`"));
    }
    let mut answer = String::new();
    let _ = write!(io::stderr().lock(), "{question} [y/N] ");
    let _ = io::stdin().lock().read_line(&mut answer);
    let is_yes = matches!(answer.trim(), "y" | "Y" | "yes");
    if !is_yes {
        exit::complain("nothing was changed");
    }
    Ok(is_yes)
}
