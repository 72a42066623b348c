//! Deltas on the command line: folders to folders and into one image, apply, diff, info, rm.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;

use serde_json::Value;

use crate::chains::Run;
use crate::roundtrip::put;

fn bigsmall(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(words)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder.join("cache"))
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(folder: &Path, words: &[&str]) -> Value {
    let output = bigsmall(folder, words);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(&output)))
}

/// Two folders of models with other files, the second a fine-tune of the first.
fn folders() -> Run {
    let run = Run::new(2);
    let at = &run.path();
    for (step, name) in ["base", "ft"].iter().enumerate() {
        fs::create_dir_all(at.join(name).join("sub")).unwrap();
        put(
            &at.join(name).join("sub/model.safetensors"),
            &run.steps[step],
        );
        put(&at.join(name).join("config.json"), name.as_bytes());
        run.remove(step);
    }
    run
}

fn is_restored(run: &Run, folder: &str) -> bool {
    let at = run.at(folder);
    fs::read(at.join("sub/model.safetensors")).unwrap() == run.steps[1]
        && fs::read(at.join("config.json")).unwrap() == b"ft"
}

#[test]
fn a_folder_comes_back_from_its_base_and_a_patch() {
    let run = folders();
    let at = &run.path();
    for patch in ["patch", "patch.bs"] {
        let words = ["compress", "ft/", "--delta-from", "base/", patch];
        let output = bigsmall(at, &words);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(
            code(&bigsmall(at, &["apply", "base", patch, "-o", "out"])),
            0
        );
        assert!(is_restored(&run, "out"));
        fs::remove_dir_all(at.join("out")).unwrap();
        // without the base, nothing
        let output = bigsmall(at, &["decompress", patch, "-o", "out"]);
        assert_eq!(code(&output), 5);
        assert!(
            stderr(&output).contains("base` then"),
            "{}",
            stderr(&output)
        );
        assert!(!at.join("out").exists());
        let output = bigsmall(at, &["verify", patch]);
        assert_ne!(code(&output), 0);
        assert_eq!(code(&bigsmall(at, &["verify", patch, "--base", "base"])), 0);
    }
    // wrong by one bit
    let mut wrong = run.steps[0].clone();
    let last = wrong.len() - 7;
    wrong[last] ^= 1;
    put(&at.join("wrong.safetensors"), &wrong);
    let output = bigsmall(at, &["apply", "wrong.safetensors", "patch.bs", "-o", "out"]);
    assert_eq!(code(&output), 5);
    assert!(
        stderr(&output).contains("`wrong.safetensors`"),
        "{}",
        stderr(&output)
    );
    assert!(!at.join("out").exists());
}

#[test]
fn info_tells_the_base_and_whether_it_is_at_hand() {
    let run = folders();
    let at = &run.path();
    fs::create_dir(at.join("patches")).unwrap();
    let words = [
        "compress",
        "ft/sub/model.safetensors",
        "--base",
        "base",
        "patches/p.bs",
    ];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let base = |words: &[&str]| json(at, words)["images"][0]["base"].clone();
    let alone = base(&["info", "patches/p.bs", "--json"]);
    assert_eq!(alone["at_hand"], "no");
    assert_eq!(alone["place"], "../base");
    assert_eq!(alone["tensors"], 2);
    let named = base(&["info", "patches/p.bs", "--base", "base", "--json"]);
    assert_eq!(named["at_hand"], "yes");
    assert_eq!(named["files"][0], "base/sub/model.safetensors");
    // a fine-tune has tensors of the same names, and is no base
    let both = [
        "info",
        "patches/p.bs",
        "--base",
        "base",
        "--base",
        "ft",
        "--json",
    ];
    let files = base(&both)["files"].as_array().unwrap().clone();
    assert_eq!(files, ["base/sub/model.safetensors"]);
    let wrong = ["info", "patches/p.bs", "--base", "ft"];
    let said = String::from_utf8(bigsmall(at, &wrong).stdout).unwrap();
    assert!(
        said.contains("the base is missing here") && !said.contains("ft/sub"),
        "{said}"
    );
}

