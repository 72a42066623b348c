//! What mounts tell of themselves, and who else starts them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod models;
#[expect(dead_code, reason = "not every file of tests needs all of it")]
mod setup;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::models::model;
use crate::setup::Setup;
use crate::setup::is_mounted;
use crate::setup::kill;
use crate::setup::mountd;
use crate::setup::names;
use crate::setup::text;

#[test]
fn what_a_mount_does_is_counted_and_told() {
    let mut setup = Setup::new();
    let original = model(2_000_000, 6);
    setup.image("m.bs", &original);
    let image_len = fs::metadata(setup.source().join("m.bs")).unwrap().len();
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = setup.mount(&["--metrics", &port.to_string()]);
    assert!(output.status.success());
    let path = setup.mnt().join("m.safetensors");
    assert!(fs::read(&path).unwrap() == original);
    let account = setup.report()["account"].clone();
    let done = &account["done"];
    let number = |value: &serde_json::Value| value.as_u64().unwrap();
    assert_eq!(number(&done["sent_bytes"]), original.len() as u64);
    let decoded = number(&done["decoded_bytes"]);
    // every block once: the padding of the last page is nobody's
    assert_eq!(decoded, original.len() as u64);
    let from_disk = number(&done["source_bytes"]);
    assert!(
        from_disk > image_len * 9 / 10 && from_disk < image_len * 11 / 10,
        "{from_disk} of {image_len}"
    );
    // the kernel asks for at most 1 MiB at once
    let reads = number(&done["requests"]["read"]);
    assert!(
        reads >= (original.len() as u64).div_ceil(1 << 20),
        "{reads}"
    );
    assert!(number(&account["resident_bytes"]) < number(&account["resident_bytes_max"]));
    assert_eq!(number(&done["damaged"]), 0);

    let asked = |what: &str| {
        let mut stream = TcpStream::connect(port).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(stream, "GET {what} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let metrics = asked("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200 OK\r\n"), "{metrics}");
    let at = text(&setup.mnt()).to_owned();
    let line = format!(
        "bigsmall_sent_bytes_total{{mountpoint=\"{at}\"}} {}\n",
        original.len()
    );
    assert!(metrics.contains(&line), "{metrics}");
    let line = format!("bigsmall_fuse_requests_total{{mountpoint=\"{at}\",op=\"read\"}} ");
    assert!(metrics.contains(&line), "{metrics}");
    assert!(asked("/else").starts_with("HTTP/1.1 404 "));
    // somebody who connects and says nothing keeps nobody from asking for long
    let _silent = TcpStream::connect(port).unwrap();
    assert!(asked("/").contains("bigsmall_cache_bytes"));

    let listed = String::from_utf8(mountd(&["mounts"]).stdout).unwrap();
    assert!(
        listed.contains("requests") && listed.contains("memory"),
        "{listed}"
    );
    let taken = setup.mount_at(
        &setup.source(),
        Path::new("/nowhere"),
        &["--metrics", &port.to_string()],
    );
    assert!(!taken.status.success());
}

#[test]
fn damage_that_was_met_is_counted() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(500_000, 6));
    let image = setup.source().join("m.bs");
    let len = fs::metadata(&image).unwrap().len();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(&[0xff; 64], len / 2).unwrap();
    drop(file);
    let mnt = setup.mounted();
    assert!(fs::read(mnt.join("m.safetensors")).is_err());
    let account = &setup.report()["account"]["done"];
    assert!(account["damaged"].as_u64().unwrap() > 0, "{account}");
    assert!(account["failed_reads"].as_u64().unwrap() > 0, "{account}");
}

#[test]
fn a_service_manager_is_told_when_the_mount_is_usable() {
    let setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    let place = setup.folder.path().join("notify");
    let socket = UnixDatagram::bind(&place).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"))
        .args([
            "mount",
            "--foreground",
            text(&setup.source()),
            text(&setup.mnt()),
        ])
        .env("NOTIFY_SOCKET", &place)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut said = [0; 100];
    let len = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..len], b"READY=1");
    assert_eq!(names(&setup.mnt()), ["m.safetensors"]);
    kill(child.id(), "-TERM");
    let len = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..len], b"STOPPING=1");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(!is_mounted(&setup.mnt()));
}

#[test]
fn lines_of_fstab_are_understood() {
    let setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    let helper = setup.folder.path().join("mount.bigsmall");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_bigsmall-mountd"), &helper).unwrap();
    let (source, mnt) = (setup.source(), setup.mnt());
    let run = |options: &str| {
        Command::new(&helper)
            .args([text(&source), text(&mnt), "-o", options])
            .output()
            .unwrap()
    };
    assert_eq!(run("ro,cash=1m").status.code(), Some(1));
    let output = run("rw,nosuid,nodev,nofail,_netdev,cache=16m,allow_other");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(names(&mnt), ["m.safetensors"]);
    let account = &setup.report()["account"]["done"];
    assert_eq!(account["cache_bytes_max"], 16 << 20);
    // once more is refused, as mount(8) says failures
    assert_eq!(run("ro").status.code(), Some(32));
    assert!(mountd(&["unmount", text(&mnt)]).status.success());
}
