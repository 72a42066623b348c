//! The source of a template, put into words that the library has: tags that only mark what an
//! assistant said are left out, and attributes of namespaces are set by a function.

use crate::text::namespace;

/// The source, with these tags replaced and all else as it is.
pub(crate) fn prepared(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find('{') {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let len = match tag.as_bytes().get(1) {
            Some(b'%') => tag_len(tag, "%}"),
            Some(b'{') => tag_len(tag, "}}"),
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            _ => 1,
        };
        let (tag, after) = tag.split_at(len);
        rest = after;
        let inner = tag
            .strip_prefix("{%")
            .and_then(|tag| tag.strip_suffix("%}"));
        let Some(inner) = inner else {
            out.push_str(tag);
            continue;
        };
        out.push_str(&statement(inner).unwrap_or_else(|| tag.to_owned()));
        if words(inner).1 == "raw" {
            let (raw, after) = rest.split_at(raw_len(rest));
            out.push_str(raw);
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// Up to its end, which is none within quotes.
fn tag_len(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in tag.char_indices().skip(2) {
        match quote {
            _ if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => quote = Some(c),
            None if tag[at..].starts_with(end) => return at + end.len(),
            _ => {}
        }
    }
    tag.len()
}

/// Up to the tag that ends raw text.
fn raw_len(text: &str) -> usize {
    let ends = text.match_indices("{%").map(|(at, _)| at);
    let mut ends = ends.filter(|&at| {
        let after = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        after.starts_with("endraw")
    });
    ends.next().unwrap_or(text.len())
}

/// The mark before the words of a tag, the words, and the mark after them.
fn words(inner: &str) -> (&str, &str, &str) {
    let body = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let before = &inner[..inner.len() - body.len()];
    let words = body.strip_suffix(['-', '+']).unwrap_or(body);
    let after = &body[words.len()..];
    (before, words.trim(), after)
}

/// Another tag in place of this one.
fn statement(inner: &str) -> Option<String> {
    let (before, words, after) = words(inner);
    let words = match words {
        "generation" => "if true".to_owned(),
        "endgeneration" => "endif".to_owned(),
        _ => set_attribute(words)?,
    };
    Some(format!("{{%{before} {words} {after}%}}"))
}

/// `set a.b = c` as a call.
fn set_attribute(words: &str) -> Option<String> {
    let assignment = words.strip_prefix("set")?;
    if !assignment.starts_with(char::is_whitespace) {
        return None;
    }
    let (target, value) = assignment.split_once('=')?;
    let (object, name) = target.trim().rsplit_once('.')?;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let is_plain = name.chars().all(is_name) && object.chars().all(|c| is_name(c) || c == '.');
    let set = namespace::SET;
    is_plain.then(|| format!("set __set = {set}({object}, \"{name}\", ({value}))"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_generation_are_left_out() {
        assert_eq!(
            prepared("{%- generation -%} a {%+ endgeneration %}{%generation%}"),
            "{%- if true -%} a {%+ endif %}{% if true %}"
        );
    }

    #[test]
    fn attributes_are_set_by_a_function() {
        assert_eq!(
            prepared("{%- set ns.found = a.b == '%}' -%}x"),
            "{%- set __set = __set_attribute(ns, \"found\", ( a.b == '%}')) -%}x"
        );
    }

    #[test]
    fn all_else_stays() {
        for source in [
            "{% set found = ns.x %}",
            "{% set x.y %}{% endset %}",
            "{% settle.x = 1 %}",
            "{# {% set ns.x = 1 %} #}",
            "{{ '{% set ns.x = 1 %}' }}",
            "{% raw %}{% set ns.x = 1 %}{%- endraw %}",
            "{% if a == '{% set ns.x = 1 %}' %}",
            "{ % {",
            "{% set ns.x = '",
            "{%",
            "{{ {'a': 1} }}",
        ] {
            assert_eq!(prepared(source), source);
        }
        // and after raw text it goes on
        let after = prepared("{% raw %}{{{% endraw %}{% set ns.x = 1 %}");
        assert!(
            after.starts_with("{% raw %}{{{% endraw %}{% set __set ="),
            "{after}"
        );
    }
}