#[test]
fn the_recorded_base_is_found_however_far_it_is() {
    let run = folders();
    let at = &run.path();
    fs::create_dir_all(at.join("a/b/c/d/e")).unwrap();
    let near = ["compress", "ft/sub/model.safetensors", "--base", "base"];
    let words = [&near[..], &["a/b/c/d/e/p.bs"]].concat();
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let place = |image: &str| {
        let info = json(at, &["info", image, "--json"]);
        let place = info["images"][0]["base"]["place"].as_str().unwrap();
        at.join(image).parent().unwrap().join(place)
    };
    assert!(
        place("a/b/c/d/e/p.bs").is_dir(),
        "{:?}",
        place("a/b/c/d/e/p.bs")
    );
    // of one on another disk the whole path is told
    let elsewhere = tempfile::tempdir_in("/dev/shm").unwrap();
    let image = elsewhere.path().join("p.bs");
    let image = image.to_str().unwrap();
    assert_eq!(code(&bigsmall(at, &[&near[..], &[image]].concat())), 0);
    assert_eq!(place(image), at.canonicalize().unwrap().join("base"));
}

#[test]
fn diff_tells_by_how_much_tensors_differ() {
    let run = folders();
    let at = &run.path();
    let same = ["diff", "base", "base/sub/model.safetensors", "--json"];
    assert_eq!(code(&bigsmall(at, &same)), 0);
    assert_eq!(json(at, &same)["same_tensors"], 2);
    let words = ["diff", "base", "ft", "--patch", "p.bs", "--json"];
    let report = json(at, &words);
    let changed = &report["changed"][0];
    assert_eq!(report["same"], false);
    assert!(changed["differing_elements"].as_u64() > Some(1000));
    let rms = changed["rms_difference"].as_f64().unwrap();
    assert!((0.000_15..0.000_3).contains(&rms), "{rms}");
    let value = changed["rms_value"].as_f64().unwrap();
    assert!((0.015..0.025).contains(&value), "{value}");
    // a patch of a folder restores the folder
    assert_eq!(
        code(&bigsmall(at, &["apply", "base", "p.bs", "-o", "out"])),
        0
    );
    assert!(is_restored(&run, "out"));
    assert_eq!(code(&bigsmall(at, &["diff", "base", "ft"])), 1);
    // files of others are nothing to compare; of a model that cannot be read nobody can say that it
    // is the same
    put(&at.join("base/sub/script.bs"), b"print 1");
    assert_eq!(code(&bigsmall(at, &same)), 0);
    put(&at.join("base/sub/second.safetensors"), b"cut short");
    let output = bigsmall(at, &same);
    assert_eq!(code(&output), 2, "{}", stderr(&output));
    assert!(stderr(&output).contains("second.safetensors"));
}

