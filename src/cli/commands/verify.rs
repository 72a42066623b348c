//! `bigsmall verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Error;
use crate::base::Result;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::verify;
use crate::ops::verify::Depth;
use crate::ops::verify::VerifyOptions;

/// Words of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Decodes and checks every block, the md5 of every tensor, the sha256 of every file, both copies \
of the index, the bases of deltas, and parity where there is some. `bigsmall scrub` does so \
again and again for a library.
Exit code 0: everything that was looked at is right. 1: damage was found, a base is missing, or \
the original given by `--source` is not what was compressed, which says nothing against the \
image.")]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    source: PathBuf,
    /// A model that images are stored as differences from: a file, an image, or a folder of them
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
    /// Look at header, index and parity only, and at no block
    #[arg(long, conflicts_with_all = ["sample", "original"])]
    fast: bool,
    /// Decode only this part of the blocks, such as 0.01, chosen anew each time; says what that may
    /// miss
    #[arg(long, value_name = "SHARE", conflicts_with = "original")]
    sample: Option<f64>,
    /// Choose the same blocks as the run that printed this number
    #[arg(long, value_name = "NUMBER", requires = "sample")]
    seed: Option<u64>,
    /// Compare every byte with this original, or with those in this folder
    #[arg(long = "source", value_name = "ORIGINAL", id = "original")]
    original: Option<PathBuf>,
}

impl Arguments {
    fn depth(&self) -> Result<Depth> {
        use std::hash::BuildHasher;
        match self.sample {
            Some(share) if share > 0.0 && share <= 1.0 => {
                // the standard library's own source of chance
                let chance = || std::hash::RandomState::new().hash_one(std::process::id()) >> 16;
                let seed = self.seed.unwrap_or_else(chance);
                Ok(Depth::Sample { share, seed })
            }
            Some(share) => {
                let error = Error::invalid(format!("{share} is no part of the blocks"));
                Err(error.hint("write a number above 0 and up to 1, such as `--sample 0.05`"))
            }
            None if self.fast => Ok(Depth::Structure),
            None => Ok(Depth::Whole),
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = VerifyOptions {
        bases: arguments.base.clone(),
        depth: arguments.depth()?,
        original: arguments.original.clone(),
        threads: global.threads(),
    };
    let report = verify::verify(&arguments.source, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.verify/1", &report)?;
    } else if !global.quiet || !report.ok {
        let images = report.images.iter().map(render::verified);
        let lines: Vec<String> = images.chain(render::notes(&report.notes)).collect();
        render::out(&lines.join("\n"))?;
    }
    Ok(exit::of_findings(report.ok))
}
