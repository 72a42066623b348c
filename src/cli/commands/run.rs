//! `bigsmall run`.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::process::ExitCode;

use crate::base::Error;
use crate::base::Result;
use crate::base::units;
use crate::cli::console::Console;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::run;
use crate::ops::run::Audience;
use crate::ops::run::RunOptions;
use crate::ops::run::RunReport;

pub(crate) use crate::cli::run_words::RunArguments as Arguments;

/// More memory was taken than promised.
const PROMISE_BROKEN: u8 = 8;

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = arguments.options(global);
    let bar = Bar::new(global);
    let mut console = Console::new(global);
    if let Some(line) = arguments.numerics_told() {
        console.told(line);
    }
    if let Some(path) = &arguments.verify {
        return verify(path, &options, (&console, &bar), global);
    }
    if let Some(path) = &arguments.batch {
        let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        console.shows_text = true;
        let lines = &mut BufReader::new(file);
        run::batch((lines, path), &options, &mut console, &bar)?;
        return Ok(ExitCode::SUCCESS);
    }
    if arguments.chat {
        console.shows_text = true;
        run::chat(&options, arguments.system.as_deref(), &mut console, &bar)?;
        return Ok(ExitCode::SUCCESS);
    }
    let report = run::run(&options, &arguments.prompt()?, &mut console, &bar)?;
    if global.json {
        render::json("bigsmall.run/1", &report)?;
    } else if report.text.is_some() {
        console.print("\n")?;
    } else {
        let ids: Vec<String> = report.tokens.iter().map(u32::to_string).collect();
        render::out(&format!("{}\n", ids.join(",")))?;
    }
    console.told(&told(&report));
    if report.is_promise_broken() {
        exit::complain("error: more memory was taken than promised");
        return Ok(ExitCode::from(PROMISE_BROKEN));
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(
    path: &Path,
    options: &RunOptions,
    (console, bar): (&Console, &Bar),
    global: &Global,
) -> Result<ExitCode> {
    let replayed = run::replay(path, options, console, bar)?;
    if global.json {
        render::json("bigsmall.run-verify/1", &replayed)?;
    } else {
        let mut lines = Vec::new();
        for file in &replayed.other_files {
            lines.push(format!("`{file}` has another sha256"));
        }
        if let Some(step) = replayed.other_logits {
            lines.push(format!("the logits of step {} differ", step + 1));
        }
        if let Some(step) = replayed.other_token {
            lines.push(format!("the token of step {} differs", step + 1));
        }
        if lines.is_empty() {
            lines.push(format!("same: all {} steps", replayed.steps));
        }
        render::out(&format!("{}\n", lines.join("\n")))?;
    }
    Ok(exit::of_findings(replayed.is_same()))
}

fn told(report: &RunReport) -> String {
    let decode = match report.decode_tokens_per_second {
        Some(rate) => format!("; {} new ones at {rate:.2} a second", report.tokens.len()),
        None => String::new(),
    };
    format!(
        "read {} tokens at {:.1} a second{decode}\npromised {}, measured {}",
        report.prompt_tokens,
        report.prefill_tokens_per_second,
        units::human_bytes(report.promised_bytes),
        units::human_bytes(report.peak_bytes)
    )
}
