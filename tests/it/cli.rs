//! The command line as its user meets it: names, refusals, exit codes, JSON, streams.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use crate::models;
use crate::roundtrip::put;

pub(crate) fn bigsmall(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(words)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub(crate) fn folder_with_model() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("m.safetensors"), &models::small_file());
    folder
}

#[test]
fn a_file_becomes_an_image_beside_it_and_comes_back() {
    let folder = folder_with_model();
    let at = folder.path();
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors"])), 0);
    assert_eq!(names(at), ["m.bs", "m.safetensors"]);
    fs::remove_file(at.join("m.safetensors")).unwrap();
    assert_eq!(code(&bigsmall(at, &["decompress", "m.bs"])), 0);
    assert!(fs::read(at.join("m.safetensors")).unwrap() == models::small_file());
    let modified = |name: &str| fs::metadata(at.join(name)).unwrap().modified().unwrap();
    assert_eq!(modified("m.bs"), modified("m.safetensors"));
}

#[test]
fn what_brings_nothing_or_is_unknown_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let tensor = models::Tensor {
        name: "t".into(),
        dtype: "F16",
        shape: vec![4000],
        data: models::bf16_weights(&mut models::Random::new(3), 4000),
    };
    put(&at.join("m.safetensors"), &models::file(&[tensor], 0, ""));
    let told = |words: &[&str]| stderr(&bigsmall(at, words)).contains("brings nothing here");
    let compress = ["compress", "m.safetensors", "--force", "--profile"];
    assert!(told(&[&compress[..], &["inference"]].concat()));
    assert!(told(&[&compress[..], &["storage"]].concat()));
    assert!(!told(&[&compress[..], &["balanced"]].concat()));
    let output = Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(["info", "m.bs"])
        .env("BIGSMALL_SIMD", "mmx")
        .current_dir(at)
        .output()
        .unwrap();
    assert_eq!(code(&output), 0);
    assert!(stderr(&output).contains("BIGSMALL_SIMD names `mmx`"));
}

#[test]
fn what_exists_is_not_replaced_unasked() {
    let folder = folder_with_model();
    let at = folder.path();
    put(&at.join("m.bs"), b"mine");
    let refused = bigsmall(at, &["compress", "m.safetensors"]);
    assert_eq!(code(&refused), 2);
    assert!(stderr(&refused).contains("hint: replace it with `--force`"));
    assert_eq!(fs::read(at.join("m.bs")).unwrap(), b"mine");
    assert_eq!(
        code(&bigsmall(at, &["compress", "m.safetensors", "--force"])),
        0
    );
    assert_eq!(code(&bigsmall(at, &["decompress", "m.bs"])), 2);
    // the image would be lost before the file is there
    assert_eq!(
        code(&bigsmall(
            at,
            &["decompress", "m.bs", "-o", "m.bs", "--force"]
        )),
        2
    );
    assert_eq!(code(&bigsmall(at, &["compress", ".", "-o", "m.bs"])), 2);
}

#[test]
fn devices_and_pipes_are_never_replaced() {
    let folder = folder_with_model();
    let at = folder.path();
    assert!(
        Command::new("mkfifo")
            .arg(at.join("pipe"))
            .status()
            .unwrap()
            .success()
    );
    for target in ["/dev/null", "pipe"] {
        let refused = bigsmall(at, &["compress", "m.safetensors", "--force", "-o", target]);
        assert_eq!(code(&refused), 2, "{target}: {}", stderr(&refused));
    }
    assert_eq!(names(at), ["m.safetensors", "pipe"]);
    // a pipe as the source does not hang
    assert_eq!(code(&bigsmall(at, &["compress", "pipe"])), 2);
}

