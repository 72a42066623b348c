//! The words that choose a profile.

use clap::Args;

use crate::base::Result;
use crate::codec::Profile;

/// A profile, by its name or by a word of its own.
#[derive(Debug, Args)]
pub(super) struct ProfileWords {
    /// What matters more: size or latency
    #[arg(long, value_name = "PROFILE", value_parser = ["balanced", "inference", "storage"])]
    profile: Option<String>,
    /// Short for `--profile balanced` (the default)
    #[arg(long, conflicts_with_all = ["profile", "inference", "storage"])]
    balanced: bool,
    /// Short for `--profile inference`: fastest to decode
    #[arg(long, conflicts_with_all = ["profile", "storage"])]
    inference: bool,
    /// Short for `--profile storage`: smallest
    #[arg(long, conflicts_with = "profile")]
    storage: bool,
}

/// A profile by its name.
#[derive(Debug, Args)]
pub(super) struct ProfileName {
    /// What matters more: size or latency
    #[arg(
        long,
        value_name = "PROFILE",
        value_parser = ["balanced", "inference", "storage"],
        default_value = "balanced"
    )]
    profile: String,
}

impl ProfileName {
    /// The one that was chosen.
    pub(super) fn profile(&self) -> Result<Profile> {
        self.profile.parse()
    }
}

impl ProfileWords {
    /// The one that was chosen.
    pub(super) fn profile(&self) -> Result<Profile> {
        match &self.profile {
            Some(name) => name.parse(),
            None if self.inference => Ok(Profile::Inference),
            None if self.storage => Ok(Profile::Storage),
            None => Ok(Profile::Balanced),
        }
    }
}
