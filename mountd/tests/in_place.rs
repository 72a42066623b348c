//! A mount over its own source: every path stays what it was, and what is no model is written
//! through.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod converted;
mod fine_tunes;
mod models;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bigsmall::archive::Bases;
use bigsmall::base::digest;
use bigsmall::base::progress::Silent;
use bigsmall::ops::RECORD_NAME;
use bigsmall::ops::patch;
use bigsmall::ops::plan_convert;
use bigsmall::ops::plan_restore;
use bigsmall::ops::restore;

use crate::converted::AT_ONCE;
use crate::converted::Setup;
use crate::converted::mountd;
use crate::fine_tunes::fine_tune;
use crate::models::model;
use crate::models::put;

const EROFS: i32 = 30;

// docs/semantics.md: Over its own source every path stays what it was, and unmounting shows the
// images.
#[test]
fn every_path_stays_what_it_was() {
    let setup = Setup::new();
    let root = setup.root();
    setup.models_are_whole();
    assert!(fs::read(root.join("deep/link.safetensors")).unwrap() == setup.models[2].1);
    let names = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    assert_eq!(
        names,
        [RECORD_NAME, "a.safetensors", "blobs", "config.json", "deep"]
    );
    // a second mount of the same is refused, and so is converting what is mounted
    let output = mountd(&["mount", root.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(plan_convert(&root, &AT_ONCE, &Silent).is_err());
    assert!(plan_restore(&root, false, &Silent).is_err());
    setup.unmount();
    assert!(root.join("a.bs").exists() && !root.join("a.safetensors").exists());
    let plan = plan_restore(&root, false, &Silent).unwrap();
    restore(&plan, 2, &Silent).unwrap();
    setup.models_are_whole();
    assert!(!root.join("a.bs").exists());
}

#[test]
fn a_mount_is_seen_whatever_bytes_its_path_has() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a \\134b\nc\\\td");
    fs::create_dir(&root).unwrap();
    put(&root.join("a.safetensors"), &model(200_000, 3));
    let words = |word| [word, root.to_str().unwrap()];
    assert!(mountd(&words("mount")).status.success());
    let planned = plan_convert(&root, &AT_ONCE, &Silent);
    let restored = plan_restore(&root, false, &Silent);
    let ended = mountd(&words("unmount"));
    assert!(planned.is_err() && restored.is_err());
    assert!(ended.status.success());
    plan_convert(&root, &AT_ONCE, &Silent).unwrap();
}

// docs/semantics.md: There a new file is written to the disk below, grows, is renamed and stays
// open as on the disk.
#[test]
fn a_download_is_written_through() {
    let setup = Setup::new();
    let root = setup.root();
    // a download: made, grown, renamed to a model
    let part = root.join("new.safetensors.part");
    let bytes = model(100_000, 99);
    let mut file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&part)
        .unwrap();
    for piece in bytes.chunks(10_007) {
        file.write_all(piece).unwrap();
    }
    file.sync_all().unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    let mut back = Vec::new();
    file.read_to_end(&mut back).unwrap();
    assert!(back == bytes);
    let inode = file.metadata().unwrap().ino();
    fs::rename(&part, root.join("deep/new.safetensors")).unwrap();
    assert_eq!(
        fs::metadata(root.join("deep/new.safetensors"))
            .unwrap()
            .ino(),
        inode
    );
    // the open file goes on
    file.write_at(b"xyz", 1000).unwrap();
    assert_eq!(
        fs::read(root.join("deep/new.safetensors")).unwrap()[1000..1003],
        *b"xyz"
    );
    drop(file);
    setup.unmount();
    let there = fs::read(root.join("deep/new.safetensors")).unwrap();
    assert!(there.len() == bytes.len() && there[1000..1003] == *b"xyz");
    assert!(!root.join("new.safetensors.part").exists());
}