#[test]
fn standard_output_carries_the_data_and_nothing_else() {
    let folder = folder_with_model();
    let at = folder.path();
    let image = bigsmall(at, &["compress", "m.safetensors", "-o", "-"]);
    assert_eq!(code(&image), 0);
    put(&at.join("x.bs"), &image.stdout);
    let file = bigsmall(at, &["decompress", "x.bs", "-o", "-"]);
    assert!(file.stdout == models::small_file());
    assert_eq!(names(at), ["m.safetensors", "x.bs"]);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let folder = tempfile::tempdir().unwrap();
    let weights = models::bf16_weights(&mut models::Random::new(1), 2_000_000);
    let shape = vec![2_000_000];
    let tensor = models::Tensor {
        name: "w".into(),
        dtype: "BF16",
        shape,
        data: weights,
    };
    put(
        &folder.path().join("m.safetensors"),
        &models::file(&[tensor], 0, ""),
    );
    assert_eq!(
        code(&bigsmall(folder.path(), &["compress", "m.safetensors"])),
        0
    );
    let program = env!("CARGO_BIN_EXE_bigsmall");
    let pipe =
        format!("{program} decompress m.bs -o - | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}");
    let status = Command::new("bash")
        .args(["-c", &pipe])
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_folder_is_mirrored_or_becomes_one_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("src/sub/empty")).unwrap();
    put(&at.join("src/m.safetensors"), &models::small_file());
    put(&at.join("src/sub/n.safetensors"), &models::random_file(4));
    put(&at.join("src/sub/0123abcd"), &models::random_file(5));
    put(&at.join("src/config.json"), b"{}");
    put(
        &at.join("src/model.safetensors.index.json"),
        b"{\"weight_map\":{}}",
    );
    std::os::unix::fs::symlink("sub/0123abcd", at.join("src/link.safetensors")).unwrap();
    assert_eq!(code(&bigsmall(at, &["compress", "src"])), 2);
    assert_eq!(code(&bigsmall(at, &["compress", "src", "-o", "out"])), 0);
    let expected = [
        "config.json",
        "link.safetensors",
        "m.bs",
        "model.safetensors.index.json",
        "sub",
    ];
    assert_eq!(names(&at.join("out")), expected);
    assert_eq!(names(&at.join("out/sub")), ["0123abcd.bs", "empty", "n.bs"]);
    assert_eq!(code(&bigsmall(at, &["compress", "src", "-o", "one.bs"])), 0);
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    assert_eq!(code(&bigsmall(at, &["decompress", "out", "-o", "back"])), 0);
    assert_eq!(code(&bigsmall(at, &["decompress", "one.bs"])), 2);
    assert_eq!(
        code(&bigsmall(at, &["decompress", "one.bs", "-o", "back1"])),
        0
    );
    let same = |a: &str, b: &str, words: &[&str]| {
        let status = Command::new("diff")
            .args(["-r", a, b])
            .args(words)
            .current_dir(at)
            .status();
        assert!(status.unwrap().success(), "{a} and {b} differ");
    };
    same("src", "back", &["--no-dereference"]);
    same("src", "back1", &["--no-dereference"]);
    assert_eq!(
        code(&bigsmall(at, &["compress", "src", "-o", "src/inside"])),
        2
    );
    assert_eq!(names(at), ["back", "back1", "one.bs", "out", "src"]);
}

#[test]
fn two_models_that_want_one_name_both_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("src")).unwrap();
    put(&at.join("src/m"), &models::random_file(1));
    put(&at.join("src/m.safetensors"), &models::random_file(2));
    put(&at.join("src/n.bs"), b"not an image");
    put(&at.join("src/n.safetensors"), &models::random_file(3));
    assert_eq!(code(&bigsmall(at, &["compress", "src", "-o", "out"])), 0);
    assert_eq!(
        names(&at.join("out")),
        ["m.bs", "m.safetensors.bs", "n.bs", "n.safetensors.bs"]
    );
}

#[test]
fn invalid_files_are_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("src")).unwrap();
    put(&at.join("src/good.safetensors"), &models::small_file());
    put(
        &at.join("src/cut.safetensors"),
        &models::small_file()[..500],
    );
    put(
        &at.join("src/lfs.safetensors"),
        b"version https://git-lfs.github.com/spec/v1\n",
    );
    let refused = bigsmall(at, &["compress", "src/cut.safetensors"]);
    assert_eq!(code(&refused), 2);
    assert!(
        stderr(&refused).contains("cut.safetensors"),
        "{}",
        stderr(&refused)
    );
    for output in ["out", "out.bs"] {
        let refused = bigsmall(at, &["compress", "src", "-o", output, "--strict"]);
        assert_eq!(code(&refused), 2);
        let text = stderr(&refused);
        assert!(
            text.contains("cut.safetensors") && text.contains("lfs.safetensors"),
            "{text}"
        );
        assert_eq!(names(at), ["src"]);
        assert_eq!(
            code(&bigsmall(
                at,
                &["compress", "src", "-o", output, "--opaque"]
            )),
            0
        );
        assert_eq!(
            code(&bigsmall(at, &["decompress", output, "-o", "back"])),
            0
        );
        assert!(fs::read(at.join("back/cut.safetensors")).unwrap() == models::small_file()[..500]);
        for done in [output, "back"] {
            let done = at.join(done);
            if done.is_dir() {
                fs::remove_dir_all(done).unwrap();
            } else {
                fs::remove_file(done).unwrap();
            }
        }
    }
}

