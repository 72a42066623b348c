//! Chat templates: messages into the text that a model was trained on, with what people wrote told
//! from what the template writes.

use std::error::Error as _;
use std::path::Path;
use std::path::PathBuf;

use minijinja::Environment;
use minijinja::ErrorKind;
use minijinja::Value;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::Error;
use crate::base::Result;
use crate::base::error::escaped;
use crate::text::beside;
use crate::text::beside::ModelFolder;
use crate::text::jinja;
use crate::text::jinja::Raised;
use crate::text::marks::Marks;
use crate::text::marks::Piece;
use crate::text::template_source;
use crate::text::tokenizer::Tokenizer;

/// The longest known templates have some tens of thousands of bytes.
const TEMPLATE_LEN_MAX: u64 = 1 << 20;
/// Those that list all added tokens have some megabytes.
const CONFIG_LEN_MAX: u64 = 16 << 20;
/// What a template may do, in units of the library: an instruction, or 64 bytes made. Real ones
/// need some hundred for each message; this ends a hostile one, at 128 MB at most.
const FUEL: u64 = 2_000_000;
/// For each message on top of it.
const FUEL_PER_MESSAGE: u64 = 10_000;
/// For each byte of the messages: some templates look at every character.
const FUEL_PER_BYTE: u64 = 16;
const CONFIG_NAME: &str = "tokenizer_config.json";
const TEMPLATE_NAME: &str = "chat_template.jinja";
const TOKENS_NAME: &str = "special_tokens_map.json";
/// The name of the one template, as its errors say it.
const NAME: &str = "chat template";
/// What somebody said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who: `system`, `user`, `assistant`.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self {
            role: role.into(),
            content: content.into(),
        }
    }
}

/// A model's chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// Where it came from, for errors.
    path: PathBuf,
    source: String,
    /// `bos_token` and the like, where the model has them.
    named_tokens: Vec<(&'static str, String)>,
    /// What stays text in what anybody wrote, longest first.
    special: Vec<String>,
    /// The same, and what is no special token but is in the template, as `<think>`.
    control: Vec<String>,
}

/// What is read of `tokenizer_config.json`: the template, and the tokens that it calls by name.
/// `special_tokens_map.json` has the same tokens.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    chat_template: Option<Templates>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    cls_token: Option<Token>,
    mask_token: Option<Token>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object {
        content: String,
    },
    /// Old files have numbers and lists here, which mean nothing.
    Other(IgnoredAny),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

impl Config {
    fn named_tokens(self) -> Vec<(&'static str, String)> {
        let all = [
            ("bos_token", self.bos_token),
            ("eos_token", self.eos_token),
            ("unk_token", self.unk_token),
            ("sep_token", self.sep_token),
            ("pad_token", self.pad_token),
            ("cls_token", self.cls_token),
            ("mask_token", self.mask_token),
        ];
        let named = all.into_iter().filter_map(|(name, token)| match token? {
            Token::Text(text) | Token::Object { content: text } => Some((name, text)),
            Token::Other(_) => None,
        });
        named.collect()
    }
}

