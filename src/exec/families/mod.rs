//! What each family computes, from its configuration.

mod defaults;
mod gpt2;
mod keys;
mod llama_like;
mod scaled;

use crate::base::Error;
use crate::base::Remedy;
use crate::base::Result;
use crate::exec::config::Config;
use crate::exec::families::keys::HasTensor;
use crate::exec::program::Program;

/// Families that are understood, for messages.
const KNOWN: &[&str] = &[
    "llama",
    "mistral",
    "ministral3",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gemma3",
    "phi3",
    "olmo2",
    "olmo3",
    "smollm3",
    "granite",
    "glm4",
    "gpt2",
];

/// The program of a configuration.
pub(super) fn program(config: &Config, has: HasTensor<'_>) -> Result<Program> {
    keys::ignore_what_changes_nothing(config);
    let family = config.text("model_type")?.unwrap_or_default().to_owned();
    if !KNOWN.contains(&family.as_str()) {
        let what = format!(
            "`{family}` is no family of models that can be run; these are: {}",
            KNOWN.join(", ")
        );
        return Err(Error::unsupported(what).remedy(Remedy::Mount));
    }
    check_architecture(config)?;
    let mut program = match family.as_str() {
        "gpt2" => gpt2::program(config, has),
        _ => llama_like::program(&family, config, has),
    }?;
    scaled::find_scales(config, has, &mut program)?;
    config.finish()?;
    Ok(program)
}

/// Refuses models that end in something else than logits of the next token.
fn check_architecture(config: &Config) -> Result<()> {
    const ENDS: [&str; 3] = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];
    let names = config.list("architectures")?.unwrap_or_default();
    let mut known = names.iter().filter_map(serde_json::Value::as_str);
    let is_known = known.any(|name| ENDS.iter().any(|end| name.ends_with(end)));
    if is_known || names.is_empty() {
        return Ok(());
    }
    Err(config.refuse("architectures"))
}