#[test]
fn exit_codes_tell_what_kind_of_failure() {
    let folder = folder_with_model();
    let at = folder.path();
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors"])), 0);
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 0);
    let mut image = fs::read(at.join("m.bs")).unwrap();
    let middle = image.len() / 2;
    image[middle] ^= 1;
    put(&at.join("bad.bs"), &image);
    put(
        &at.join("python.bs"),
        &[&b"BGSM\x01\0"[..], &[0; 300]].concat(),
    );
    assert_eq!(code(&bigsmall(at, &["verify", "bad.bs"])), 1);
    let damaged = bigsmall(at, &["decompress", "bad.bs", "-o", "out"]);
    assert_eq!(code(&damaged), 4);
    assert!(
        stderr(&damaged).contains("tensor `"),
        "{}",
        stderr(&damaged)
    );
    assert!(!at.join("out").exists());
    assert_eq!(code(&bigsmall(at, &["verify", "nothing.bs"])), 3);
    let python = bigsmall(at, &["info", "python.bs"]);
    assert_eq!(code(&python), 6);
    assert!(
        stderr(&python).contains("made by the Python package"),
        "{}",
        stderr(&python)
    );
    for words in [
        &["compres"][..],
        &["compress"],
        &["compress", "m.safetensors", "--profile", "x"],
    ] {
        assert_eq!(code(&bigsmall(at, words)), 2, "{words:?}");
    }
    assert!(stderr(&bigsmall(at, &["compres"])).contains("did you mean `compress`"));
}

/// An image's name could stand for the folder above: `...bs` less `.bs` is `..`.
#[test]
fn no_name_of_an_image_leads_out_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("src")).unwrap();
    fs::create_dir_all(at.join("in")).unwrap();
    put(&at.join("src/evil.txt"), b"evil");
    for name in ["...bs", "..bs"] {
        assert_eq!(
            code(&bigsmall(
                at,
                &["compress", "src", "-o", "one.bs", "--force"]
            )),
            0
        );
        fs::rename(at.join("one.bs"), at.join("in").join(name)).unwrap();
        assert_eq!(
            code(&bigsmall(at, &["decompress", "in", "-o", "out"])),
            4,
            "{name}"
        );
        assert_eq!(names(at), ["in", "src"]);
        fs::remove_file(at.join("in").join(name)).unwrap();
    }
}

#[test]
fn an_image_beside_its_own_file_is_not_mirrored() {
    let folder = folder_with_model();
    let at = folder.path();
    fs::create_dir(at.join("src")).unwrap();
    put(&at.join("src/m.safetensors"), &models::small_file());
    assert_eq!(code(&bigsmall(at, &["compress", "src/m.safetensors"])), 0);
    let told = bigsmall(at, &["compress", "src", "-o", "out"]);
    assert_eq!(code(&told), 1);
    assert!(
        stderr(&told).contains("which is there, too"),
        "{}",
        stderr(&told)
    );
    assert_eq!(names(&at.join("out")), ["m.bs"]);
    // an output that holds the source would replace files of it
    assert_eq!(
        code(&bigsmall(at, &["compress", "src", "-o", ".", "--force"])),
        2
    );
}

