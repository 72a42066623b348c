//! Texts at which an answer ends: found in a stream, and no part of one given away.

/// Looks for the first of some texts in pieces that come one by one.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    texts: Vec<String>,
    /// The end of what came, as long as it may be the beginning of one of them.
    held: String,
    found: bool,
}

impl StopStrings {
    /// Stops at any of these; empty ones are none.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let texts = texts.into_iter().filter(|text| !text.is_empty()).collect();
        Self {
            texts,
            ..Self::default()
        }
    }

    /// Whether one was found; what comes then is dropped.
    pub fn found(&self) -> bool {
        self.found
    }

    /// Takes a piece and gives what certainly is not part of a stop text, which may be nothing.
    #[must_use]
    pub fn push(&mut self, piece: &str) -> String {
        if self.found {
            return String::new();
        }
        self.held.push_str(piece);
        let first = self.texts.iter().filter_map(|text| self.held.find(text));
        if let Some(end) = first.min() {
            self.found = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let tail = self.held.split_off(self.safe_len());
        std::mem::replace(&mut self.held, tail)
    }

    /// What was held back, where no more comes.
    #[must_use]
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// How much of what is held is before every possible beginning of a stop text.
    fn safe_len(&self) -> usize {
        let longest = self.texts.iter().map(String::len).max().unwrap_or(0);
        // a beginning is shorter than the whole
        let from = (self.held.len() + 1).saturating_sub(longest);
        let ends = (from..self.held.len()).filter(|&at| self.held.is_char_boundary(at));
        let mut ends = ends.map(|at| (at, &self.held[at..]));
        ends.find(|(_, end)| self.texts.iter().any(|text| text.starts_with(end)))
            .map_or(self.held.len(), |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is given of a text in pieces of so many characters, and whether it was stopped.
    fn given(stops: &[&str], text: &str, chars: usize) -> (String, bool) {
        let mut stop = StopStrings::new(stops.iter().map(|text| (*text).to_owned()));
        let mut out = String::new();
        let all: Vec<char> = text.chars().collect();
        for piece in all.chunks(chars) {
            out += &stop.push(&piece.iter().collect::<String>());
            if stop.found() {
                return (out, true);
            }
        }
        out += &stop.finish();
        (out, false)
    }

    #[test]
    fn ends_before_the_first_of_them_however_the_text_is_cut() {
        for chars in 1..12 {
            let stops = ["\nUser:", "END", "ENDING"];
            assert_eq!(
                given(&stops, "Hello.\nUser: and", chars),
                ("Hello.".to_owned(), true)
            );
            assert_eq!(given(&stops, "the ENDING", chars), ("the ".into(), true));
            assert_eq!(
                given(&stops, "no\nUse of it, EN", chars),
                ("no\nUse of it, EN".to_owned(), false)
            );
            // a beginning within a beginning
            assert_eq!(given(&["aab"], "xaaab", chars), ("xa".into(), true));
            assert_eq!(given(&["\u{fc}x"], "y\u{fc}\u{fc}x", chars).0, "y\u{fc}");
        }
    }

    #[test]
    fn gives_at_once_what_cannot_be_a_beginning() {
        let mut stop = StopStrings::new(["</s>".to_owned(), String::new()]);
        assert_eq!(stop.push("Hello"), "Hello");
        assert_eq!(stop.push(" <"), " ");
        assert_eq!(stop.push("b>"), "<b>");
        assert_eq!(stop.push("</"), "");
        assert_eq!(stop.push("s>never"), "");
        assert!(stop.found());
        assert_eq!(stop.push("this") + &stop.finish(), "");
    }

    #[test]
    fn without_any_everything_goes_through() {
        let mut stop = StopStrings::new([]);
        assert_eq!(stop.push("a\n"), "a\n");
        assert!(!stop.found());
    }
}
