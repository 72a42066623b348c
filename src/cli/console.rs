//! The other end of a model that is run: text to stdout as it is made, lines to stderr, and what a
//! person says from stdin.

use std::io;
use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Read;
use std::io::Write;
use std::path::Path;

use crate::base::Error;
use crate::base::Result;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::run_words::PROMPT_LEN_MAX;
use crate::ops::run::Audience;
use crate::ops::run::Talk;
use crate::text::for_terminal;

/// Stdin, stdout and stderr.
#[derive(Debug)]
pub(super) struct Console {
    /// Whether text is shown.
    pub(super) shows_text: bool,
    is_quiet: bool,
    is_terminal: bool,
}

impl Console {
    pub(super) fn new(global: &Global) -> Self {
        Self {
            shows_text: !global.json,
            is_quiet: global.quiet,
            is_terminal: io::stdout().is_terminal(),
        }
    }

    pub(super) fn print(&self, text: &str) -> Result<()> {
        let mut out = io::stdout().lock();
        let written = if self.is_terminal {
            out.write_all(for_terminal(text).as_bytes())
        } else {
            out.write_all(text.as_bytes())
        };
        written
            .and_then(|()| out.flush())
            .map_err(|e| Error::io("cannot write", Path::new("stdout"), e))
    }
}

impl Audience for Console {
    fn told(&self, line: &str) {
        if !self.is_quiet {
            exit::complain(line);
        }
    }

    fn shows_text(&self) -> bool {
        self.shows_text && self.is_terminal
    }

    fn text(&mut self, text: &str) -> Result<()> {
        if self.shows_text {
            self.print(text)
        } else {
            Ok(())
        }
    }
}

impl Talk for Console {
    fn next(&mut self) -> Result<Option<String>> {
        if io::stdin().is_terminal() {
            self.print("> ")?;
        }
        let mut line = String::new();
        let mut bounded = io::stdin().lock().take(PROMPT_LEN_MAX);
        bounded
            .read_line(&mut line)
            .map_err(|e| Error::io("cannot read", Path::new("stdin"), e))?;
        let line = line.trim_end_matches(['\n', '\r']);
        Ok((!line.is_empty()).then(|| line.to_owned()))
    }

    fn answered(&mut self) -> Result<()> {
        self.print("\n")
    }
}
