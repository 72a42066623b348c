//! docs/cli.md is what the program says: the help of each command, and an example that is run.
//! `BIGSMALL_WRITE_PAGES=1 cargo test --workspace cli_page` writes it anew.

use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use crate::models::Random;
use crate::roundtrip::put;
use crate::transcript;
use crate::transcript::Example;
use crate::transcript::PageText;
use crate::transcript::Shell;
use crate::transcript::option_of;

const fn example(
    command: &'static str,
    before: &'static [&'static str],
    shown: &'static [&'static str],
) -> Example {
    Example {
        command,
        before,
        shown,
        is_measured: false,
    }
}

const SMALL: &str = "bigsmall compress models/llama/model.safetensors -q -o llama.bs";
const PATCH: &str =
    "bigsmall compress models/tuned/model.safetensors -q --base models/llama -o tuned.bs";
/// What a bad sector does.
const DAMAGE: &str = "printf damage | dd of=llama.bs bs=1 seek=400000 conv=notrunc status=none";

/// One for each command. Each has a folder with two models to itself.
const EXAMPLES: &[Example] = &[
    example(
        "compress",
        &[],
        &[
            "bigsmall compress models/llama/model.safetensors -o llama.bs",
            "bigsmall compress models -o small",
            "bigsmall compress models/tuned/model.safetensors --base models/llama -o tuned.bs",
        ],
    ),
    example(
        "decompress",
        &["bigsmall compress models -q -o small"],
        &[
            "bigsmall decompress small -o back",
            "diff -r models back && echo the same",
        ],
    ),
    example(
        "convert",
        &[],
        &[
            "bigsmall convert models --dry-run",
            "bigsmall convert models --yes",
            "ls models/llama",
        ],
    ),
    example(
        "restore",
        &["bigsmall convert models -q --yes"],
        &["bigsmall restore models --yes", "ls models/llama"],
    ),
    example("import", &[], &["bigsmall import old/package.bs -o new.bs"]),
    example("migrate", &[], &["bigsmall migrate old"]),
    example(
        "transcode",
        &[SMALL],
        &["bigsmall transcode llama.bs quick.bs --profile inference"],
    ),
    example(
        "reshard",
        &[SMALL],
        &["bigsmall reshard llama.bs cut --shards 2", "ls cut"],
    ),
    example(
        "apply",
        &[PATCH],
        &[
            "bigsmall apply models/llama tuned.bs -o back.safetensors",
            "cmp back.safetensors models/tuned/model.safetensors && echo the same",
        ],
    ),
    example(
        "rm",
        &[
            "bigsmall compress models/tuned/model.safetensors -q --base models/llama \
             -o models/tuned/patch.bs",
        ],
        &[
            "bigsmall rm models/llama/model.safetensors",
            "bigsmall rm models/tuned/patch.bs",
        ],
    ),
    example("scan", &[], &["bigsmall scan models"]),
    example(
        "stat",
        &[SMALL],
        &["bigsmall stat llama.bs --sort size --tensor layers.0"],
    ),
    example("info", &[SMALL], &["bigsmall info llama.bs"]),
    example(
        "diff",
        &[],
        &[
            "bigsmall diff models/llama models/tuned | head -n 2",
            "bigsmall diff models/llama models/tuned --patch patch.bs -q",
            "ls *.bs",
        ],
    ),
    example(
        "xray",
        &[],
        &["bigsmall xray models/llama/model.safetensors"],
    ),
    Example {
        is_measured: true,
        ..example(
            "bench",
            &[],
            &[
                "bigsmall bench models/llama/model.safetensors --runs 1 -j 1 --profile balanced \
                 --simd scalar",
            ],
        )
    },
    example(
        "run",
        &[
            "bigsmall compress models/llama -q -o small",
            "cp .home/tokenizer.json small",
        ],
        &[
            "bigsmall run small --prompt 'The compiler will' --max-new-tokens 12 -q",
            "bigsmall run small --prompt-ids 464,17,88 --max-new-tokens 4 --receipt r.json -q",
            "bigsmall run models/llama --verify r.json -q",
        ],
    ),
    Example {
        is_measured: true,
        // what stands above the table is of the machine, and another has other words there
        ..example(
            "profile",
            &[],
            &["bigsmall profile -j 1 | sed -n '/^rates/,/^$/p'"],
        )
    },
    example(
        "verify",
        &[SMALL],
        &[
            "bigsmall verify llama.bs",
            DAMAGE,
            "bigsmall verify llama.bs",
        ],
    ),
    example(
        "scrub",
        &["bigsmall compress models -q -o small"],
        &["bigsmall scrub small", "bigsmall scrub small --older 7"],
    ),
    example("protect", &[SMALL], &["bigsmall protect llama.bs"]),
    example(
        "repair",
        &[SMALL, "bigsmall protect -q llama.bs"],
        &[DAMAGE, "bigsmall repair llama.bs"],
    ),
    example(
        "doctor",
        &[
            SMALL,
            "bigsmall protect -q llama.bs",
            "mv llama.bs.par models/gone.bs.par",
        ],
        &["bigsmall doctor models"],
    ),
];

