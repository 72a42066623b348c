//! Parity: whatever is done to a file up to the part that it makes up for, the file comes back.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use bigsmall::base::ErrorKind;
use bigsmall::base::digest;
use bigsmall::base::progress::Silent;
use bigsmall::ops::ProtectOptions;
use bigsmall::ops::RepairOptions;
use bigsmall::ops::RepairReport;
use bigsmall::ops::parity_path;
use bigsmall::ops::protect;
use bigsmall::ops::repair;
use bigsmall::parity::sidecar;

use crate::roundtrip::put;

/// How many damages each test tries; `BIGSMALL_TRIES` sets it for long runs.
fn tries() -> u64 {
    let set = std::env::var("BIGSMALL_TRIES").ok();
    set.and_then(|tries| tries.parse().ok()).unwrap_or(40)
}

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }
}

/// Bytes as images have them: noise, and runs that are all alike.
fn content(len: usize, chance: &mut Chance) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let run = 1 + chance.below(9000);
        match chance.below(5) {
            0 => bytes.resize(bytes.len() + run, 0),
            1 => bytes.extend((0..run).map(|n| (n % 12) as u8)),
            _ => bytes.extend((0..run).map(|_| chance.next() as u8)),
        }
    }
    bytes.truncate(len);
    bytes
}

struct Case {
    folder: tempfile::TempDir,
    whole: Vec<u8>,
    parity: Vec<u8>,
}

