//! What people read: numbers and the words behind them agree. Every command is run where there is
//! one of everything.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::convert;
use crate::mirrors::model;
use crate::mirrors::tuned;
use crate::program::bigsmall;
use crate::program::stderr;
use crate::program::stdout;
use crate::roundtrip::put;

/// Each after the one before, where there is one of everything that it may count.
const COMMANDS: &[&str] = &[
    "compress src -o out --ecc",
    "compress src -o out",
    "compress src -o one.bs",
    "compress src -o series --series",
    "compress src/m.safetensors -o m.bs --ecc",
    "compress src/m.safetensors -o m.bs --resume",
    "compress tuned.safetensors -o t.bs --auto-delta --base-dir src",
    "compress other/x.safetensors -o x.bs --auto-delta --base-dir src",
    "scan src",
    "scan src links",
    "info out",
    "info one.bs -t",
    "info t.bs --base src",
    "info t.bs",
    "stat m.bs",
    "diff src tuned.safetensors",
    "diff src m.bs",
    "xray m.bs",
    "xray m.bs --html page.html",
    "bench src/m.safetensors --runs 1 --profile balanced --simd scalar",
    "profile m.bs -j 1",
    "verify out",
    "verify m.bs --fast",
    "verify m.bs --sample 1",
    "verify t.bs --base src",
    "verify deltas",
    "verify damaged",
    "verify damaged --sample 1",
    "decompress damaged -o back",
    "scrub damaged --memory memory",
    "scrub deltas --memory memory",
    "scrub out --memory memory",
    "doctor damaged",
    "doctor doctored",
    "repair damaged/m.bs",
    "repair damaged/m.bs",
    "protect out",
    "decompress out -o back1",
    "decompress one.bs -o back2",
    "decompress t.bs -o back3 --base src",
    "apply src t.bs -o back4",
    "transcode m.bs s.bs --profile storage",
    "transcode out s --profile storage",
    "reshard m.bs cut --join",
    "reshard m.bs cut2 --shards 2",
    "import package.bs -o package.safetensors.bs",
    "migrate packages",
    "migrate packages",
    "migrate cut",
    "convert src --dry-run",
    "convert other --dry-run",
    "convert other -y",
    "restore other --dry-run",
    "restore other -y",
    "convert other -y",
    "rm m.bs --dry-run",
    "rm other/x.bs m.bs",
    "restore other -y",
    "rm t.bs",
];

fn prepare(at: &Path) {
    for place in [
        "src/sub", "links", "other", "deltas", "damaged", "doctored", "packages",
    ] {
        fs::create_dir_all(at.join(place)).unwrap();
    }
    put(&at.join("src/m.safetensors"), &model(1));
    put(&at.join("src/note"), b"one");
    fs::hard_link(at.join("src/m.safetensors"), at.join("links/n")).unwrap();
    put(&at.join("tuned.safetensors"), &tuned(&model(1), 2, 10));
    put(
        &at.join("other/x.safetensors"),
        &crate::models::small_file(),
    );
    let package = "tests/golden/python-package/bf16-1.0.1.bs";
    let package = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(package)).unwrap();
    put(&at.join("package.bs"), &package);
    put(&at.join("packages/p.bs"), &package);
    for words in [
        &[
            "compress",
            "src/m.safetensors",
            "-o",
            "damaged/m.bs",
            "--ecc",
        ][..],
        &[
            "compress",
            "tuned.safetensors",
            "-o",
            "deltas/t.bs",
            "--base",
            "src",
        ],
    ] {
        assert!(bigsmall(at, words).status.success(), "{words:?}");
    }
    let parity = fs::read(at.join("damaged/m.bs.par")).unwrap();
    put(&at.join("doctored/gone.bs.par"), &parity);
    let image = fs::File::options();
    let image = image
        .clone()
        .write(true)
        .open(at.join("damaged/m.bs"))
        .unwrap();
    image.write_all_at(b"damage", 30_000).unwrap();
}

