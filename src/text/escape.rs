//! Text of a model on a terminal: it may say anything, but it may not command the terminal.

use std::borrow::Cow;

/// Text with control characters and marks of direction written as escapes, as `\u{1b}`; line breaks
/// and tabs stay. Each character is judged alone, so pieces of a stream may be given one by one.
pub fn for_terminal(text: &str) -> Cow<'_, str> {
    if !text.contains(commands) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if commands(c) {
            shown.extend(c.escape_unicode());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

/// Whether a character moves the cursor, starts a sequence or turns the direction of a line.
fn commands(c: char) -> bool {
    let direction = matches!(
        c,
        '\u{61c}' | '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    c.is_control() && c != '\n' && c != '\t' || direction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_commands_the_terminal() {
        // clears the screen; goes back over the line; C1's short form of the same; turns the line
        let hostile = "a\x1b[2Jb\rc\u{9b}2Jd\u{202e}e\u{2066}f\x07g\x7fh\0";
        let shown = for_terminal(hostile);
        assert_eq!(
            shown,
            "a\\u{1b}[2Jb\\u{d}c\\u{9b}2Jd\\u{202e}e\\u{2066}f\\u{7}g\\u{7f}h\\u{0}"
        );
    }

    #[test]
    fn ordinary_text_stays_where_it_is() {
        let text = "Gr\u{fc}\u{df}e,\n\t\u{4f60}\u{597d} \u{1f600} e\u{301}\n";
        assert!(matches!(for_terminal(text), Cow::Borrowed(shown) if shown == text));
    }

    #[test]
    fn pieces_and_the_whole_are_the_same() {
        let text = "x\x1b[0m\u{202d}y";
        let pieces: String = text
            .chars()
            .map(|c| for_terminal(&c.to_string()).into_owned())
            .collect();
        assert_eq!(pieces, for_terminal(text));
    }
}
