//! The daemon's command line.

use std::path::PathBuf;

use bigsmall::archive::hf_cache;
use bigsmall::base::Error;
use bigsmall::base::units;
use clap::Args;
use clap::Parser;
use clap::Subcommand;

/// Shows folders of images as the files they came from.
#[derive(Debug, Parser)]
#[command(
    name = "bigsmall",
    bin_name = "bigsmall",
    version,
    max_term_width = 100,
    help_expected = true
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show a folder of images as the files they came from
    Mount(MountArgs),
    /// End a mount
    #[command(alias = "umount")]
    Unmount(UnmountArgs),
    /// List the mounts
    Mounts(MountsArgs),
    /// Answer the requests of a mount; started by its supervisor
    #[command(hide = true)]
    Worker,
}

#[expect(clippy::struct_excessive_bools, reason = "each is one flag")]
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Every image `x.bs` under SOURCE appears as `x.safetensors` (an image of a folder as a folder), every other file as it is.
The mount is read-only, unless it lies over SOURCE. The command returns when it is usable; `bigsmall unmount MOUNTPOINT` ends it.")]
pub(crate) struct MountArgs {
    /// The folder with images, or one image
    #[arg(required_unless_present = "hf_cache", conflicts_with = "hf_cache")]
    source: Option<PathBuf>,
    /// An empty folder, at which the files appear; without it they appear in SOURCE itself, and
    /// what is no model can be written to
    mountpoint: Option<PathBuf>,
    /// Mount the Hugging Face cache over itself
    #[arg(long)]
    pub(crate) hf_cache: bool,
    /// Stay in the foreground and log to stderr; ^C unmounts
    #[arg(short = 'f', long)]
    pub(crate) foreground: bool,
    /// Bytes of decoded blocks and tables to keep, such as 64m
    #[arg(long, value_name = "SIZE", default_value = "32m", value_parser = size)]
    pub(crate) cache: u64,
    /// How far to decode ahead of a reader that reads one byte after another; 0 for not at all. As
    /// root, so far the kernel reads ahead, too
    #[arg(long, value_name = "SIZE", default_value = "4m", value_parser = size)]
    pub(crate) read_ahead: u64,
    /// Whether the kernel keeps what was read (kernel), or every read is decoded anew (direct),
    /// which suits readers that read everything once into memory of their own
    #[arg(long, value_name = "MODE", default_value = "kernel", value_parser = ["kernel", "direct"])]
    pub(crate) cache_mode: String,
    /// Where the bases of fine-tunes are looked for beside SOURCE: models, or folders of them
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    pub(crate) base: Vec<PathBuf>,
    /// Let other users in, as far as the files' permissions say
    #[arg(long)]
    pub(crate) allow_other: bool,
    /// Mount over a folder that is not empty
    #[arg(long)]
    pub(crate) force: bool,
    /// Over SOURCE itself: refuse to rename, replace or remove models
    #[arg(long)]
    pub(crate) protect_models: bool,
    /// Tell what the mount does over HTTP at this address and port, as Prometheus asks for it
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub(crate) metrics: Option<String>,
    /// Log to this file instead of one in the runtime folder
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// How log lines look
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    pub(crate) log_format: String,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl MountArgs {
    /// The source, and where the files appear.
    pub(crate) fn source_and_mountpoint(&self) -> Result<(PathBuf, PathBuf), Error> {
        // without a source it is the cache, or the words would not have been taken
        let source = hf_cache::folder_or(self.source.as_deref())?;
        let mountpoint = self.mountpoint.clone().unwrap_or_else(|| source.clone());
        Ok((source, mountpoint))
    }
}

#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// Where it is mounted
    #[arg(required_unless_present = "hf_cache", conflicts_with = "hf_cache")]
    mountpoint: Option<PathBuf>,
    /// Unmount the Hugging Face cache
    #[arg(long)]
    pub(crate) hf_cache: bool,
    /// Detach now although files are open; they stay readable until they are closed
    #[arg(short = 'z', long)]
    pub(crate) lazy: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

impl UnmountArgs {
    /// Where the mount is, of which nothing is asked: its daemon may be dead or stopped.
    pub(crate) fn mountpoint(&self) -> Result<PathBuf, Error> {
        self.mountpoint.clone().map_or_else(hf_cache::path, Ok)
    }
}

#[derive(Debug, Args)]
pub(crate) struct MountsArgs {
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArgs {
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    /// Print nothing but errors
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Log more; twice, still more
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

fn size(text: &str) -> Result<u64, Error> {
    units::parse_bytes(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_words_are_well_formed() {
        Cli::command().debug_assert();
    }
}
