//! Words in, words out: parse the command line, call one op, render its report.

mod ask;
mod commands;
#[cfg(feature = "run")]
mod console;
mod converted;
mod described;
mod differences;
pub mod exit;
mod global;
mod legend;
mod mirrored;
mod mount;
mod page;
mod profile;
#[cfg(feature = "run")]
mod profiled;
mod progress;
mod render;
#[cfg(feature = "run")]
mod run_words;
mod scanned;
mod tables;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::ArgMatches;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;

use crate::base::ErrorKind;
use crate::cli::global::Global;
use crate::entropy::simd::dispatch;

/// The help lists the commands in groups by hand, as clap cannot; a test checks that each stands
/// there once.
const HELP_TEMPLATE: &str = "\
{before-help}{about}

{usage-heading} {usage}

Make and restore:
  compress    Make a model smaller, losslessly
  decompress  Get the original back, byte for byte
  convert     Make the models of a folder smaller in place
  restore     Undo convert
  import      Make an image of a `.bs` of the Python package
  migrate     The same in place, for whole folders
  transcode   Change the profile of an image
  reshard     Cut a model's images into others
  apply       Get a fine-tune back from its base and a patch
  rm          Remove files that no delta needs

Look:
  scan        Show what compressing these folders would save
  stat        List the tensors of an image or a model
  info        Show what an image holds and how it is coded
  diff        Show which tensors of two models differ, and by how much
  xray        Show what a model's numbers say of where they come from
  bench       Measure size and speed on a model of yours

Trust:
  verify      Check every block, tensor and file of an image
  scrub       Verify a library a little at a time
  protect     Write parity, by which a damaged file can be repaired
  repair      Put a damaged file together again from its parity
  doctor      Look for what was left behind, and say what to do

Run:
  run         Get text out of a model, compressed or not
  profile     Measure what this machine can do, and keep it

Mount:
  mount       Show a folder of images as the files they came from
  unmount     End a mount
  mounts      List the mounts

Options:
{options}{after-help}";

/// Makes AI models a third smaller without changing a bit.
#[derive(Debug, Parser)]
#[command(
    name = "bigsmall",
    version,
    help_template = HELP_TEMPLATE,
    max_term_width = 100,
    help_expected = true,
    disable_help_subcommand = true,
    after_help = "\nbigsmall COMMAND --help tells more of a command."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a model smaller, losslessly
    Compress(commands::compress::Arguments),
    /// Get the original back, byte for byte
    Decompress(commands::decompress::Arguments),
    /// Make the models of a folder smaller in place
    Convert(commands::convert::Arguments),
    /// Undo convert
    Restore(commands::restore::Arguments),
    /// Make an image of a `.bs` of the Python package
    Import(commands::import::Arguments),
    /// The same as import in place, for whole folders
    Migrate(commands::migrate::Arguments),
    /// Change the profile of an image
    Transcode(commands::transcode::Arguments),
    /// Cut a model's images into others
    Reshard(commands::reshard::Arguments),
    /// Get a fine-tune back from its base and a patch
    Apply(commands::apply::Arguments),
    /// Remove files that no delta needs
    Rm(commands::rm::Arguments),
    /// Show which tensors of two models differ, and by how much
    Diff(commands::diff::Arguments),
    /// Show what compressing these folders would save
    Scan(commands::scan::Arguments),
    /// List the tensors of an image or a model
    Stat(commands::stat::Arguments),
    /// Show what an image holds and how it is coded
    Info(commands::info::Arguments),
    /// Show what a model's numbers say of where they come from
    Xray(commands::xray::Arguments),
    /// Measure size and speed on a model of yours
    #[command(alias = "benchmark")]
    Bench(commands::bench::Arguments),
    /// Check every block, tensor and file of an image
    Verify(commands::verify::Arguments),
    /// Verify a library a little at a time
    Scrub(commands::scrub::Arguments),
    /// Write parity, by which a damaged file can be repaired
    Protect(commands::protect::Arguments),
    /// Put a damaged file together again from its parity
    Repair(commands::repair::Arguments),
    /// Look for what was left behind, and say what to do
    Doctor(commands::doctor::Arguments),
    /// Get text out of a model, compressed or not
    #[cfg(feature = "run")]
    Run(commands::run::Arguments),
    /// Measure what this machine can do, and keep it
    #[cfg(feature = "run")]
    Profile(commands::profile::Arguments),
    /// `mount`, `unmount` and `mounts` belong to the daemon, whose words are handed over as they
    /// stand
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