#[test]
fn verify_of_a_folder_tells_of_every_image() {
    let folder = folder_with_model();
    let at = folder.path();
    fs::create_dir(at.join("d")).unwrap();
    assert_eq!(
        code(&bigsmall(
            at,
            &["compress", "m.safetensors", "-o", "d/good.bs"]
        )),
        0
    );
    let image = fs::read(at.join("d/good.bs")).unwrap();
    let mut newer = image.clone();
    newer[8] = 2;
    let checksum = bigsmall::base::digest::xxh3(&newer[..120]).to_le_bytes();
    newer[120..128].copy_from_slice(&checksum);
    put(&at.join("d/newer.bs"), &newer);
    put(&at.join("d/cut.bs"), &image[..image.len() - 7]);
    put(&at.join("d/zeros.bs"), &[0; 500]);
    let found = bigsmall(at, &["verify", "d", "--json"]);
    assert_eq!(code(&found), 1);
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let ok: Vec<bool> = report["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["ok"].as_bool().unwrap())
        .collect();
    assert_eq!(ok, [false, true, false]);
    assert!(stderr(&found).contains("zeros.bs"), "{}", stderr(&found));
    assert_eq!(code(&bigsmall(at, &["verify", "d/newer.bs"])), 6);
}

#[test]
fn long_names_have_room_for_their_temporaries() {
    let folder = tempfile::tempdir().unwrap();
    let name = format!("{}.safetensors", "n".repeat(240));
    put(&folder.path().join(&name), &models::small_file());
    assert_eq!(code(&bigsmall(folder.path(), &["compress", &name])), 0);
    assert_eq!(names(folder.path()).len(), 2);
}

/// 400 MB go through 250 MB of address space, both ways: memory depends on the threads, not on the
/// file.
#[test]
fn memory_does_not_grow_with_the_file() {
    use std::io::Write;
    const ELEMENTS: usize = 200 << 20;
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let json = format!(
        "{{\"w\":{{\"dtype\":\"BF16\",\"shape\":[{ELEMENTS}],\"data_offsets\":[0,{}]}}}}",
        2 * ELEMENTS
    );
    let piece = models::bf16_weights(&mut models::Random::new(3), 1 << 20);
    let mut file = fs::File::create(at.join("m.safetensors")).unwrap();
    file.write_all(&(json.len() as u64).to_le_bytes()).unwrap();
    file.write_all(json.as_bytes()).unwrap();
    for _ in 0..ELEMENTS >> 20 {
        file.write_all(&piece).unwrap();
    }
    drop(file);
    let program = env!("CARGO_BIN_EXE_bigsmall");
    let bounded = |words: &str| {
        let line = format!("ulimit -v 250000; exec {program} {words} -j 2");
        let output = Command::new("bash")
            .args(["-c", &line])
            .current_dir(at)
            .output()
            .unwrap();
        assert_eq!(code(&output), 0, "{words}: {}", stderr(&output));
    };
    bounded("compress m.safetensors");
    bounded("decompress m.bs -o back");
    let same = Command::new("cmp")
        .args(["m.safetensors", "back"])
        .current_dir(at)
        .status()
        .unwrap();
    assert!(same.success());
}

#[test]
fn bench_measures_what_it_is_asked_for() {
    let folder = folder_with_model();
    let asked = |more: &[&str]| {
        let words = ["bench", "m.safetensors", "--json", "-j", "1", "--runs", "1"];
        let output = bigsmall(folder.path(), &[&words, more].concat());
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let rows = report["results"].as_array().unwrap().iter();
        rows.map(|row| format!("{} {}", row["profile"], row["simd"]).replace('"', ""))
            .collect::<Vec<String>>()
    };
    assert_eq!(
        asked(&["--profile", "storage", "--simd", "scalar"]),
        ["storage scalar"]
    );
    let two = ["--profile", "inference", "--profile", "balanced"];
    assert_eq!(asked(&[&two[..], &["--simd", "auto"]].concat()).len(), 2);
    for wrong in [["--simd", "abacus"], ["--profile", "x"], ["--runs", "0"]] {
        let output = bigsmall(
            folder.path(),
            &[&["bench", "m.safetensors"], &wrong[..]].concat(),
        );
        assert_eq!(code(&output), 2, "{wrong:?}");
    }
}

#[test]
fn an_interrupted_run_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights = models::bf16_weights(&mut models::Random::new(2), 3_000_000);
    let tensors: Vec<_> = (0..20)
        .map(|i| models::Tensor {
            name: format!("w{i}"),
            dtype: "BF16",
            shape: vec![3_000_000],
            data: weights.clone(),
        })
        .collect();
    put(&at.join("m.safetensors"), &models::file(&tensors, 0, ""));
    let mut child = Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(["compress", "m.safetensors", "-j", "1"])
        .current_dir(at)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // it has begun when its temporary is there
    while !names(at).iter().any(|name| name.contains(".part-")) {
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before it could be interrupted"
        );
        std::thread::yield_now();
    }
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(names(at), ["m.safetensors"]);
}