// docs/semantics.md: Files, folders and links that are no models change as on the disk, and one
// that is open outlives its name.
#[test]
fn files_folders_and_links_beside_models_change_as_on_the_disk() {
    let setup = Setup::new();
    let root = setup.root();
    let notes = root.join("notes.txt");
    put(&notes, b"one");
    File::options()
        .append(true)
        .open(&notes)
        .unwrap()
        .write_all(b" two")
        .unwrap();
    assert_eq!(fs::read(&notes).unwrap(), b"one two");
    let open = File::options().write(true).open(&notes).unwrap();
    open.set_len(3).unwrap();
    assert_eq!(fs::metadata(&notes).unwrap().len(), 3);
    let then = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 5);
    open.set_modified(then).unwrap();
    assert_eq!(fs::metadata(&notes).unwrap().modified().unwrap(), then);
    fs::set_permissions(&notes, fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(fs::metadata(&notes).unwrap().mode() & 0o777, 0o640);
    fs::create_dir_all(root.join("x/y")).unwrap();
    fs::hard_link(&notes, root.join("x/y/notes")).unwrap();
    std::os::unix::fs::symlink("../notes.txt", root.join("x/link")).unwrap();
    assert_eq!(fs::read(root.join("x/link")).unwrap(), b"one");
    fs::rename(root.join("x"), root.join("z")).unwrap();
    assert_eq!(fs::read(root.join("z/y/notes")).unwrap(), b"one");
    assert!(fs::remove_dir(root.join("z")).is_err());
    fs::remove_file(root.join("z/link")).unwrap();
    // what is open and removed is still there for whoever has it open
    fs::remove_file(&notes).unwrap();
    open.set_len(1).unwrap();
    assert_eq!(open.metadata().unwrap().len(), 1);
    drop(open);
    // one that is replaced stays what it was for whoever has it open
    put(&notes, b"old");
    let old = File::open(&notes).unwrap();
    put(&root.join("newer"), b"newer");
    fs::rename(root.join("newer"), &notes).unwrap();
    assert_eq!(old.metadata().unwrap().len(), 3);
    assert_eq!(fs::read(&notes).unwrap(), b"newer");
    drop(old);
    fs::remove_file(&notes).unwrap();
    // mapped writes reach the disk
    let output = Command::new("python3")
        .arg("-c")
        .arg(
            "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(),0); \
             m[0:1]=b't'; m.flush()",
        )
        .arg(root.join("z/y/notes"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    setup.models_are_whole();
    setup.unmount();
    assert_eq!(fs::read(root.join("z/y/notes")).unwrap(), b"t");
    assert!(!root.join("notes.txt").exists() && !root.join("x").exists());
}

// docs/semantics.md: With `--protect-models` a model that is an image can be neither written nor
// renamed nor replaced nor removed there: `EROFS`.
#[test]
fn protected_models_stay_as_they_are() {
    let setup = Setup::new();
    setup.unmount();
    setup.run("mount", &["--protect-models"]);
    let root = setup.root();
    let path = root.join("a.safetensors");
    let errno = |result: std::io::Result<()>| result.unwrap_err().raw_os_error();
    let open = |options: &mut fs::OpenOptions, path: &Path| errno(options.open(path).map(|_| ()));
    assert_eq!(open(File::options().write(true), &path), Some(EROFS));
    assert_eq!(open(File::options().append(true), &path), Some(EROFS));
    assert_eq!(
        open(File::options().write(true).truncate(true), &path),
        Some(EROFS)
    );
    assert_eq!(errno(fs::remove_file(&path)), Some(EROFS));
    assert_eq!(
        errno(fs::rename(&path, root.join("c.safetensors"))),
        Some(EROFS)
    );
    assert_eq!(
        errno(fs::rename(root.join("config.json"), &path)),
        Some(EROFS)
    );
    assert_eq!(
        errno(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(0o777)
        )),
        Some(EROFS)
    );
    // the image lies hidden under its own name, which nobody can take
    let hidden = root.join("a.bs");
    assert!(!hidden.exists());
    assert_eq!(
        open(
            File::options().create(true).write(true).truncate(true),
            &hidden
        ),
        Some(EROFS)
    );
    assert_eq!(
        errno(fs::rename(root.join("config.json"), &hidden)),
        Some(EROFS)
    );
    setup.models_are_whole();
    setup.unmount();
    setup.mount();
    setup.models_are_whole();
}

#[test]
fn the_hugging_face_cache_is_mounted_and_unmounted_without_naming_it() {
    let setup = Setup::new();
    let root = setup.root();
    setup.unmount();
    let of_cache = |cache: &Path, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"));
        let output = command.args(words).env("HF_HUB_CACHE", cache).output();
        let output = output.unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            said,
        )
    };
    let (code, data, said) = of_cache(&root, &["mount", "--hf-cache"]);
    assert_eq!((code, data.as_str()), (Some(0), ""), "{said}");
    let shown = format!("`{}` is mounted", root.display());
    assert!(said.contains(&shown) && said.lines().count() == 1, "{said}");
    setup.models_are_whole();
    assert_eq!(of_cache(&root, &["mount", "--hf-cache"]).0, Some(2));
    assert_eq!(of_cache(&root, &["unmount", "--hf-cache"]).0, Some(0));
    assert!(root.join("a.bs").exists());
    assert_eq!(of_cache(&root, &["unmount", "--hf-cache"]).0, Some(2));
    // another place has no meaning then
    let named = root.to_str().unwrap();
    for word in ["mount", "unmount"] {
        assert_eq!(of_cache(&root, &[word, "--hf-cache", named]).0, Some(2));
        assert_eq!(of_cache(&root, &[word]).0, Some(2));
    }
    let (code, data, said) = of_cache(&root, &["mount", "--hf-cache", "--json"]);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    let report: serde_json::Value = serde_json::from_str(&data).unwrap();
    assert_eq!(report["mountpoint"], named);
    // a dead mount is cleared there, too
    let pid = i32::try_from(report["pid"].as_i64().unwrap()).unwrap();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(pid),
        nix::sys::signal::Signal::SIGKILL,
    )
    .unwrap();
    let (code, data, said) = of_cache(&root, &["mount", "--hf-cache", "--quiet"]);
    assert_eq!((code, data, said), (Some(0), String::new(), String::new()));
    setup.models_are_whole();
    let missing = root.join("missing");
    let (code, _, said) = of_cache(&missing, &["mount", "--hf-cache"]);
    assert_eq!(code, Some(3));
    let shown = format!("`{}`: there is no Hugging Face cache", missing.display());
    assert!(said.contains(&shown), "{said}");
}

