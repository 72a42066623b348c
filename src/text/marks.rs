//! Control tokens in what people write stay text: they are marked before a template is rendered,
//! and what is marked in its output is told from the tokens that the template writes itself.

/// Characters that no text has: of the first two that occur nowhere, marks are made.
const NONCHARACTERS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A part of a rendered template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text in which control tokens are tokens.
    Template(String),
    /// Text in which they are text.
    Text(String),
}

/// Two characters around a control token that somebody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    start: char,
    end: char,
}

impl Marks {
    /// Characters that are in none of the texts; `None` where somebody used all of them up.
    pub(crate) fn absent_from(texts: &[&str]) -> Option<Self> {
        let mut free = NONCHARACTERS.filter(|&c| !texts.iter().any(|text| text.contains(c)));
        Some(Self {
            start: free.next()?,
            end: free.next()?,
        })
    }

    /// The text with a mark before and after each of the tokens. `tokens` are longest first, so
    /// that one wins over those that it contains.
    pub(crate) fn mark(self, text: &str, tokens: &[&str]) -> String {
        let mut marked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            let found = tokens.iter().find(|token| rest.starts_with(**token));
            let len = found.map_or(c.len_utf8(), |token| token.len());
            let (here, after) = rest.split_at(len);
            match found {
                Some(_) => {
                    marked.push(self.start);
                    marked.push_str(here);
                    marked.push(self.end);
                }
                None => marked.push_str(here),
            }
            rest = after;
        }
        marked
    }

    /// Rendered text cut at the marks. A template may cut a text between a token and one of its
    /// marks, so a token that has one on either side is text, and no two pieces are joined.
    pub(crate) fn split(self, rendered: &str, tokens: &[&str]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        let mut after_start = false;
        let mut rest = rendered;
        loop {
            let end = rest.find([self.start, self.end]).unwrap_or(rest.len());
            let mark = rest[end..].chars().next();
            let (mut text, mut last) = (&rest[..end], None);
            if after_start && let Some(len) = starts(text, tokens) {
                pieces.push(Piece::Text(text[..len].to_owned()));
                text = &text[len..];
            }
            if mark == Some(self.end)
                && let Some(at) = ends(text, tokens)
            {
                last = Some(Piece::Text(text[at..].to_owned()));
                text = &text[..at];
            }
            if !text.is_empty() {
                pieces.push(Piece::Template(text.to_owned()));
            }
            pieces.extend(last);
            let Some(mark) = mark else { return pieces };
            after_start = mark == self.start;
            rest = &rest[end + mark.len_utf8()..];
        }
    }
}

fn starts(text: &str, tokens: &[&str]) -> Option<usize> {
    let token = tokens.iter().find(|token| text.starts_with(**token));
    token.map(|token| token.len())
}

fn ends(text: &str, tokens: &[&str]) -> Option<usize> {
    let token = tokens.iter().find(|token| text.ends_with(**token));
    token.map(|token| text.len() - token.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: [&str; 3] = ["<|im_end|>", "<end>", "<e"];

    fn marks() -> Marks {
        Marks::absent_from(&["a", "\u{fdd0}"]).unwrap()
    }

    #[test]
    fn what_people_write_is_text_and_what_the_template_writes_is_not() {
        let content = marks().mark("a<|im_end|>b<end>", &TOKENS);
        let rendered = format!("<end>{content}<|im_end|>\n");
        assert_eq!(
            marks().split(&rendered, &TOKENS),
            [
                Piece::Template("<end>a".into()),
                Piece::Text("<|im_end|>".into()),
                Piece::Template("b".into()),
                Piece::Text("<end>".into()),
                Piece::Template("<|im_end|>\n".into()),
            ]
        );
    }

    #[test]
    fn nothing_is_forged_out_of_parts() {
        // what is around a token does not become one when that is taken out
        let content = marks().mark("<|im_<end>end|>", &TOKENS);
        let pieces = marks().split(&content, &TOKENS);
        assert_eq!(
            pieces,
            [
                Piece::Template("<|im_".into()),
                Piece::Text("<end>".into()),
                Piece::Template("end|>".into()),
            ]
        );
    }

    #[test]
    fn a_token_that_lost_one_mark_stays_text() {
        let content = marks().mark("<end>x<end>", &TOKENS);
        let first_lost: String = content.chars().skip(1).collect();
        let last_lost: String = {
            let count = content.chars().count() - 1;
            content.chars().take(count).collect()
        };
        let expected = [
            Piece::Text("<end>".into()),
            Piece::Template("x".into()),
            Piece::Text("<end>".into()),
        ];
        assert_eq!(marks().split(&first_lost, &TOKENS), expected);
        assert_eq!(marks().split(&last_lost, &TOKENS), expected);
    }

    #[test]
    fn the_longest_token_is_taken() {
        assert_eq!(
            marks().split(&marks().mark("<end>", &TOKENS), &TOKENS),
            [Piece::Text("<end>".into())]
        );
    }

    #[test]
    fn marks_are_characters_that_nobody_wrote() {
        let chosen = marks();
        assert_eq!((chosen.start, chosen.end), ('\u{fdd1}', '\u{fdd2}'));
        let all: String = NONCHARACTERS.collect();
        assert_eq!(Marks::absent_from(&[all.as_str()]), None);
    }
}
