//! Sections of docs/cli.md: what a command's `--help` says, and an example with what came of it.
//! Shared with the tests of the daemon, whose commands stand on that page, too.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

/// Set, it has the page written instead of compared.
const WRITE: &str = "BIGSMALL_WRITE_PAGES";

/// A command, and lines of a shell that show it.
pub(crate) struct Example {
    pub(crate) command: &'static str,
    /// What makes the things that it is shown with.
    pub(crate) before: &'static [&'static str],
    pub(crate) shown: &'static [&'static str],
    /// All its numbers are measured, and differ from run to run.
    pub(crate) is_measured: bool,
}

/// A shell in a folder, that finds the programs beside one of ours.
pub(crate) struct Shell<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) program: &'a Path,
    /// A line that comes before every other.
    pub(crate) preamble: &'a str,
}

impl Shell<'_> {
    /// What a person sees of this line, with the exit code where that is not zero.
    pub(crate) fn says(&self, line: &str) -> String {
        fs::create_dir_all(self.folder.join(".home/run")).unwrap();
        let path = std::env::var("PATH").unwrap();
        let programs = self.program.parent().unwrap().display();
        let script = format!("exec 2>&1; {}\n{line}", self.preamble);
        let output = Command::new("sh")
            .args(["-c", &script])
            .current_dir(self.folder)
            .env("PATH", format!("{programs}:{path}"))
            .env("HOME", self.folder)
            .env("XDG_CACHE_HOME", self.folder.join(".home/cache"))
            .env("XDG_STATE_HOME", self.folder.join(".home/state"))
            .env("XDG_RUNTIME_DIR", self.folder.join(".home/run"))
            // as wide as help is at most
            .env("COLUMNS", "100")
            .env("LC_ALL", "C")
            .env_remove("BIGSMALL_LOG")
            .env_remove("BIGSMALL_SIMD")
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let mut said = said.replace(self.folder.to_str().unwrap(), "~");
        if !output.status.success() {
            let code = output.status.code().unwrap();
            said = format!("{said}(exit code {code})\n");
        }
        said
    }

    fn shows(&self, example: &Example) -> String {
        for line in example.before {
            let said = self.says(line);
            assert!(!said.contains("(exit code "), "{line}: {said}");
        }
        let one = |line: &&str| format!("$ {line}\n{}", self.says(line));
        let all: Vec<String> = example.shown.iter().map(one).collect();
        all.join("")
    }
}

/// The long name of the option that a line of help begins.
pub(crate) fn option_of(line: &str) -> Option<&str> {
    let begins = line.starts_with("  -") || line.starts_with("      --");
    let word = line
        .split([' ', ',', '.', '=', '['])
        .find(|word| word.starts_with("--"));
    word.filter(|_| begins)
}

/// A help without options that every command has, which stand once at the top of the page.
fn without(help: &str, common: &[&str]) -> String {
    let mut is_left_out = false;
    let mut kept = String::new();
    for line in help.lines() {
        let is_more = line.starts_with("          ");
        if !is_more {
            is_left_out = option_of(line).is_some_and(|option| common.contains(&option));
        }
        if !is_left_out {
            // clap indents the empty line before a default
            kept.push_str(line.trim_end());
            kept.push('\n');
        }
    }
    kept.replace("\nOptions:\n\n", "\n").trim_end().to_owned()
}

/// The section of a command.
pub(crate) fn section(shell: &Shell<'_>, example: &Example, common: &[&str]) -> Vec<PageText> {
    let help = shell.says(&format!("bigsmall {} --help", example.command));
    let help = without(&help, common);
    let (what, help) = help.split_once("\n\n").unwrap();
    let shown = shell.shows(example);
    let fixed = |text: String| PageText {
        text,
        is_measured: false,
    };
    let heading = format!(
        "### {}\n\n{what}.\n\n```\n{help}\n```\n\nFor example:\n\n",
        example.command
    );
    let example = PageText {
        text: format!("```console\n{shown}```\n\n"),
        is_measured: example.is_measured,
    };
    vec![fixed(heading), example]
}

/// A part of a page that a test makes.
pub(crate) struct PageText {
    pub(crate) text: String,
    pub(crate) is_measured: bool,
}

/// Units of what differs from run to run.
const TIMES: &[&str] = &[
    "s", "ms", "us", "min", "GB/s", "MB/s", "kB/s", "B/s", "GFLOP/s", "MFLOP/s",
];
const SIZES: &[&str] = &["B", "kB", "MB", "GB"];

/// A line without what differs from run to run: times and rates with their units, or all numbers
/// and units.
fn masked(line: &str, is_measured: bool) -> String {
    let plain = |word: &str| word.trim_matches(['(', ')', ',', ';', '.']).to_owned();
    let words: Vec<String> = line.split_whitespace().map(plain).collect();
    let is_number = |word: &String| word.parse::<f64>().is_ok();
    let is_time = |word: &String| TIMES.contains(&word.as_str());
    let has_digits = |word: &str| word.contains(|c: char| c.is_ascii_digit());
    let one = |(at, word): (usize, &String)| {
        let next = words.get(at + 1).is_some_and(is_time);
        let is_unit = is_time(word) || is_measured && SIZES.contains(&word.as_str());
        let is_figure = is_number(word) && next || is_measured && has_digits(word);
        (!is_unit).then(|| {
            if is_figure {
                "#".to_owned()
            } else {
                word.clone()
            }
        })
    };
    let all: Vec<String> = words.iter().enumerate().filter_map(one).collect();
    all.join(" ")
}

/// What is said now, but for lines of the page that differ in measured numbers only: these stay.
fn kept(parts: &[PageText], there: &str) -> String {
    let mut old: BTreeMap<(bool, String), VecDeque<&str>> = BTreeMap::new();
    for line in there.lines() {
        for is_measured in [false, true] {
            let alike = old.entry((is_measured, masked(line, is_measured)));
            alike.or_default().push_back(line);
        }
    }
    let mut made = String::new();
    for part in parts {
        for line in part.text.lines() {
            let alike = old.get_mut(&(part.is_measured, masked(line, part.is_measured)));
            let stays = alike.and_then(VecDeque::pop_front);
            made.push_str(stays.unwrap_or(line));
            made.push('\n');
        }
    }
    made
}

/// Compares docs/cli.md behind `from`, up to `to`, with what is said now. With
/// `BIGSMALL_WRITE_PAGES` it is written instead.
pub(crate) fn check(root: &Path, from: &str, to: Option<&str>, parts: &[PageText]) {
    let path = root.join("docs/cli.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(from).unwrap();
    let end = to.map_or(rest.len(), |to| rest.find(to).unwrap());
    let (there, after) = rest.split_at(end);
    let mut made = kept(parts, there);
    if to.is_none() {
        // nothing stands behind the last line
        made.truncate(made.trim_end().len());
        made.push('\n');
    }
    if made == there {
        return;
    }
    if std::env::var_os(WRITE).is_some() {
        let page = format!("{before}{from}{made}{after}");
        let mut file = fs::File::create(&path).unwrap();
        file.write_all(page.as_bytes()).unwrap();
        return;
    }
    let (now, then) = (made.lines(), there.lines());
    let differs = now.zip(then).find(|(now, then)| now != then);
    panic!(
        "docs/cli.md is not what is said now: {differs:#?}\n\
         hint: `{WRITE}=1 cargo test --workspace cli_page` writes it anew"
    );
}