#[test]
fn what_a_delta_needs_is_not_removed() {
    let run = Run::new(3);
    let at = &run.path();
    run.compress(1, "0.safetensors").unwrap();
    run.remove(1);
    run.compress(2, "1.bs").unwrap();
    run.remove(2);
    for needed in ["0.safetensors", "1.bs"] {
        let output = bigsmall(at, &["rm", needed]);
        assert_eq!(code(&output), 2);
        assert!(stderr(&output).contains("2.bs"), "{}", stderr(&output));
        assert!(at.join(needed).exists());
    }
    // another copy serves as well
    fs::create_dir(at.join("deep")).unwrap();
    fs::copy(at.join("0.safetensors"), at.join("deep/copy.safetensors")).unwrap();
    let output = bigsmall(at, &["rm", "0.safetensors", "--dry-run"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert!(at.join("0.safetensors").exists());
    assert_eq!(code(&bigsmall(at, &["rm", "0.safetensors"])), 0);
    assert!(!at.join("0.safetensors").exists());
    assert_ne!(code(&bigsmall(at, &["rm", "deep"])), 0);
    // all of the chain together is nobody's base
    assert_eq!(code(&bigsmall(at, &["rm", "1.bs", "2.bs", "deep"])), 0);
}

#[test]
fn a_search_needs_no_more_open_files_than_the_system_gives() {
    let run = Run::new(2);
    let at = &run.path();
    run.compress(1, "0.safetensors").unwrap();
    fs::create_dir(at.join("many")).unwrap();
    for number in 0..60 {
        let copy = at.join(format!("many/{number}.safetensors"));
        fs::copy(at.join("1.safetensors"), copy).unwrap();
    }
    fs::rename(at.join("0.safetensors"), at.join("many/base.safetensors")).unwrap();
    let words = format!(
        "ulimit -S -n 40; {} apply many 1.bs -o restored",
        env!("CARGO_BIN_EXE_bigsmall")
    );
    let mut shell = Command::new("bash");
    let shell = shell.args(["-c", &words]).current_dir(at);
    let output = shell.env("XDG_CACHE_HOME", at.join("cache")).output();
    let output = output.unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(fs::read(at.join("restored")).unwrap(), run.steps[1]);
}

#[test]
fn a_folder_that_may_not_be_listed_hides_no_base_elsewhere() {
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let run = Run::new(2);
    let at = &run.path();
    run.compress(1, "0.safetensors").unwrap();
    let allow = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    fs::create_dir_all(at.join("models/closed")).unwrap();
    fs::rename(at.join("0.safetensors"), at.join("models/base.safetensors")).unwrap();
    let image = fs::read(at.join("1.bs")).unwrap();
    put(&at.join("models/1.bs"), &image);
    allow(&at.join("models/closed"), 0);
    for path in ["models", "models/base.safetensors", "models/1.bs"] {
        allow(&at.join(path), 0o755);
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall"));
    command.args(["apply", "models", "models/1.bs", "-o", "-"]);
    command.current_dir(at).env_remove("HOME");
    // root may list everything
    if fs::metadata(at).unwrap().uid() == 0 {
        allow(at, 0o755);
        command.uid(65_534).gid(65_534);
    }
    let output = command.env_remove("XDG_CACHE_HOME").output().unwrap();
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    assert_eq!(output.stdout, run.steps[1]);
    allow(&at.join("models/closed"), 0o755);
}

#[test]
fn a_link_to_a_base_is_no_other_copy_of_it() {
    let run = Run::new(2);
    let at = &run.path();
    fs::create_dir(at.join("models")).unwrap();
    // as in the Hugging Face cache: without an extension
    for name in ["0.safetensors", "0a1b"] {
        fs::rename(at.join("0.safetensors"), at.join("models").join(name)).unwrap();
        let base = at.join("models").join(name);
        run.compress(1, base.to_str().unwrap()).unwrap();
        fs::rename(at.join("1.bs"), at.join("models/1.bs")).unwrap();
        // a link by its whole path seems to lead out of the folder
        let alias = at.join("models/alias.safetensors");
        std::os::unix::fs::symlink(&base, &alias).unwrap();
        let output = bigsmall(at, &["rm", base.to_str().unwrap()]);
        assert_eq!(code(&output), 2, "{}", stderr(&output));
        assert!(base.exists());
        // the link itself may go
        assert_eq!(code(&bigsmall(at, &["rm", alias.to_str().unwrap()])), 0);
        assert!(base.exists());
        fs::rename(base, at.join("0.safetensors")).unwrap();
        fs::remove_file(at.join("models/1.bs")).unwrap();
    }
    // nor is a folder behind a link what was named
    std::os::unix::fs::symlink("models", at.join("link")).unwrap();
    fs::rename(at.join("0.safetensors"), at.join("models/0.safetensors")).unwrap();
    run.compress(1, "models").unwrap();
    assert_eq!(code(&bigsmall(at, &["rm", "link/"])), 0);
    assert!(fs::symlink_metadata(at.join("link")).is_err());
    assert!(at.join("models/0.safetensors").exists());
}

#[test]
fn a_base_is_found_among_other_models() {
    let run = Run::new(3);
    let other = Run::of_seed(1, 77);
    let at = &run.path();
    // another model of the same shape, and the base in two shards
    fs::create_dir_all(at.join("models/base")).unwrap();
    fs::rename(
        other.at("0.safetensors"),
        at.join("models/other.safetensors"),
    )
    .unwrap();
    for (name, shard) in ["1", "2"].iter().zip(run.shards(0)) {
        put(&at.join(format!("models/base/{name}.safetensors")), &shard);
    }
    let words = [
        "compress",
        "1.safetensors",
        "--auto-delta",
        "--base-dir",
        "models",
        "--json",
    ];
    let report = json(at, &words);
    let choice = &report["auto_base"];
    assert_eq!(choice["base"], "models/base", "{choice}");
    let candidates = choice["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 2);
    let estimate = candidates[0]["estimated_percent"].as_f64().unwrap();
    let image = fs::metadata(at.join("1.bs")).unwrap().len();
    let real = 100.0 * image as f64 / run.steps[1].len() as f64;
    assert!((real - estimate).abs() < 4.0, "{estimate} {real}");
    // nothing like it: it stands alone, and says why
    fs::remove_dir_all(at.join("models/base")).unwrap();
    let report = json(at, &[&words[..], &["--force"]].concat());
    let choice = &report["auto_base"];
    assert!(choice["base"].is_null());
    assert!(
        choice["why"]
            .as_str()
            .unwrap()
            .contains("other.safetensors")
    );
    assert_eq!(
        code(&bigsmall(at, &["decompress", "1.bs", "-o", "back"])),
        0
    );
    // the base of another is not made to need that one
    run.compress(2, "0.safetensors").unwrap();
    let words = ["compress", "0.safetensors", "--auto-delta", "--json"];
    let why = json(at, &words)["auto_base"]["why"].to_string();
    assert!(why.contains("2.bs"), "{why}");
}

/// A run with each step in a folder of its own, beside a file that never changes and one that does.
fn checkpoints(count: usize) -> Run {
    let run = Run::new(count);
    for step in 0..count {
        let folder = run.at(&format!("run/ckpt-{}", 5 * step));
        fs::create_dir_all(&folder).unwrap();
        fs::rename(
            run.at(&format!("{step}.safetensors")),
            folder.join("model.safetensors"),
        )
        .unwrap();
        put(&folder.join("tokenizer.json"), b"the same");
        put(&folder.join("state.json"), &[step as u8]);
    }
    run
}

#[test]
fn a_series_is_small_whole_and_goes_on() {
    use std::os::unix::fs::MetadataExt;
    let run = checkpoints(8);
    let at = &run.path();
    let last = at.join("run/ckpt-35");
    fs::rename(&last, at.join("later")).unwrap();
    let words = ["compress", "run", "--series", "small", "--json"];
    let report = json(at, &words);
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 7);
    assert!(images[0]["base"].is_null());
    for image in &images[1..] {
        assert!(image["base"].as_str().unwrap().contains("ckpt-"), "{image}");
        let bytes = |field: &str| image[field].as_u64().unwrap();
        assert!(bytes("image_bytes") * 5 < bytes("original_bytes") * 2);
    }
    let inode = |step: usize| {
        let path = at.join(format!("small/ckpt-{step}/tokenizer.json"));
        fs::metadata(path).unwrap().ino()
    };
    assert!((0..7).all(|step| inode(5 * step) == inode(0)));
    // the first steps are gone, a new one has come
    fs::remove_dir_all(at.join("run/ckpt-0")).unwrap();
    fs::remove_dir_all(at.join("run/ckpt-10")).unwrap();
    fs::rename(at.join("later"), last).unwrap();
    let report = json(at, &words);
    assert_eq!(report["kept_images"], 5);
    assert_eq!(report["images"].as_array().unwrap().len(), 1);
    assert!(!report["images"][0]["base"].is_null());
    assert_eq!(code(&bigsmall(at, &["verify", "small"])), 0);
    let output = bigsmall(at, &["decompress", "small", "-o", "back"]);
    assert_eq!(code(&output), 0, "{}", stderr(&output));
    for (step, bytes) in run.steps.iter().enumerate() {
        let folder = at.join(format!("back/ckpt-{}", 5 * step));
        assert!(fs::read(folder.join("model.safetensors")).unwrap() == *bytes);
        assert_eq!(fs::read(folder.join("state.json")).unwrap(), [step as u8]);
    }
    // a step that was changed is not taken for the one that is there
    put(&at.join("run/ckpt-5/model.safetensors"), &run.steps[6]);
    let output = bigsmall(at, &words);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("ckpt-5"), "{}", stderr(&output));
}

#[test]
fn an_image_is_coded_anew_as_differences() {
    let run = Run::new(2);
    let at = &run.path();
    for step in ["0", "1"] {
        let name = format!("{step}.safetensors");
        assert_eq!(code(&bigsmall(at, &["compress", &name])), 0);
    }
    run.remove(0);
    run.remove(1);
    let output = bigsmall(at, &["compress", "1.bs", "-o", "p.bs"]);
    assert_eq!(code(&output), 2);
    fs::create_dir(at.join("images")).unwrap();
    fs::copy(at.join("1.bs"), at.join("images/1.bs")).unwrap();
    for (source, patch) in [("1.bs", "p.bs"), ("images", "patches")] {
        let output = bigsmall(at, &["compress", source, "--base", "0.bs", patch]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(
            code(&bigsmall(at, &["apply", "0.bs", patch, "-o", "out"])),
            0
        );
        let restored = if patch == "p.bs" {
            "out"
        } else {
            "out/1.safetensors"
        };
        assert!(fs::read(at.join(restored)).unwrap() == run.steps[1]);
        let _ = fs::remove_file(at.join("out"));
    }
    let len = |path: &str| fs::metadata(at.join(path)).unwrap().len();
    assert!(len("p.bs") * 2 < len("1.bs") && len("patches/1.bs") == len("p.bs"));
    // a delta whose own base is nowhere cannot be read for it
    let (base, tuned) = ("out/1.safetensors", "p.bs");
    let words = ["compress", tuned, "--base", base, "again.bs"];
    let output = bigsmall(at, &words);
    assert_eq!(code(&output), 5, "{}", stderr(&output));
}
