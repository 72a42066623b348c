//! Jinja as chat templates expect it: what transformers adds to it, the methods of Python's strings
//! and dicts, and bounds on what a hostile template can cost.

use std::fmt;
use std::fmt::Write as _;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use minijinja::Environment;
use minijinja::Error;
use minijinja::ErrorKind;
use minijinja::Output;
use minijinja::State;
use minijinja::Value;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::value::ValueKind;
use minijinja_contrib::pycompat::unknown_method_callback;

use crate::text::namespace;

/// Calls within calls. Each takes stack; real templates have a handful.
const RECURSION_MAX: usize = 64;
/// Lists within lists, as JSON.
const JSON_DEPTH_MAX: usize = 64;
/// One unit of fuel pays for so many bytes, in the library's own counting.
const BYTES_PER_FUEL: usize = 64;

/// What `raise_exception` was given: the template's own words for what is wrong with the messages.
#[derive(Debug)]
pub(crate) struct Raised(pub(crate) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without templates, set as transformers sets its own.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build();
    // only delimiters can be wrong, and these are Jinja's own
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_recursion_limit(RECURSION_MAX);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(unknown_method_callback);
    environment.set_formatter(print);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment.add_function("namespace", namespace::namespace);
    environment.add_function(namespace::SET, namespace::set);
    environment.add_filter("tojson", to_json);
    environment
}

/// Values as Python prints them.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("None")?,
        ValueKind::Bool if value.is_true() => out.write_str("True")?,
        ValueKind::Bool => out.write_str("False")?,
        // printing these walks through all they hold, which may be themselves
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable => {
            let mut text = String::new();
            write_json(state, value, &Json::default(), 0, &mut text)?;
            out.write_str(&text)?;
        }
        _ => return minijinja::escape_formatter(out, state, value),
    }
    Ok(())
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.to_owned());
    Err(error.with_source(Raised(message.to_owned())))
}

/// The time now, in UTC.
fn strftime_now(format: &str) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    strftime(format, now.map_or(0, |now| now.as_secs()))
}

/// A time, in seconds since 1970 and in UTC, as `format` says.
fn strftime(format: &str, seconds: u64) -> Result<String, Error> {
    const DAYS: [&str; 7] = [
        "Thursday",
        "Friday",
        "Saturday",
        "Sunday",
        "Monday",
        "Tuesday",
        "Wednesday",
    ];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let (year, month, day) = date(days);
    let weekday = DAYS[(days % 7) as usize];
    let month_name = MONTHS[month as usize - 1];
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut letter = chars.next().unwrap_or('%');
        // no zeros in front
        let plain = letter == '-';
        if plain {
            letter = chars.next().unwrap_or('%');
        }
        let width = if plain { 0 } else { 2 };
        let written = match letter {
            'Y' => write!(out, "{year}"),
            'y' => write!(out, "{:0width$}", year % 100),
            'm' => write!(out, "{month:0width$}"),
            'd' => write!(out, "{day:0width$}"),
            'e' => write!(out, "{day:2}"),
            'H' => write!(out, "{hour:0width$}"),
            'I' => write!(out, "{:0width$}", (hour + 11) % 12 + 1),
            'M' => write!(out, "{minute:0width$}"),
            'S' => write!(out, "{second:0width$}"),
            'p' => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            'A' => write!(out, "{weekday}"),
            'a' => write!(out, "{}", &weekday[..3]),
            'B' => write!(out, "{month_name}"),
            'b' | 'h' => write!(out, "{}", &month_name[..3]),
            'F' => write!(out, "{year}-{month:02}-{day:02}"),
            'T' => write!(out, "{hour:02}:{minute:02}:{second:02}"),
            'Z' => write!(out, "UTC"),
            '%' => write!(out, "%"),
            other => {
                let what = format!("strftime_now: `%{other}` is not known");
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
        };
        written?;
    }
    Ok(out)
}

/// Year, month and day of a number of days since 1970 (H. Hinnant, "chrono-compatible low-level
/// date algorithms": eras of 400 years, years that begin in March).
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// How Python's `json.dumps` is asked to write.
#[derive(Default)]
struct Json {
    indent: Option<usize>,
    separators: Option<(String, String)>,
    is_ascii: bool,
    is_sorted: bool,
}

impl Json {
    fn item(&self) -> &str {
        match (&self.separators, self.indent) {
            (Some((item, _)), _) => item,
            (None, Some(_)) => ",",
            (None, None) => ", ",
        }
    }

    fn key(&self) -> &str {
        self.separators.as_ref().map_or(": ", |(_, key)| key)
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }
}