/// `1 files`, `(1 images`: a one before a word of many.
fn one_of_many(text: &str) -> Option<String> {
    // no plurals, though they end like some
    const EXCEPTIONS: &[&str] = &["is", "was", "has", "needs", "less", "pass", "its", "as"];
    let words: Vec<&str> = text.split_whitespace().collect();
    let pairs = words.windows(2).map(|pair| (pair[0], pair[1]));
    let is_wrong = |(number, word): &(&str, &str)| {
        let number = number.trim_start_matches(|c: char| !c.is_alphanumeric());
        let word = word.trim_end_matches(|c: char| !c.is_alphanumeric());
        let is_plain = word.bytes().all(|byte| byte.is_ascii_lowercase());
        let is_many = word.len() > 2 && word.ends_with('s') && is_plain;
        number == "1" && is_many && !EXCEPTIONS.contains(&word)
    };
    let wrong = pairs
        .filter(is_wrong)
        .map(|(number, word)| format!("{number} {word}"));
    wrong.reduce(|all, one| format!("{all}, {one}"))
}

#[test]
fn one_is_never_called_many() {
    let folder = tempfile::tempdir().unwrap();
    // `rm` looks into the folders beside this one
    let at = &folder.path().join("here");
    prepare(at);
    let mut wrong = Vec::new();
    for line in COMMANDS {
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[0] {
            "convert" => convert::bigsmall(at, &words),
            _ => bigsmall(at, &words),
        };
        let said = stdout(&done) + &stderr(&done);
        // what is tried says something, and no word of it is unknown to the program
        assert!(!said.contains("Usage:"), "{line}: {said}");
        if let Some(found) = one_of_many(&said) {
            wrong.push(format!("{line}: {found}\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_plural_is_seen() {
    for text in [
        "1 files",
        "of (1 images,",
        "ok: 1 blocks.",
        "0 of 1 tensors",
    ] {
        assert!(one_of_many(text).is_some(), "{text}");
    }
    for text in [
        "1 file",
        "21 files",
        "0.1 files",
        "1 is",
        "step 1 ends2",
        "within 1 day",
    ] {
        assert!(one_of_many(text).is_none(), "{text}");
    }
}

/// Each is refused, with a hint at what to do.
const REFUSED: &[&str] = &[
    "compress src/m.safetensors -o damaged/m.bs",
    "compress damaged/m.bs -o n.bs",
    "compress src",
    "compress page -o n.bs --opaque --attributes",
    "compress page -o n.bs",
    "decompress damaged/m.bs -o page",
    "decompress deltas/t.bs -o back",
    "decompress damaged",
    "diff src tuned.safetensors --patch damaged/m.bs",
    "diff src tuned.safetensors --patch page",
    "apply src deltas/t.bs -o page",
    "transcode damaged/m.bs page",
    "transcode damaged doctored",
    "transcode deltas/t.bs n.bs",
    "import package.bs -o page",
    "import package.bs -o damaged/m.bs",
    "import damaged/m.bs",
    "reshard deltas/t.bs cut --join",
    "reshard page cut --join",
    "protect damaged/m.bs",
    "repair page",
    "verify deltas/t.bs",
    "verify damaged/m.bs --sample 7",
    "bench damaged/m.bs",
    "xray page",
    "xray src/m.safetensors --html page",
    "convert other",
];

/// The options that a hint names; those of another command are quoted with its name.
fn options_in(hint: &str) -> Vec<String> {
    let quoted = hint.split('`').skip(1).step_by(2);
    let own = quoted.filter(|quoted| !quoted.starts_with("bigsmall "));
    let words = own.flat_map(|quoted| quoted.split_whitespace());
    let options = words.filter(|word| word.starts_with('-'));
    options.map(str::to_owned).collect()
}

#[test]
fn hints_name_only_what_the_command_has() {
    let folder = tempfile::tempdir().unwrap();
    let at = &folder.path().join("here");
    prepare(at);
    put(&at.join("page"), b"no model and no image");
    let mut named = 0;
    for line in REFUSED {
        let words: Vec<&str> = line.split(' ').collect();
        let done = match words[0] {
            "convert" => convert::bigsmall(at, &words),
            _ => bigsmall(at, &words),
        };
        let said = stderr(&done);
        assert!(!done.status.success(), "{line}: {said}");
        let help = stdout(&bigsmall(at, &[words[0], "--help"]));
        for hint in said.lines().filter(|line| line.starts_with("hint: ")) {
            for option in options_in(hint) {
                let has_it = help
                    .split([' ', ',', '[', '=', '\n'])
                    .any(|word| word == option);
                assert!(has_it, "{line}: `{option}` of {hint}");
                named += 1;
            }
        }
    }
    assert!(named > 8, "{named}");
}