/// Runs the command line and gives the exit code.
pub fn run(arguments: std::env::ArgsOs) -> ExitCode {
    exit::name_remedies();
    let matches = Cli::command().try_get_matches_from(arguments);
    let word = |matches: &ArgMatches| matches.subcommand_name().map(str::to_owned);
    let word = matches.as_ref().ok().and_then(word);
    let parsed = matches.and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return exit::of_usage(&error),
    };
    global::start_logging(cli.global.verbose);
    crate::base::file::allow_many_files();
    if let Some(wanted) = dispatch::unknown_name() {
        let names: Vec<&str> = dispatch::available().iter().map(|set| set.name).collect();
        exit::complain(&format!(
            "warning: BIGSMALL_SIMD names `{wanted}`, which this processor does not have: {}",
            names.join(", ")
        ));
    }
    let global = &cli.global;
    let outcome = match &cli.command {
        Command::Compress(arguments) => commands::compress::run(arguments, global),
        Command::Decompress(arguments) => commands::decompress::run(arguments, global),
        Command::Convert(arguments) => commands::convert::run(arguments, global),
        Command::Restore(arguments) => commands::restore::run(arguments, global),
        Command::Import(arguments) => commands::import::run(arguments, global),
        Command::Migrate(arguments) => commands::migrate::run(arguments, global),
        Command::Transcode(arguments) => commands::transcode::run(arguments, global),
        Command::Reshard(arguments) => commands::reshard::run(arguments, global),
        Command::Apply(arguments) => commands::apply::run(arguments, global),
        Command::Rm(arguments) => commands::rm::run(arguments, global),
        Command::Diff(arguments) => commands::diff::run(arguments, global),
        Command::Scan(arguments) => commands::scan::run(arguments, global),
        Command::Stat(arguments) => commands::stat::run(arguments, global),
        Command::Info(arguments) => commands::info::run(arguments, global),
        Command::Xray(arguments) => commands::xray::run(arguments, global),
        Command::Bench(arguments) => commands::bench::run(arguments, global),
        Command::Verify(arguments) => commands::verify::run(arguments, global),
        Command::Scrub(arguments) => commands::scrub::run(arguments, global),
        Command::Protect(arguments) => commands::protect::run(arguments, global),
        Command::Repair(arguments) => commands::repair::run(arguments, global),
        Command::Doctor(arguments) => commands::doctor::run(arguments, global),
        #[cfg(feature = "run")]
        Command::Run(arguments) => commands::run::run(arguments, global),
        #[cfg(feature = "run")]
        Command::Profile(arguments) => commands::profile::run(arguments, global),
        Command::External(words) => mount::run(words, global, &command_names()),
    };
    let code = outcome.unwrap_or_else(|error| {
        let code = exit::of_error(&error);
        if error.kind() == ErrorKind::MissingBase && takes_base(word.as_deref()) {
            exit::complain("hint: name that model with `--base`");
        }
        code
    });
    exit::with_skipped(code, &progress::skipped())
}

/// Whether a command has the word `--base`.
fn takes_base(command: Option<&str>) -> bool {
    let cli = Cli::command();
    let command = command.and_then(|name| cli.find_subcommand(name));
    let mut words = command.into_iter().flat_map(clap::Command::get_arguments);
    words.any(|word| word.get_long() == Some("base"))
}

/// The names of all commands, for suggestions.
fn command_names() -> Vec<String> {
    let own = Cli::command();
    let own = own
        .get_subcommands()
        .map(|command| command.get_name().to_owned());
    own.chain(mount::WORDS.iter().map(|&word| word.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_help_lists_every_command_once() {
        for name in command_names().iter().filter(|name| *name != "umount") {
            let line = format!("\n  {name} ");
            assert_eq!(HELP_TEMPLATE.matches(&line).count(), 1, "{name}");
        }
    }
}
