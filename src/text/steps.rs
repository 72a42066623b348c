//! The `decoder` of a `tokenizer.json`: how the strings of its vocabulary become text.

use serde_json::Value;

/// How the strings of a vocabulary become text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Steps {
    /// Each character stands for a byte, as in GPT-2 and most since.
    ByteLevel,
    /// Strings with replacements, and bytes as `<0x0A>`, as of `SentencePiece`.
    Strings(StringSteps),
    /// Something else: the library is asked, each time with the tokens before.
    Library,
}

/// Of [`Steps::Strings`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct StringSteps {
    pub(super) replacements: Vec<(String, String)>,
    pub(super) has_bytes: bool,
    /// How many of this character are taken off the start of the whole text.
    pub(super) stripped: Option<(char, u64)>,
}

impl Steps {
    /// The steps of the `decoder` of a file.
    pub(super) fn of(decoder: &Value) -> Self {
        match decoder["type"].as_str() {
            Some("ByteLevel") => Self::ByteLevel,
            Some("Sequence") => {
                string_steps(&decoder["decoders"]).map_or(Self::Library, Self::Strings)
            }
            _ => Self::Library,
        }
    }
}

/// Replacements, bytes, all in one, its start cut: in this order, each of them there or not.
fn string_steps(decoders: &Value) -> Option<StringSteps> {
    let mut steps = StringSteps::default();
    let mut is_fused = false;
    for decoder in decoders.as_array()? {
        match decoder["type"].as_str()? {
            "Replace" if !steps.has_bytes && !is_fused => {
                let pattern = decoder["pattern"]["String"].as_str()?;
                let content = decoder["content"].as_str()?;
                if pattern.is_empty() {
                    return None;
                }
                steps.replacements.push((pattern.into(), content.into()));
            }
            "ByteFallback" if !steps.has_bytes && !is_fused => steps.has_bytes = true,
            "Fuse" => is_fused = true,
            "Strip" if is_fused && steps.stripped.is_none() && decoder["stop"] == 0 => {
                let content = decoder["content"].as_str()?.chars().next()?;
                steps.stripped = Some((content, decoder["start"].as_u64()?));
            }
            _ => return None,
        }
    }
    is_fused.then_some(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_known_where_their_order_is() {
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let llama = r#"{"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}"#;
        let expected = StringSteps {
            replacements: vec![("\u{2581}".into(), " ".into())],
            has_bytes: true,
            stripped: Some((' ', 1)),
        };
        assert_eq!(Steps::of(&json(llama)), Steps::Strings(expected));
        assert_eq!(
            Steps::of(&json(r#"{"type": "ByteLevel"}"#)),
            Steps::ByteLevel
        );
        for other in [
            "null",
            r#"{"type": "WordPiece"}"#,
            &llama.replace("\"stop\": 0", "\"stop\": 1"),
            &llama.replace("\"String\"", "\"Regex\""),
            &llama.replace("Fuse", "ByteFallback"),
        ] {
            assert_eq!(Steps::of(&json(other)), Steps::Library, "{other}");
        }
    }
}