/// The trained model that comes with the project, a fine-tune of it, and a file of the Python
/// package; all written long ago.
fn prepare(at: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for place in ["models/llama", "models/tuned", "old", ".home"] {
        fs::create_dir_all(at.join(place)).unwrap();
    }
    let read = |path: &str| fs::read(root.join(path)).unwrap();
    let model = read("tests/data/mini-llama/model.safetensors");
    let tuned = tuned(&model);
    let files = [
        ("models/llama/model.safetensors", model),
        ("models/tuned/model.safetensors", tuned),
        (
            "models/llama/config.json",
            read("tests/data/mini-llama/config.json"),
        ),
        (
            ".home/tokenizer.json",
            read("tests/data/mini-llama/tokenizer.json"),
        ),
        (
            "old/package.bs",
            read("tests/golden/python-package/bf16-1.0.1.bs"),
        ),
    ];
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    for (name, bytes) in files {
        put(&at.join(name), &bytes);
        let file = fs::File::options().write(true).open(at.join(name)).unwrap();
        file.set_modified(long_ago).unwrap();
    }
}

/// One weight in ten has moved a little.
fn tuned(model: &[u8]) -> Vec<u8> {
    let mut random = Random::new(7);
    let mut tuned = model.to_vec();
    let header = u64::from_le_bytes(*model.first_chunk().unwrap()) as usize;
    for element in tuned[8 + header..].as_chunks_mut::<2>().0 {
        if random.below(10) == 0 {
            element[0] ^= 1 + random.below(3) as u8;
        }
    }
    tuned
}

/// The commands that lines of the help begin with; what goes on below one stands further in.
fn names(lines: &str) -> Vec<&str> {
    let first = lines.lines().filter(|line| !line.starts_with("   "));
    first
        .filter_map(|line| line.split_whitespace().next())
        .collect()
}

/// The headings of groups in the help of the program, and the commands below each.
fn groups(help: &str) -> Vec<(&str, Vec<&str>)> {
    let parts = help.split("\n\n");
    let parts = parts.filter_map(|part| part.trim().split_once(":\n"));
    let parts = parts.filter(|(heading, _)| *heading != "Options");
    parts
        .map(|(heading, lines)| (heading, names(lines)))
        .collect()
}

fn shell(folder: &Path) -> Shell<'_> {
    Shell {
        folder,
        program: Path::new(env!("CARGO_BIN_EXE_bigsmall")),
        preamble: "",
    }
}

#[test]
fn the_page_shows_what_the_commands_say() {
    let home = tempfile::tempdir().unwrap();
    let help = shell(home.path()).says("bigsmall --help");
    let common: Vec<&str> = help.lines().filter_map(option_of).collect();
    let (_, options) = help.split_once("\nOptions:\n").unwrap();
    let (options, _) = options.split_once("\n\n").unwrap();
    let text = format!("\n\nOptions of every command:\n\n```\n{options}\n```\n\n");
    let mut parts = vec![PageText {
        text,
        is_measured: false,
    }];
    for (heading, commands) in groups(&help) {
        // the daemon's own tests make that part
        if heading == "Mount" {
            continue;
        }
        parts.push(PageText {
            text: format!("## {heading}\n\n"),
            is_measured: false,
        });
        for name in commands {
            let example = EXAMPLES.iter().find(|example| example.command == name);
            let example = example.unwrap_or_else(|| {
                panic!("docs/cli.md shows each command: please add `{name}` to EXAMPLES")
            });
            let folder = tempfile::tempdir().unwrap();
            prepare(folder.path());
            parts.extend(transcript::section(&shell(folder.path()), example, &common));
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    transcript::check(root, "<!-- generated -->", Some("<!-- mounts -->"), &parts);
}
