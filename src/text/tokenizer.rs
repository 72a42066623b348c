//! A model's tokenizer, `tokenizer.json`: text into token ids and back.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::path::Path;
use std::path::PathBuf;

use tokenizers::AddedVocabulary;
use tokenizers::Encoding;
use tokenizers::Model as _;
use tokenizers::ModelWrapper;
use tokenizers::OffsetType;
use tokenizers::PreTokenizer as _;
use tokenizers::Token;

use crate::base::Error;
use crate::base::Result;
use crate::base::error::escaped;
use crate::text::beside::ModelFolder;
use crate::text::marks::Piece;
use crate::text::steps::Steps;
use crate::text::tokenizer_file;
use crate::text::tokenizer_file::Shape;

/// Name of the file beside a model.
pub const FILE_NAME: &str = "tokenizer.json";
/// Bytes of memory for each token: its two maps, its merge, and both once more while they are read.
/// Measured as growth of the most resident memory: 44.6 MB for 50 000 tokens with as many merges,
/// 126.8 MB for 150 000.
const MEMORY_BYTES_PER_TOKEN: u64 = 800;
/// For each byte of the file: itself, while it is read.
const MEMORY_BYTES_PER_BYTE: u64 = 2;
/// What the library takes whatever the file, its own expressions and its cache of words: 9.2 MB
/// with the 2000 tokens of a small model.
const MEMORY_BYTES_LEAST: u64 = 12 << 20;

/// A token that is no product of the vocabulary's merges: `<s>`, `<|im_end|>`, `<think>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedToken<'a> {
    /// Its number.
    pub id: u32,
    /// As it is written.
    pub text: &'a str,
    /// Whether it steers the model, and is not shown.
    pub is_special: bool,
}

/// Text into tokens, and back.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    file_len: u64,
    /// Added tokens of which the special ones are text.
    plain: AddedVocabulary,
    /// No added tokens at all.
    bare: AddedVocabulary,
    /// The token for what is not known, which stands for itself nowhere.
    unknown: Option<u32>,
    /// How decoded tokens become text, where that can be told piece by piece.
    steps: Steps,
}

