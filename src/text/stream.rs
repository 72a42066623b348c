//! Tokens into text one by one: only whole characters, and together the same text as all at once.

use crate::base::Result;
use crate::text::steps::Steps;
use crate::text::steps::StringSteps;
use crate::text::tokenizer::Tokenizer;

/// What stands for bytes that are no UTF-8.
const REPLACEMENT: char = '\u{fffd}';
/// How many tokens may be held back in the hope that they become a character: one has 4 bytes.
const HELD_MAX: usize = 8;

impl Tokenizer {
    /// The text of tokens, without special ones; bytes that are no UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// What the library says.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut stream = self.stream();
        let mut text = String::new();
        for &id in ids {
            text.extend(stream.push(id)?);
        }
        text.push_str(&stream.finish()?);
        Ok(text)
    }

    /// A decoder that is given tokens one by one.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }
}

/// Decodes tokens as they come. Special tokens, and ids without a token, give no text.
#[derive(Debug)]
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// How many characters may still be taken off the start.
    stripped: u64,
    /// For the library: tokens whose text was given, then those held back.
    ids: Vec<u32>,
    given: usize,
}

impl<'t> TextStream<'t> {
    fn new(tokenizer: &'t Tokenizer) -> Self {
        let stripped = match tokenizer.steps() {
            Steps::Strings(steps) => steps.stripped.map_or(0, |(_, count)| count),
            _ => 0,
        };
        Self {
            tokenizer,
            bytes: Vec::new(),
            stripped,
            ids: Vec::new(),
            given: 0,
        }
    }

    /// Takes a token; gives the text that is certain now, if there is any.
    ///
    /// # Errors
    /// What the library says, for decoders that only it knows.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        let Some(token) = self.tokenizer.shown_token(id) else {
            return Ok(None);
        };
        let text = match self.tokenizer.steps() {
            Steps::ByteLevel => {
                push_byte_level(&token, &mut self.bytes);
                take_whole(&mut self.bytes, false)
            }
            Steps::Strings(steps) => self.push_string(token, steps),
            Steps::Library => self.push_to_library(id)?,
        };
        Ok((!text.is_empty()).then_some(text))
    }

    /// What was held back: with no more tokens to come, the start of a character is U+FFFD.
    ///
    /// # Errors
    /// As [`TextStream::push`].
    pub fn finish(&mut self) -> Result<String> {
        match self.tokenizer.steps() {
            Steps::ByteLevel if self.bytes.is_empty() => Ok(String::new()),
            Steps::ByteLevel => {
                self.bytes.clear();
                Ok(REPLACEMENT.to_string())
            }
            Steps::Strings(steps) => {
                let text = self.take_broken();
                Ok(self.strip(text, steps))
            }
            Steps::Library => {
                let text = self.new_text()?;
                self.ids.clear();
                self.given = 0;
                Ok(text)
            }
        }
    }

    fn push_string(&mut self, mut token: String, steps: &StringSteps) -> String {
        for (pattern, content) in &steps.replacements {
            token = token.replace(pattern, content);
        }
        let byte = steps.has_bytes.then(|| byte_of(&token)).flatten();
        let text = match byte {
            Some(byte) => {
                self.bytes.push(byte);
                take_whole(&mut self.bytes, true)
            }
            // a character that was begun never becomes whole
            None => self.take_broken() + &token,
        };
        self.strip(text, steps)
    }

    /// Each byte of a character that never became whole counts as one.
    fn take_broken(&mut self) -> String {
        let count = self.bytes.len();
        self.bytes.clear();
        REPLACEMENT.to_string().repeat(count)
    }

    fn strip(&mut self, text: String, steps: &StringSteps) -> String {
        let Some((content, _)) = steps.stripped else {
            return text;
        };
        let mut rest = text.as_str();
        while self.stripped > 0 && !rest.is_empty() {
            match rest.strip_prefix(content) {
                Some(after) => {
                    rest = after;
                    self.stripped -= 1;
                }
                None => self.stripped = 0,
            }
        }
        rest.to_owned()
    }

    fn push_to_library(&mut self, id: u32) -> Result<String> {
        self.ids.push(id);
        let text = self.new_text()?;
        let is_held = text.is_empty() || text.ends_with(REPLACEMENT);
        if is_held && self.ids.len() - self.given < HELD_MAX {
            return Ok(String::new());
        }
        // what was given now is what the next ones stand behind
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(text)
    }

    /// The text of the tokens held back, behind those before them.
    fn new_text(&self) -> Result<String> {
        let before = self.tokenizer.decode_at_once(&self.ids[..self.given])?;
        let all = self.tokenizer.decode_at_once(&self.ids)?;
        Ok(all.get(before.len()..).unwrap_or_default().to_owned())
    }
}

/// Takes whole characters off the front of `bytes`. What can never become one is U+FFFD: once for
/// all of it, or for `each` byte of it.
fn take_whole(bytes: &mut Vec<u8>, each: bool) -> String {
    let mut text = String::new();
    let mut used = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        used += chunk.valid().len();
        let invalid = chunk.invalid();
        let is_last = used + invalid.len() == bytes.len();
        if invalid.is_empty() || is_last && may_become_whole(invalid) {
            break;
        }
        let count = if each { invalid.len() } else { 1 };
        text.extend(std::iter::repeat_n(REPLACEMENT, count));
        used += invalid.len();
    }
    bytes.drain(..used);
    text
}

/// Whether bytes are the start of a character.
fn may_become_whole(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// The byte that a token as `<0x0A>` stands for, read as the library does.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// The bytes of a token of a byte-level vocabulary; an added token stands for itself.
fn push_byte_level(token: &str, bytes: &mut Vec<u8>) {
    let start = bytes.len();
    for c in token.chars() {
        if let Some(byte) = byte_level(c) {
            bytes.push(byte);
        } else {
            bytes.truncate(start);
            bytes.extend_from_slice(token.as_bytes());
            return;
        }
    }
}

/// The byte that a character stands for: printable ones of Latin 1 for themselves, and for the 68
/// others, in order, those from U+0100 on.
fn byte_level(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        // 0x7f to 0xa0
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_one_character() {
        let mut bytes: Vec<u8> = (0..0x200)
            .filter_map(|code| byte_level(char::from_u32(code)?))
            .collect();
        bytes.sort_unstable();
        assert!(bytes.iter().copied().eq(0..=255));
        assert_eq!(byte_level('\u{120}'), Some(b' '));
        assert_eq!(byte_level('\u{10a}'), Some(b'\n'));
        assert_eq!(byte_level('\u{142}'), Some(0xa0));
    }

    /// All that is given is what `from_utf8_lossy` makes of all bytes, wherever they are cut.
    #[test]
    fn bytes_one_by_one_are_those_at_once() {
        let mut state = 1_u32;
        for _ in 0..3000 {
            let mut bytes = Vec::new();
            let mut pending = Vec::new();
            let mut text = String::new();
            for _ in 0..12 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let some = ["a", "\u{e9}", "\u{4f60}", "\u{1f600}"][(state >> 30) as usize];
                let cut = (state >> 20) as usize % (some.len() + 1);
                let part = &some.as_bytes()[..cut];
                bytes.extend_from_slice(part);
                pending.extend_from_slice(part);
                text += &take_whole(&mut pending, false);
                assert!(pending.len() < 4);
            }
            if !pending.is_empty() {
                text.push(REPLACEMENT);
            }
            assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
