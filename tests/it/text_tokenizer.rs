//! Text into token ids and back, as transformers does it, and whatever the file is.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use bigsmall::base::ErrorKind;
use bigsmall::text::Tokenizer;
use serde_json::Value;
use serde_json::json;

/// The tokenizers with answers of transformers.
pub(crate) const MODELS: [&str; 3] = ["byte-level", "sentencepiece", "unigram"];

pub(crate) fn folder(model: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/data/text").join(model)
}

pub(crate) fn tokenizer(model: &str) -> Tokenizer {
    Tokenizer::open(&folder(model)).unwrap().unwrap()
}

/// What transformers made of texts and chats.
pub(crate) fn answers(model: &str) -> Value {
    read(&folder(model).join("answers.json"))
}

pub(crate) fn ids_of(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A folder with this as its tokenizer.
fn folder_with(json: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("tokenizer.json"), json);
    folder
}

pub(crate) fn put(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    File::create(path).unwrap().write_all(bytes).unwrap();
}

fn from_json(json: &Value) -> bigsmall::base::Result<Tokenizer> {
    let folder = folder_with(json.to_string().as_bytes());
    Tokenizer::open(folder.path()).map(Option::unwrap)
}

/// Where special tokens are in the vocabulary itself, transformers takes them from a text. The one
/// for what is unknown does not count.
fn has_special(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> bool {
    let special = tokenizer.added_tokens().filter(|token| token.is_special);
    let mut special = special.filter(|token| token.text != "<unk>");
    special.any(|token| ids.contains(&token.id) && text.contains(token.text))
}

#[test]
fn ids_and_texts_are_those_of_transformers() {
    for model in MODELS {
        let tokenizer = tokenizer(model);
        for answer in answers(model)["texts"].as_array().unwrap() {
            let text = answer["text"].as_str().unwrap();
            let expected = ids_of(&answer["ids"]);
            let ids = tokenizer.encode(text, false).unwrap();
            if has_special(&tokenizer, text, &expected) {
                assert_eq!(model, "unigram");
                assert!(!has_special(&tokenizer, text, &ids), "{text}: {ids:?}");
                continue;
            }
            assert_eq!(ids, expected, "{model}: {text:?}");
            let decoded = tokenizer.decode(&ids).unwrap();
            assert_eq!(
                decoded,
                answer["decoded"].as_str().unwrap(),
                "{model}: {text:?}"
            );
            let added = answer["added"].as_u64().unwrap() as usize;
            let whole = tokenizer.encode(text, true).unwrap();
            assert_eq!(whole[added..], ids, "{model}: {text:?}");
            assert!(
                whole[..added]
                    .iter()
                    .all(|id| *id == tokenizer.id_of("<s>").unwrap())
            );
        }
    }
}

#[test]
fn special_tokens_that_somebody_writes_stay_text() {
    for model in MODELS {
        let tokenizer = tokenizer(model);
        for text in ["</s>", "a</s>", "<s></s><s>b", "x <s> y", "<s"] {
            let ids = tokenizer.encode(text, false).unwrap();
            assert!(
                !has_special(&tokenizer, text, &ids),
                "{model}: {text}: {ids:?}"
            );
            if model != "unigram" {
                assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{model}");
            }
        }
    }
}

#[test]
fn what_the_vocabulary_holds_is_counted() {
    let tokenizer = tokenizer("byte-level");
    // 2048 of mini-llama, two special ones and three others
    assert_eq!(tokenizer.vocabulary_len(), 2053);
    let added: Vec<_> = tokenizer
        .added_tokens()
        .map(|t| (t.id, t.text, t.is_special))
        .collect();
    assert_eq!(added[0], (0, "<s>", true));
    assert_eq!(added[6], (2052, "    ", false));
    // an id without a token is no text
    assert_eq!(
        tokenizer.decode(&[41, 999_999, u32::MAX, 1, 485]).unwrap(),
        "Hel"
    );
}

/// A stream gives what the library makes of all tokens at once, whole characters at a time.
#[test]
fn tokens_one_by_one_are_those_at_once() {
    let mut state = 7_u32;
    let mut random = |below: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % below
    };
    for model in MODELS {
        let tokenizer = tokenizer(model);
        let library = tokenizers::Tokenizer::from_file(tokenizer.path()).unwrap();
        let texts = ["Grüße 😀北京", " a  b ", "\u{fffd}<s>", "👨‍👩‍👧", "end", "   "];
        for _ in 0..500 {
            let mut ids = Vec::new();
            for _ in 0..=random(6) {
                if random(3) == 0 {
                    ids.push(random(tokenizer.vocabulary_len()) as u32);
                } else {
                    let text = texts[random(texts.len())];
                    ids.extend(tokenizer.encode(text, random(2) == 0).unwrap());
                }
            }
            let mut stream = tokenizer.stream();
            let mut text = String::new();
            for &id in &ids {
                text.extend(stream.push(id).unwrap());
            }
            text += &stream.finish().unwrap();
            assert_eq!(text, tokenizer.decode(&ids).unwrap());
            let expected = library.decode(&ids, true).unwrap();
            // the library gives up whole runs of bytes for one that is wrong
            if model == "byte-level" || !expected.contains('\u{fffd}') {
                assert_eq!(text, expected, "{model}: {ids:?}");
            }
        }
    }
}