/// The filter `tojson`, with the options that transformers gives it.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the library hands arguments over so"
)]
fn to_json(
    state: &mut State<'_, '_>,
    value: &Value,
    indent: Option<usize>,
    options: Kwargs,
) -> Result<String, Error> {
    let separators = match options.get::<Option<Vec<String>>>("separators")? {
        None => None,
        Some(pair) => {
            let Ok([item, key]) = <[String; 2]>::try_from(pair) else {
                let what = "tojson: `separators` are two texts";
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            };
            Some((item, key))
        }
    };
    let json = Json {
        indent: options
            .get::<Option<usize>>("indent")?
            .or(indent)
            .map(|n| n.min(16)),
        separators,
        is_ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        is_sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    write_json(state, value, &json, 0, &mut out)?;
    Ok(out)
}

fn write_json(
    state: &State<'_, '_>,
    value: &Value,
    json: &Json,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    if depth > JSON_DEPTH_MAX {
        let what = "a value within itself, or lists in too many lists";
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    // at most 16 bytes of indent for each list around it, twice
    state.consume_fuel(1 + depth as u64)?;
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write!(out, "{value}")?,
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.map(|item| (None, item));
            write_all(state, items, ['[', ']'], json, depth, out)?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if json.is_sorted {
                keys.sort();
            }
            let mut items = Vec::new();
            for key in keys {
                items.push((Some(key.to_string()), value.get_item(&key)?));
            }
            write_all(state, items.into_iter(), ['{', '}'], json, depth, out)?;
        }
        _ => write_string(state, &value.to_string(), json.is_ascii, out)?,
    }
    Ok(())
}

fn write_all(
    state: &State<'_, '_>,
    items: impl Iterator<Item = (Option<String>, Value)>,
    [open, close]: [char; 2],
    json: &Json,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    out.push(open);
    let between = (json.item().len() + json.key().len()) / BYTES_PER_FUEL;
    let mut is_empty = true;
    for (key, item) in items {
        state.consume_fuel(between as u64)?;
        if !is_empty {
            out.push_str(json.item());
        }
        is_empty = false;
        json.line(depth + 1, out);
        if let Some(key) = key {
            write_string(state, &key, json.is_ascii, out)?;
            out.push_str(json.key());
        }
        write_json(state, &item, json, depth + 1, out)?;
    }
    if !is_empty {
        json.line(depth, out);
    }
    out.push(close);
    Ok(())
}

fn write_string(
    state: &State<'_, '_>,
    text: &str,
    is_ascii: bool,
    out: &mut String,
) -> Result<(), Error> {
    state.consume_fuel((text.len() / BYTES_PER_FUEL) as u64)?;
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => write!(out, "\\u{:04x}", u32::from(c))?,
            c if is_ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let mut environment = environment();
        environment.set_fuel(Some(100_000));
        environment
            .render_str(source, minijinja::context! { t => true, n => () })
            .unwrap()
    }

    #[test]
    fn json_is_that_of_python() {
        // json.dumps(x, ensure_ascii=False), as transformers has it
        let value = r#"{"b": [1, 2.5, none, true, "<'\"\n\u00fc>"], "a": {}, "c": []}"#;
        assert_eq!(
            render(&format!("{{{{ {value}|tojson }}}}")),
            "{\"b\": [1, 2.5, null, true, \"<'\\\"\\n\u{fc}>\"], \"a\": {}, \"c\": []}"
        );
        assert_eq!(
            render(r#"{{ {"a": [1, {"b": 2}]}|tojson(indent=2) }}"#),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ]\n}"
        );
        assert_eq!(
            render(
                r#"{{ {"b": "\u00fc", "a": 1}|tojson(separators=(",", ":"), sort_keys=true,
                ensure_ascii=true) }}"#
            ),
            r#"{"a":1,"b":"\u00fc"}"#
        );
    }

    #[test]
    fn prints_as_python_does() {
        assert_eq!(
            render("{{ t }} {{ n }} {{ not t }} {{ 1 }} {{ 'x' }}"),
            "True None False 1 x"
        );
    }

    #[test]
    fn strings_and_dicts_have_their_methods() {
        assert_eq!(
            render(
                "{% for k, v in {'a': ' x '}.items() %}{{ k }}{{ v.strip() }}{% endfor %}\
                 {{ 'a</t>b'.split('</t>')[-1].lstrip('b') }}{{ 'ab'.startswith('a') }}"
            ),
            "axTrue"
        );
    }

    #[test]
    fn blocks_take_their_lines_along() {
        assert_eq!(render("  {% if t %}\nx\n  {% endif %}\ny\n"), "x\ny");
        assert_eq!(
            render(
                "{% for n in range(9) %}{% if n > 2 %}{% break %}{% endif %}{{ n }}{% endfor %}"
            ),
            "012"
        );
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let leap = 1_709_208_001; // date -u -d @1709208001
        assert_eq!(strftime("%d %b %Y", leap).unwrap(), "29 Feb 2024");
        assert_eq!(
            strftime("%A, %B %-d, %y %H:%M:%S %I%p %F %T %%", leap).unwrap(),
            "Thursday, February 29, 24 12:00:01 12PM 2024-02-29 12:00:01 %"
        );
        assert_eq!(strftime("%a %F", 0).unwrap(), "Thu 1970-01-01");
        assert_eq!(strftime("%F", 951_868_799).unwrap(), "2000-02-29");
        assert!(strftime("%Q", 0).is_err());
    }
}
