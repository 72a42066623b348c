//! The memory of mounts.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test"
)]

mod models;
#[expect(dead_code, reason = "not every file of tests needs all of it")]
mod setup;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::models::model;
use crate::setup::Setup;

// docs/semantics.md: Memory stays within `--cache` and 64 MiB, however many streams read, of
// images of up to 1,000,000 tensors that need no base.
#[test]
fn memory_stays_within_the_cache_while_many_streams_read() {
    let mut setup = Setup::new();
    for number in 0..4 {
        setup.image(&format!("m{number}.bs"), &model(8_000_000, number));
    }
    let output = setup.mount(&["--cache", "8m"]);
    assert!(output.status.success());
    let mnt = setup.mnt();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let path = mnt.join(format!("m{}.safetensors", number % 4));
            scope.spawn(move || {
                let mut file = File::open(path).unwrap();
                let mut buffer = vec![0; 1 << 20];
                while file.read(&mut buffer).unwrap() > 0 {}
            });
        }
    });
    // 8 MiB of cache, 32 MiB beside it, and what of the program and its libraries is mapped, in two
    // processes
    let peak_kib = peak_kib(&setup);
    assert!(peak_kib < 64 << 10, "peak {peak_kib} KiB");
}

/// The most memory that both processes of a mount had, what of the program and its libraries is
/// mapped included.
fn peak_kib(setup: &Setup) -> u64 {
    let peak = |part: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", setup.process(part))).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap()
    };
    peak("supervisor_pid") + peak("worker_pid")
}

/// A safetensors file of that many tensors, of eight bytes each.
fn many_tensors(count: usize) -> Vec<u8> {
    let tensor = |number: usize| {
        let (layer, expert) = (number / 2048, number % 2048);
        let (start, end) = (number * 8, number * 8 + 8);
        format!(
            "\"layers.{layer}.experts.{expert}.w\":{{\"dtype\":\"BF16\",\
             \"shape\":[4],\"data_offsets\":[{start},{end}]}}"
        )
    };
    let tensors: Vec<String> = (0..count).map(tensor).collect();
    let json = format!("{{{}}}", tensors.join(","));
    let data = (0..count * 2).flat_map(|n| [n as u8, 0x3c, (n >> 8) as u8, 0xbd]);
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend(data);
    file
}

#[test]
fn memory_stays_within_the_cache_however_many_tensors_there_are() {
    const TENSORS: usize = 1_000_000;
    let mut setup = Setup::new();
    let original = many_tensors(TENSORS);
    setup.image("m.bs", &original);
    let output = setup.mount(&["--cache", "4m"]);
    assert!(output.status.success());
    let path = setup.mnt().join("m.safetensors");
    assert!(fs::read(&path).unwrap() == original);
    let file = File::open(&path).unwrap();
    let len = original.len() as u64;
    std::thread::scope(|scope| {
        for reader in 1..=16_u64 {
            let (file, original) = (&file, &original);
            scope.spawn(move || {
                let mut state = reader.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for _ in 0..500 {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let at = (state >> 20) % (len - 5000);
                    let mut part = vec![0; 5000];
                    file.read_exact_at(&mut part, at).unwrap();
                    let at = usize::try_from(at).unwrap();
                    assert!(part == original[at..at + 5000]);
                }
            });
        }
    });
    let peak_kib = peak_kib(&setup);
    assert!(peak_kib < (4 + 64) << 10, "peak {peak_kib} KiB");
}