#[test]
fn a_character_comes_when_it_is_whole() {
    for model in ["byte-level", "sentencepiece"] {
        let tokenizer = tokenizer(model);
        let ids = tokenizer.encode("😀!", false).unwrap();
        let mut stream = tokenizer.stream();
        let given: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert!(ids.len() > 2, "{model}: {ids:?}");
        let texts: Vec<_> = given.iter().flatten().map(String::as_str).collect();
        assert_eq!(texts, ["😀", "!"], "{model}");
        // cut within the character
        let mut stream = tokenizer.stream();
        let count = ids.len() - 2;
        for &id in &ids[..count] {
            assert_eq!(stream.push(id).unwrap(), None, "{model}");
        }
        assert!(stream.finish().unwrap().starts_with('\u{fffd}'), "{model}");
        assert_eq!(stream.finish().unwrap(), "");
    }
}

#[test]
fn decoders_that_only_the_library_knows_stream_all_the_same() {
    let mut json = read(&folder("sentencepiece").join("tokenizer.json"));
    for decoder in [
        json!({"type": "Sequence", "decoders": [{"type": "ByteFallback"},
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"}]}),
        json!({"type": "WordPiece", "prefix": "##", "cleanup": true}),
        Value::Null,
    ] {
        json["decoder"] = decoder.clone();
        let tokenizer = from_json(&json).unwrap();
        let library: tokenizers::Tokenizer = json.to_string().parse().unwrap();
        let ids = tokenizer
            .encode("Grüße, 北京: a  b 😀😀 end.", false)
            .unwrap();
        let expected = library.decode(&ids, true).unwrap();
        assert_eq!(tokenizer.decode(&ids).unwrap(), expected, "{decoder}");
    }
}

#[test]
fn a_folder_without_a_tokenizer_has_none() {
    let folder = tempfile::tempdir().unwrap();
    assert!(Tokenizer::open(folder.path()).unwrap().is_none());
    // a folder of that name is no file
    fs::create_dir(folder.path().join("tokenizer.json")).unwrap();
    assert!(Tokenizer::open(folder.path()).is_err());
}

#[test]
fn broken_files_are_errors_that_name_them() {
    let whole = fs::read(folder("sentencepiece").join("tokenizer.json")).unwrap();
    for cut in (0..whole.len() - 2).step_by(997) {
        let folder = folder_with(&whole[..cut]);
        let error = Tokenizer::open(folder.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert!(error.path().unwrap().ends_with("tokenizer.json"), "{error}");
    }
    let folder = folder_with(b"");
    let file = File::create(folder.path().join("tokenizer.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    let error = Tokenizer::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OverLimit, "{error}");
}

fn hostile_parts() -> Vec<(&'static str, Value)> {
    let deep = (0..100).fold(
        json!({"type": "Fuse"}),
        |inner, _| json!({"type": "Sequence", "decoders": [inner]}),
    );
    vec![
        (
            "decoder",
            json!({"type": "Strip", "content": "x", "start": 0, "stop": 99}),
        ),
        ("decoder", json!({"type": "Nothing"})),
        ("decoder", json!([[[]]])),
        ("decoder", deep),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 4_294_967_295_u32}, "merges": []}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}),
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {}, "merges": [], "dropout": 7.5}),
        ),
        (
            "model",
            json!({"type": "Unigram", "vocab": [], "unk_id": 9}),
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {}, "unk_token": "?"}),
        ),
        ("model", Value::Null),
        (
            "added_tokens",
            json!([{"id": 4_294_967_295_u32, "content": "", "special": true}]),
        ),
        ("added_tokens", json!("x")),
        (
            "normalizer",
            json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="}),
        ),
        (
            "pre_tokenizer",
            json!({"type": "Split", "pattern": {"Regex": "(((("}, "behavior":
            "Isolated", "invert": false}),
        ),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": [{"SpecialToken":
            {"id": "<x>", "type_id": 0}}], "pair": [], "special_tokens": {}}),
        ),
        (
            "truncation",
            json!({"direction": "Right", "max_length": 0, "strategy": "LongestFirst",
            "stride": 1_000_000}),
        ),
        (
            "padding",
            json!({"strategy": {"Fixed": 1_000_000_000_000_u64}, "direction": "Right",
            "pad_to_multiple_of": 8, "pad_id": 0, "pad_type_id": 0, "pad_token": ""}),
        ),
    ]
}