impl ChatTemplate {
    /// The template of a model's folder: `chat_template.jinja`, else the one in
    /// `tokenizer_config.json`, of several the one named `default`. `None` where there is none.
    ///
    /// # Errors
    /// Files that cannot be read, and a template that is no Jinja.
    pub fn open(
        folder: &(impl ModelFolder + ?Sized),
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>> {
        let config_path = folder.path_of(CONFIG_NAME);
        let config = beside::read_json::<Config>(folder, CONFIG_NAME, CONFIG_LEN_MAX)?;
        let mut config = config.unwrap_or_default();
        let source = beside::read_text(folder, TEMPLATE_NAME, TEMPLATE_LEN_MAX)?;
        let (path, source) = match source {
            Some(source) => (folder.path_of(TEMPLATE_NAME), source),
            None => match config.chat_template.take() {
                None => return Ok(None),
                Some(templates) => {
                    let source = default_of(templates).map_err(|e| e.file(&config_path))?;
                    (config_path, source)
                }
            },
        };
        let mut named = config.named_tokens();
        if named.is_empty() {
            // older models have them in a file of their own
            let map = beside::read_json::<Config>(folder, TOKENS_NAME, CONFIG_LEN_MAX)?;
            named = map.unwrap_or_default().named_tokens();
        }
        Self::new(&path, source, named, tokenizer).map(Some)
    }

    fn new(
        path: &Path,
        source: String,
        named_tokens: Vec<(&'static str, String)>,
        tokenizer: &Tokenizer,
    ) -> Result<Self> {
        let mut environment = jinja::environment();
        let prepared = template_source::prepared(&source);
        let added = environment.add_template_owned(NAME, prepared);
        added.map_err(|e| told(&e).file(path))?;
        let longest_first = |mut tokens: Vec<String>| {
            tokens.sort_by_key(|token| std::cmp::Reverse(token.len()));
            tokens
        };
        let special = tokenizer.added_tokens().filter(|token| token.is_special);
        let special = special.map(|token| token.text.to_owned()).collect();
        // white space is text in templates, whatever else it is
        let control = tokenizer.added_tokens().filter(|token| {
            let is_named = source.contains(token.text) && !token.text.trim().is_empty();
            token.is_special || is_named
        });
        let control = control.map(|token| token.text.to_owned()).collect();
        Ok(Self {
            environment,
            path: path.to_owned(),
            source,
            named_tokens,
            special: longest_first(special),
            control: longest_first(control),
        })
    }

    /// Where it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The messages as the model knows them; with `add_generation_prompt`, and the beginning of its
    /// answer. Control tokens in what anybody wrote stay text. What an assistant said is taken as
    /// the model wrote it: of the tokens in it only special ones, which are never shown, stay text.
    ///
    /// # Errors
    /// What the template says of these messages; a template that does too much.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Vec<Piece>> {
        let mut texts = vec![self.source.as_str()];
        texts.extend(messages.iter().flat_map(|m| [&*m.role, &*m.content]));
        let marks = Marks::absent_from(&texts).ok_or_else(|| {
            let what = "the messages have every character of U+FDD0 to U+FDEF, which no text has";
            Error::invalid(what)
        })?;
        let control: Vec<&str> = self.control.iter().map(String::as_str).collect();
        let special: Vec<&str> = self.special.iter().map(String::as_str).collect();
        let marked = messages.iter().map(|message| {
            let tokens = match &*message.role {
                "assistant" => &special,
                _ => &control,
            };
            Value::from_pairs([
                ("role", Value::from(marks.mark(&message.role, &control))),
                ("content", Value::from(marks.mark(&message.content, tokens))),
            ])
        });
        let mut context = vec![
            ("messages", marked.collect::<Value>()),
            ("add_generation_prompt", Value::from(add_generation_prompt)),
            ("tools", Value::from(())),
            ("documents", Value::from(())),
        ];
        for (name, token) in &self.named_tokens {
            context.push((name, Value::from(token.as_str())));
        }
        let rendered = self.run(messages, Value::from_pairs(context))?;
        Ok(marks.split(&rendered, &control))
    }

    fn run(&self, messages: &[Message], context: Value) -> Result<String> {
        let len: usize = messages.iter().map(|m| m.content.len()).sum();
        let fuel = FUEL
            .saturating_add((messages.len() as u64).saturating_mul(FUEL_PER_MESSAGE))
            .saturating_add((len as u64).saturating_mul(FUEL_PER_BYTE));
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        let template = environment.get_template(NAME);
        template
            .and_then(|template| template.render(context))
            .map_err(|e| told(&e).file(&self.path))
    }
}

fn default_of(templates: Templates) -> Result<String> {
    let all = match templates {
        Templates::One(source) => return Ok(source),
        Templates::Named(all) => all,
    };
    let default = all.into_iter().find(|template| template.name == "default");
    default.map(|template| template.template).ok_or_else(|| {
        Error::unsupported("`chat_template` has several templates, and none named `default`")
    })
}

/// An error of the template in this library's words.
fn told(error: &minijinja::Error) -> Error {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            let what = format!(
                "the chat template refuses these messages: {}",
                escaped(message)
            );
            return Error::invalid(what);
        }
        source = cause.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return Error::over_limit("the chat template does more than any needs, and was stopped");
    }
    let line = error
        .line()
        .map_or(String::new(), |line| format!(", line {line}"));
    let what = error
        .detail()
        .map_or(error.kind().to_string(), str::to_owned);
    Error::unsupported(format!("chat template{line}: {}", escaped(&what)))
}