impl Case {
    fn new(whole: Vec<u8>, percent: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        put(&path, &whole);
        let options = ProtectOptions {
            percent,
            force: false,
            threads: 2,
        };
        let report = protect(std::slice::from_ref(&path), &options, &Silent).unwrap();
        assert_eq!(report.files.len(), 1);
        let parity = fs::read(parity_path(&path)).unwrap();
        assert_eq!(report.files[0].parity_bytes, parity.len() as u64);
        Self {
            folder,
            whole,
            parity,
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("x")
    }

    /// Repairs these bytes with that parity, and says what was found; the file is whole then, or as
    /// it was.
    fn repair(&self, damaged: &[u8], parity: &[u8]) -> bigsmall::base::Result<RepairReport> {
        put(&self.path(), damaged);
        put(&parity_path(&self.path()), parity);
        let options = RepairOptions {
            output: None,
            parity: None,
            force: false,
            threads: 2,
        };
        let repaired = repair(&self.path(), &options, &Silent);
        let now = fs::read(self.path()).unwrap();
        match &repaired {
            Ok(_) => assert!(now == self.whole, "what is repaired is whole"),
            Err(_) => assert!(now == damaged, "what is not repaired is as it was"),
        }
        let entries = fs::read_dir(self.folder.path()).unwrap().count();
        assert_eq!(entries, 2, "nothing is left over");
        repaired
    }
}

/// One run of bytes spoiled, taken out or put in; at most `most` of them.
fn damage(bytes: &[u8], most: usize, chance: &mut Chance) -> (String, Vec<u8>) {
    // as often one byte or a sector as something large
    let len = match chance.below(4) {
        0 => 1,
        1 => [512, 4096, 65536, 1 << 20][chance.below(4)],
        2 => most,
        _ => 1 + chance.below(most),
    };
    let len = len.clamp(1, most.max(1));
    let mut start = chance.below(bytes.len() + 1 - len);
    if chance.below(2) == 0 {
        start -= start % [512, 4096, 65536][chance.below(3)];
    }
    let mut damaged = bytes.to_vec();
    let what = match chance.below(6) {
        0 => {
            damaged[start..start + len].fill(0);
            "zeros"
        }
        1 => {
            damaged[start..start + len]
                .iter_mut()
                .for_each(|byte| *byte ^= 0x55);
            "other bits"
        }
        2 => {
            damaged.drain(start..start + len);
            "taken out"
        }
        3 => {
            let noise: Vec<u8> = (0..len).map(|_| chance.next() as u8).collect();
            damaged.splice(start..start, noise);
            "put in"
        }
        4 => {
            damaged.truncate(bytes.len() - len);
            "cut off"
        }
        _ => {
            let noise: Vec<u8> = (0..len).map(|_| chance.next() as u8).collect();
            damaged[start..start + len].copy_from_slice(&noise);
            "noise"
        }
    };
    (
        format!("{what}: {len} bytes at {start} of {}", bytes.len()),
        damaged,
    )
}

#[test]
fn any_run_up_to_the_percentage_is_made_up_for() {
    let mut chance = Chance(1);
    for (len, percent) in [
        (700, 5),
        (5000, 10),
        (100_000, 5),
        (1_000_000, 2),
        (3_000_000, 5),
    ] {
        let case = Case::new(content(len, &mut chance), percent);
        for _ in 0..tries() {
            let most = len * percent as usize / 100;
            let (what, damaged) = damage(&case.whole, most, &mut chance);
            let report = case.repair(&damaged, &case.parity);
            let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(report.repaired, damaged != case.whole, "{what}");
        }
    }
}

#[test]
fn damage_to_file_and_parity_at_once_is_made_up_for() {
    let mut chance = Chance(2);
    let case = Case::new(content(2_000_000, &mut chance), 5);
    for _ in 0..tries() {
        let (what, damaged) = damage(&case.whole, 60_000, &mut chance);
        let (and, parity) = damage(&case.parity, case.parity.len() / 20, &mut chance);
        let report = case.repair(&damaged, &parity);
        let report = report.unwrap_or_else(|error| panic!("{what}; parity {and}: {error}"));
        assert_eq!(report.parity_renewed, parity != case.parity, "{and}");
        // the same bytes have the same parity
        let renewed = fs::read(parity_path(&case.path())).unwrap();
        assert!(renewed == case.parity, "{and}");
    }
}

#[test]
fn scattered_bits_are_made_up_for() {
    let mut chance = Chance(3);
    let case = Case::new(content(4_000_000, &mut chance), 5);
    for _ in 0..tries() / 4 {
        let mut damaged = case.whole.clone();
        for _ in 0..20 {
            let at = chance.below(damaged.len());
            damaged[at] ^= 1 << chance.below(8);
        }
        let report = case.repair(&damaged, &case.parity).unwrap();
        assert!((1..=20).contains(&report.lost), "{}", report.lost);
    }
}

/// What README.md and docs/parity.md say of the default: so many bytes anywhere in files of these
/// lengths.
#[test]
fn scattered_bytes_of_small_files_are_made_up_for() {
    let mut chance = Chance(6);
    for (len, bytes, rounds) in [
        (100_000, 3, 10),
        (1_300_000, 12, 40),
        (1_300_000, 50, 10),
        (4_000_000, 60, 10),
        (30_000_000, 200, 8),
    ] {
        let case = Case::new(content(len, &mut chance), 5);
        let most = match len {
            8_000_000.. => 60,
            250_000.. => 85,
            _ => 100,
        };
        assert!(
            case.parity.len() <= len * most / 1000,
            "{len}: {}",
            case.parity.len()
        );
        for round in 0..rounds {
            let mut damaged = case.whole.clone();
            for _ in 0..bytes {
                let at = chance.below(len);
                damaged[at] ^= 1 + chance.below(255) as u8;
            }
            let report = case.repair(&damaged, &case.parity);
            let report =
                report.unwrap_or_else(|error| panic!("{bytes} of {len}, {round}: {error}"));
            assert!(report.repaired && report.lost <= bytes, "{}", report.lost);
        }
    }
}

#[test]
fn what_is_too_much_is_refused_and_left_alone() {
    let mut chance = Chance(4);
    let case = Case::new(content(1_000_000, &mut chance), 5);
    let mut damaged = case.whole.clone();
    damaged[200_000..300_000].fill(7);
    let error = case.repair(&damaged, &case.parity).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        error.to_string().contains("more than the parity"),
        "{error}"
    );
    // another file's parity
    let other = Case::new(content(1_000_000, &mut chance), 5);
    assert!(case.repair(&case.whole, &other.parity).is_err());
    // and none
    fs::remove_file(parity_path(&case.path())).unwrap();
    let options = RepairOptions {
        output: None,
        parity: None,
        force: false,
        threads: 1,
    };
    let error = repair(&case.path(), &options, &Silent).unwrap_err();
    assert!(error.to_string().contains("bigsmall protect"), "{error}");
}

#[test]
fn a_damaged_parity_file_never_gives_wrong_bytes() {
    let mut chance = Chance(5);
    let case = Case::new(content(60_000, &mut chance), 5);
    let mut damaged = case.whole.clone();
    damaged[1000..1600].fill(0);
    for _ in 0..tries() * 4 {
        let mut parity = case.parity.clone();
        match chance.below(3) {
            0 => parity.truncate(chance.below(parity.len())),
            1 => {
                // a header that is whole, and says something else
                let at = 8 + chance.below(60);
                parity[at] ^= 1 << chance.below(8);
                let checked = sidecar::HEADER_LEN as usize - 8;
                let sum = digest::xxh3(&parity[..checked]).to_le_bytes();
                parity[checked..checked + 8].copy_from_slice(&sum);
                let len = parity.len();
                let header = parity[..sidecar::HEADER_LEN as usize].to_vec();
                parity[len - sidecar::HEADER_LEN as usize..].copy_from_slice(&header);
            }
            _ => {
                for _ in 0..=chance.below(2000) {
                    let at = chance.below(parity.len());
                    parity[at] = chance.next() as u8;
                }
            }
        }
        // either the whole file or an error, and then the file as it was
        let _ = case.repair(&damaged, &parity);
        let folder: &Path = case.folder.path();
        fs::remove_file(folder.join("x.par")).unwrap();
    }
}