/// Parts that are JSON, but not what they should be: an error when it is opened or used, or a
/// tokenizer that works all the same, and never a panic.
#[test]
fn hostile_parts_are_errors() {
    let whole = read(&folder("sentencepiece").join("tokenizer.json"));
    for (name, part) in hostile_parts() {
        let mut json = whole.clone();
        json[name] = part.clone();
        let Ok(tokenizer) = from_json(&json) else {
            continue;
        };
        if let Ok(ids) = tokenizer.encode("Some <s> text 😀", true) {
            assert!(ids.len() < 100, "{name}: {part}");
            let _ = tokenizer.decode(&ids);
        }
    }
}

/// Merges are left out by chance in training; a prompt has the same tokens each time.
#[test]
fn nothing_is_left_to_chance() {
    let mut json = read(&folder("byte-level").join("tokenizer.json"));
    json["model"]["dropout"] = json!(0.9);
    let tokenizer = from_json(&json).unwrap();
    let expected = self::tokenizer("byte-level")
        .encode("Hello, world!", false)
        .unwrap();
    for _ in 0..20 {
        assert_eq!(tokenizer.encode("Hello, world!", false).unwrap(), expected);
    }
}

#[test]
fn no_thread_is_started() {
    let count = || fs::read_dir("/proc/self/task").unwrap().count();
    if std::env::var_os("BIGSMALL_TEST_ALONE").is_some() {
        let before = count();
        let tokenizer = tokenizer("byte-level");
        let ids = tokenizer
            .encode(&"some text ".repeat(10_000), true)
            .unwrap();
        tokenizer.decode(&ids).unwrap();
        assert_eq!(count(), before);
        return;
    }
    // alone in a process: other tests come and go here
    let test = std::env::current_exe().unwrap();
    let status = Command::new(test)
        .args([
            "--exact",
            "text_tokenizer::no_thread_is_started",
            "--test-threads=1",
        ])
        .env("BIGSMALL_TEST_ALONE", "1")
        .env("TOKENIZERS_PARALLELISM", "true")
        .status();
    assert!(status.unwrap().success());
}

/// The resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() * 1024
}

/// A vocabulary of so many tokens with as many merges, as long as real ones.
fn large(count: usize) -> Value {
    let mut json = read(&folder("byte-level").join("tokenizer.json"));
    let model = &mut json["model"];
    let mut vocabulary: BTreeMap<String, u32> = BTreeMap::new();
    let mut merges = Vec::new();
    let letters: Vec<String> = (b'a'..=b'z').map(|c| char::from(c).to_string()).collect();
    let mut words = letters.clone();
    for letter in letters {
        let id = vocabulary.len() as u32;
        vocabulary.insert(letter, id);
    }
    let mut from = 0;
    while vocabulary.len() < count {
        let left = words[from / 26].clone();
        let right = words[from % 26].clone();
        from += 1;
        let word = format!("{left}{right}");
        let id = vocabulary.len() as u32;
        if vocabulary.insert(word.clone(), id).is_none() {
            merges.push(json!([left, right]));
            words.push(word);
        }
    }
    model["vocab"] = serde_json::to_value(vocabulary).unwrap();
    model["merges"] = Value::Array(merges);
    json["added_tokens"] = json!([]);
    json
}

/// The most memory that it takes is below the estimate, and not far below it.
#[test]
fn the_estimate_of_memory_holds() {
    if let Some(folder) = std::env::var_os("BIGSMALL_TEST_FOLDER") {
        let before = resident();
        let tokenizer = Tokenizer::open(Path::new(&folder)).unwrap().unwrap();
        tokenizer
            .encode(&"some words of a text ".repeat(1000), true)
            .unwrap();
        let (taken, estimate) = (resident() - before, tokenizer.memory_bytes());
        let len = fs::metadata(tokenizer.path()).unwrap().len();
        eprintln!(
            "file {len}, taken {taken}, factor {:.2}, estimate {estimate}",
            taken as f64 / len as f64
        );
        assert!(taken <= estimate, "{taken} of {estimate}");
        assert!(taken > estimate / 3, "{taken} of {estimate}");
        return;
    }
    let mut folders = vec![(None, folder("byte-level"))];
    for count in [50_000, 150_000] {
        let folder = folder_with(large(count).to_string().as_bytes());
        let path = folder.path().to_owned();
        folders.push((Some(folder), path));
    }
    for (_kept, folder) in folders {
        let test = std::env::current_exe().unwrap();
        let status = Command::new(test)
            .args([
                "--exact",
                "text_tokenizer::the_estimate_of_memory_holds",
                "--test-threads=1",
            ])
            .arg("--nocapture")
            .env("BIGSMALL_TEST_FOLDER", folder)
            .status();
        assert!(status.unwrap().success());
    }
}