#[test]
fn whoever_stands_in_the_folder_is_told_how_to_enter_the_mount() {
    let setup = Setup::new();
    let root = setup.root();
    let said = |here: &Path, words: &[&str]| {
        setup.unmount();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"));
        let words = [&["mount", root.to_str().unwrap()], words].concat();
        let output = command.args(words).current_dir(here).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for here in [root.clone(), root.join("deep")] {
        let told = said(&here, &[]);
        assert!(
            told.contains("`cd \"$PWD\"`") && told.lines().count() == 1,
            "{told}"
        );
        assert_eq!(said(&here, &["--quiet"]), "");
        assert_eq!(said(&here, &["--json"]), "");
    }
    assert_eq!(said(root.parent().unwrap(), &[]), "");
    // what it tells is so
    setup.unmount();
    let script = "\"$0\" mount . 2>/dev/null; ls a.safetensors; cd \"$PWD\"; ls a.safetensors";
    let output = Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_bigsmall-mountd")])
        .current_dir(&root)
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"a.safetensors\n");
}

// docs/semantics.md: Over its own source a mount finds bases below itself, and follows no link back
// into itself.
#[test]
fn a_delta_in_place_finds_its_base_below_the_mount() {
    let setup = Setup::new();
    let root = setup.root();
    setup.unmount();
    let tuned = fine_tune(&setup.models[0].1);
    let plain = setup.folder.path().join("t.safetensors");
    put(&plain, &tuned);
    let base = root.join("a.bs");
    patch(&base, &plain, &root.join("t.bs"), false, 2, &Silent).unwrap();
    // an absolute link into the mount leads nowhere that the mount would have to wait for
    std::os::unix::fs::symlink(&base, root.join("z.safetensors")).unwrap();
    assert!(Bases::open(&base, None).map(Arc::new).is_ok());
    setup.mount();
    assert!(fs::read(root.join("t.safetensors")).unwrap() == tuned);
    setup.models_are_whole();
}

// docs/semantics.md: The extended attributes `user.bigsmall.sha256`, `ratio`, `codec` and, of a
// fine-tune, `base` tell of the original and how it is stored.
#[test]
fn attributes_tell_what_is_known_of_a_model() {
    let setup = Setup::new();
    let script = "import os,sys; p=sys.argv[1]; print(*(n+'='+os.getxattr(p,n).decode() for n in os.listxattr(p)),sep='\\n')";
    let ask = |path: &Path| {
        let output = Command::new("python3")
            .args(["-c", script])
            .arg(path)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let told = ask(&setup.models[0].0);
    let sha256 = digest::sha256_of(&setup.models[0].1).unwrap();
    assert!(
        told.contains(&format!("user.bigsmall.sha256={}", digest::hex(&sha256))),
        "{told}"
    );
    assert!(told.contains("user.bigsmall.ratio=0.6") && told.contains("user.bigsmall.codec=r"));
    assert!(!ask(&setup.root().join("config.json")).contains("bigsmall"));
}