impl fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizer")
            .field("path", &self.path)
            .field("vocabulary_len", &self.vocabulary_len())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Reads `tokenizer.json` of a model's folder; `None` where there is none.
    ///
    /// # Errors
    /// A file that is too large or no tokenizer.
    pub fn open(folder: &(impl ModelFolder + ?Sized)) -> Result<Option<Self>> {
        let path = folder.path_of(FILE_NAME);
        let Some(json) = folder.read(FILE_NAME, tokenizer_file::LEN_MAX)? else {
            return Ok(None);
        };
        Self::from_json(&json, &path)
            .map(Some)
            .map_err(|e| e.file(&path))
    }

    fn from_json(json: &[u8], path: &Path) -> Result<Self> {
        // one text at a time needs no pool of threads
        tokenizers::parallelism::set_parallelism(false);
        let shape = Shape::judged(json)?;
        let mut inner = guarded("cannot be used", || tokenizers::Tokenizer::from_bytes(json))?;
        // a prompt is neither cut nor filled up, whatever the file says of training
        inner.with_padding(None);
        guarded("cannot be used", || inner.with_truncation(None).map(drop))?;
        // merges left out by chance are for training, too, and give other tokens each time
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            inner.with_model(model);
        }
        let mut plain = inner.get_added_vocabulary().clone();
        plain.set_encode_special_tokens(true);
        let unknown = shape.model.unk_token;
        let unknown = unknown.and_then(|token| inner.token_to_id(&token));
        Ok(Self {
            unknown: unknown.or(shape.model.unk_id),
            steps: Steps::of(&shape.decoder),
            inner,
            path: path.to_owned(),
            file_len: json.len() as u64,
            plain,
            bare: AddedVocabulary::new(),
        })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One more than the largest id of a token.
    pub fn vocabulary_len(&self) -> usize {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let added = added.keys().max().map_or(0, |&id| id as usize + 1);
        added.max(self.inner.get_model().get_vocab_size())
    }

    /// An estimate of the memory that it takes, in bytes: the most while it was read.
    pub fn memory_bytes(&self) -> u64 {
        let tokens = self.vocabulary_len() as u64;
        let of_tokens = tokens.saturating_mul(MEMORY_BYTES_PER_TOKEN);
        let of_file = self.file_len.saturating_mul(MEMORY_BYTES_PER_BYTE);
        MEMORY_BYTES_LEAST
            .saturating_add(of_tokens)
            .saturating_add(of_file)
    }

    /// The added tokens, by id.
    pub fn added_tokens(&self) -> impl Iterator<Item = AddedToken<'_>> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let mut tokens: Vec<_> = added
            .iter()
            .map(|(&id, token)| AddedToken {
                id,
                text: &token.content,
                is_special: token.special,
            })
            .collect();
        tokens.sort_unstable_by_key(|token| token.id);
        tokens.into_iter()
    }

    /// The id of a token as it stands in the vocabulary.
    pub fn id_of(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The tokens of a text. Special tokens in it are text; with `add_special_tokens`, those that
    /// the model expects around a text (a BOS, say) are added.
    ///
    /// # Errors
    /// What the library says; a tokenizer that makes special tokens of text in any case.
    pub fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>> {
        let ids = self.text_ids(text, &self.plain, false)?;
        if !add_special_tokens {
            return Ok(ids);
        }
        let tokens = ids.into_iter();
        let tokens = tokens.map(|id| Token::new(id, String::new(), (0, 0)));
        let encoding = Encoding::from_tokens(tokens.collect(), 0);
        let all = self.call("special tokens", || {
            self.inner.post_process(encoding, None, true)
        })?;
        Ok(all.get_ids().to_vec())
    }

    /// The tokens of a rendered chat template. It has written all special tokens by itself, so none
    /// is added.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, pieces: &[Piece]) -> Result<Vec<u32>> {
        let mut ids = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            let goes_on = number > 0;
            ids.extend(match piece {
                Piece::Template(text) => {
                    self.part_ids(text, self.inner.get_added_vocabulary(), goes_on)?
                }
                Piece::Text(text) => self.text_ids(text, &self.bare, goes_on)?,
            });
        }
        Ok(ids)
    }

    pub(super) fn steps(&self) -> &Steps {
        &self.steps
    }

    /// A token as it stands in the vocabulary, where it has text.
    pub(super) fn shown_token(&self, id: u32) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        let added = self.inner.get_added_vocabulary();
        (!added.is_special_token(&token)).then_some(token)
    }

    /// The library's own way of decoding a few tokens.
    pub(super) fn decode_at_once(&self, ids: &[u32]) -> Result<String> {
        self.call("decoding", || self.inner.decode(ids, true))
    }

    /// The tokens of a text in which special tokens are text.
    fn text_ids(&self, text: &str, added: &AddedVocabulary, goes_on: bool) -> Result<Vec<u32>> {
        let ids = self.part_ids(text, added, goes_on)?;
        if self.special_of(text, &ids).is_none() {
            return Ok(ids);
        }
        // the vocabulary itself has the special token: it is cut apart
        let mut ids = Vec::new();
        for (number, part) in self.cut_apart(text).into_iter().enumerate() {
            ids.extend(self.part_ids(part, added, goes_on || number > 0)?);
        }
        match self.special_of(text, &ids) {
            None => Ok(ids),
            Some(token) => {
                let token = escaped(token);
                let what = format!("makes the special token `{token}` of the same text");
                Err(Error::unsupported(what).file(&self.path))
            }
        }
    }

    /// A special token among the ids that also stands in the text.
    fn special_of(&self, text: &str, ids: &[u32]) -> Option<&str> {
        let added = self.inner.get_added_vocabulary().get_added_tokens_decoder();
        let known = ids.iter().filter(|&&id| Some(id) != self.unknown);
        let of_ids = known.filter_map(|id| added.get(id));
        let mut special = of_ids.filter(|token| token.special);
        let found = special.find(|token| text.contains(&token.content));
        found.map(|token| token.content.as_str())
    }

    /// The text, cut after the first character of each special token in it.
    fn cut_apart<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let special = self.added_tokens().filter(|token| token.is_special);
        let mut cuts: Vec<usize> = special
            .flat_map(|token| {
                let first = token.text.chars().next().map_or(0, char::len_utf8);
                let found = text.match_indices(token.text);
                found.map(move |(at, _)| at + first).collect::<Vec<_>>()
            })
            .collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        cuts.dedup();
        let parts = cuts.windows(2).map(|ends| &text[ends[0]..ends[1]]);
        parts.collect()
    }

    /// The tokens of a part of a text. One that goes on after another stands behind a line break
    /// while it is encoded, so that it gets no space in front as the start of a text may.
    fn part_ids(&self, text: &str, added: &AddedVocabulary, goes_on: bool) -> Result<Vec<u32>> {
        if !goes_on {
            return self.ids(text, added);
        }
        let line_break = self.ids("\n", added)?;
        let mut ids = self.ids(&format!("\n{text}"), added)?;
        if ids.starts_with(&line_break) {
            Ok(ids.split_off(line_break.len()))
        } else {
            // the line break became part of another token
            self.ids(text, added)
        }
    }

    fn ids(&self, text: &str, added: &AddedVocabulary) -> Result<Vec<u32>> {
        self.call("encoding", || {
            let mut parts = added.extract_and_normalize(self.inner.get_normalizer(), text);
            if let Some(splitter) = self.inner.get_pre_tokenizer() {
                splitter.pre_tokenize(&mut parts)?;
            }
            let model = self.inner.get_model();
            model.tokenize_in_pretokenized(&mut parts, None)?;
            let encoding = parts.into_encoding(None, 0, OffsetType::None)?;
            Ok(encoding.get_ids().to_vec())
        })
    }

    fn call<T>(&self, what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
        guarded(what, call).map_err(|e| e.file(&self.path))
    }
}

/// Calls the library. It trusts its files, so that a broken one may also make it panic, within
/// nothing but its own values.
fn guarded<T>(what: &str, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) => {
            let reason = escaped(&e.to_string());
            Err(Error::damaged(format!("{what}: {reason}")))
        }
        Err(_) => Err(Error::damaged(format!("{what}: it is inconsistent"))),
    }
}
