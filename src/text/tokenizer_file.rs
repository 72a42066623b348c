//! What is judged of a `tokenizer.json` before the library gets it: expressions and replacements
//! that would take memory or time without end.

use serde::Deserialize;
use serde_json::Value;

use crate::base::Error;
use crate::base::Result;

/// The largest known, of a vocabulary of 262 144, has 33 MB.
pub(crate) const LEN_MAX: u64 = 64 << 20;
/// The longest known expression has some hundred bytes.
const EXPRESSION_LEN_MAX: usize = 16 << 10;
/// All counts of repetitions of an expression, multiplied: known ones have `{1,3}` a few times. The
/// library writes each repetition out.
const REPETITIONS_MAX: u64 = 10_000;
/// How much longer all replacements in a row may make a text; known ones put three bytes for one.
const GROWTH_MAX: u64 = 10_000;

/// The parts of the file that work on text; the vocabulary is left out.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Shape {
    normalizer: Value,
    pre_tokenizer: Value,
    /// Needed also to decode piece by piece.
    pub(crate) decoder: Value,
    pub(crate) model: Unknown,
}

/// What a model makes of what it does not know: by name, or by number.
#[derive(Debug, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Unknown {
    pub(crate) unk_token: Option<String>,
    pub(crate) unk_id: Option<u32>,
}

impl Shape {
    /// Reads and judges it.
    ///
    /// # Errors
    /// No JSON, or beyond one of the limits above.
    pub(crate) fn judged(json: &[u8]) -> Result<Self> {
        let shape: Self = serde_json::from_slice(json)
            .map_err(|e| Error::damaged(crate::base::error::escaped(&e.to_string())))?;
        for part in [&shape.normalizer, &shape.pre_tokenizer, &shape.decoder] {
            let mut growth = 1;
            judge(part, &mut growth)?;
        }
        Ok(shape)
    }
}

/// Goes through a part; `serde_json` limits its depth.
fn judge(part: &Value, growth: &mut u64) -> Result<()> {
    match part {
        Value::Array(items) => items.iter().try_for_each(|item| judge(item, growth)),
        Value::Object(fields) => {
            if let Some(Value::String(expression)) = fields.get("Regex") {
                judge_expression(expression)?;
            }
            // of `Replace`, `Prepend`
            for name in ["content", "prepend"] {
                if let Some(Value::String(text)) = fields.get(name) {
                    *growth = growth.saturating_mul(text.len().max(1) as u64);
                }
            }
            if *growth > GROWTH_MAX {
                return Err(Error::over_limit("replacements make texts too long"));
            }
            fields.values().try_for_each(|field| judge(field, growth))
        }
        _ => Ok(()),
    }
}

fn judge_expression(expression: &str) -> Result<()> {
    if expression.len() > EXPRESSION_LEN_MAX {
        let what = format!("an expression of {} bytes", expression.len());
        return Err(Error::over_limit(what));
    }
    let mut product = 1_u64;
    for counted in expression.split('{').skip(1) {
        let counts = counted.split('}').next().unwrap_or_default();
        for count in counts.split(',') {
            if let Ok(count) = count.trim().parse::<u64>() {
                product = product.saturating_mul(count.max(1));
            }
        }
    }
    if product > REPETITIONS_MAX {
        return Err(Error::over_limit("an expression with too many repetitions"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(json: &str) -> Result<Shape> {
        Shape::judged(json.as_bytes())
    }

    #[test]
    fn what_real_models_have_is_fine() {
        // the expression of Llama 3
        let json = r#"{"normalizer": null, "model": {"vocab": {"a{99999}": 0}}, "pre_tokenizer":
            {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex":
            "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|\\s+(?!\\S)"},
            "behavior": "Isolated"}]}, "decoder": {"type": "ByteLevel"}}"#;
        assert_eq!(judged(json).unwrap().decoder["type"], "ByteLevel");
    }

    #[test]
    fn expressions_and_replacements_without_end_are_refused() {
        let expression =
            |text: &str| format!(r#"{{"pre_tokenizer": {{"pattern": {{"Regex": "{text}"}}}}}}"#);
        assert!(judged(&expression("a{100}")).is_ok());
        assert!(judged(&expression("((?=x)a{1000}){1000}")).is_err());
        assert!(judged(&expression("a{0,4000000000}")).is_err());
        assert!(judged(&expression(&"a".repeat(20_000))).is_err());
        let doubling = r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#;
        let all = [doubling; 20].join(",");
        let json = format!(r#"{{"normalizer": {{"normalizers": [{all}]}}}}"#);
        assert!(judged(&json).is_err());
        assert!(judged("{").is_err());
        assert!(judged(&"[".repeat(100_000)).is_err());
    }
}
