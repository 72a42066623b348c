//! GPUs of NVIDIA: what files say of them. No library is loaded, and no device is opened.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::plan::facts::Gpu;
use crate::plan::measured::Devices;
use crate::plan::measured::Measured;
use crate::plan::measured::Name;
use crate::plan::measured::Names;
use crate::plan::probe;
use crate::plan::probe::System;

/// The driver's library, as programs ask for it.
const LIBRARY: &str = "libcuda.so.1";
/// Where it usually is, besides where the linker remembers.
const FOLDERS: &[&str] = &[
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/lib/wsl/lib",
    "usr/local/nvidia/lib64",
    "usr/local/cuda/compat",
    "run/opengl-driver/lib",
];
const LINKER_CACHE: &str = "etc/ld.so.cache";
const GPUS: &str = "proc/driver/nvidia/gpus";
const VERSION: &str = "proc/driver/nvidia/version";
/// Why what only the driver knows is not there.
const NOT_ASKED: &str = "only the driver tells, and it is not loaded for this";

/// What is known of them.
pub fn gpu(system: &System) -> Gpu {
    let gpus = probe::names_in(&system.path(GPUS));
    Gpu {
        driver_library: driver_library(system),
        driver_version: driver_version(system),
        devices: devices(system, gpus.len()),
        names: names(system, &gpus),
        memory_available: Measured::not(NOT_ASKED),
        busy: Measured::not(NOT_ASKED),
    }
}

fn driver_library(system: &System) -> Measured<Name> {
    let usual = FOLDERS.iter().map(|folder| system.path(folder));
    let folders = system.linker_folders.iter().cloned().chain(usual);
    let remembered = remembered(&system.path(LINKER_CACHE));
    let remembered = remembered.map(|path| system.path(path.trim_start_matches('/')));
    let mut found = folders.map(|folder| folder.join(LIBRARY)).chain(remembered);
    let found: Option<PathBuf> = found.find(|path| path.is_file());
    let found = found.map(|path| Name(path.to_string_lossy().into_owned()));
    Measured::or_not(found, format!("there is no `{LIBRARY}`"))
}

/// Where the linker remembers the library to be: its cache has paths as text, each with a zero
/// behind it.
fn remembered(cache: &Path) -> Option<String> {
    let cache = fs::read(cache).ok()?;
    let mut texts = cache.split(|byte| *byte == 0);
    let library = format!("/{LIBRARY}");
    let path = texts.find(|text| text.starts_with(b"/") && text.ends_with(library.as_bytes()))?;
    String::from_utf8(path.to_owned()).ok()
}

fn driver_version(system: &System) -> Measured<Name> {
    let module = system.text("sys/module/nvidia/version");
    let module = module.map(|text| text.trim().to_owned());
    let version = module.or_else(|| version_in(&system.text(VERSION)?));
    Measured::or_not(
        version.map(Name),
        "neither `/sys/module/nvidia` nor `/proc/driver/nvidia` is there",
    )
}

/// The number in a line like `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue ...`.
fn version_in(text: &str) -> Option<String> {
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        let are_numbers = parts.all(|part| part.parse::<u32>().is_ok());
        word.contains('.') && are_numbers
    };
    text.split_whitespace().find(is_version).map(str::to_owned)
}

fn devices(system: &System, gpus: usize) -> Measured<Devices> {
    let is_device = |name: &String| {
        let number = name.strip_prefix("nvidia");
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let files = probe::names_in(&system.path("dev"));
    let files = files.iter().filter(|name| is_device(name)).count();
    // a container may be shown fewer devices than the driver has
    let count = if files > 0 { files } else { gpus };
    let count = (count > 0).then_some(Devices(count as u64));
    Measured::or_not(
        count,
        format!("there are neither `/{GPUS}` nor devices `/dev/nvidia0` and so on"),
    )
}

fn names(system: &System, gpus: &[String]) -> Measured<Names> {
    let name = |gpu: &String| {
        let text = system.text(&format!("{GPUS}/{gpu}/information"))?;
        let mut lines = text.lines();
        let name = lines.find_map(|line| line.strip_prefix("Model:"))?;
        Some(name.trim().to_owned())
    };
    let names: Vec<String> = gpus.iter().filter_map(name).collect();
    let names = (!names.is_empty()).then_some(Names(names));
    Measured::or_not(names, format!("nothing in `/{GPUS}` names them"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::probe::put;

    #[test]
    fn without_a_driver_everything_says_why_it_is_not_known() {
        let root = tempfile::tempdir().unwrap();
        let gpu = gpu(&System::within(root.path()));
        let reasons = [
            gpu.driver_library.why_not(),
            gpu.driver_version.why_not(),
            gpu.devices.why_not(),
            gpu.names.why_not(),
            gpu.memory_available.why_not(),
            gpu.busy.why_not(),
        ];
        assert!(
            reasons
                .iter()
                .all(|reason| reason.is_some_and(|it| !it.is_empty()))
        );
    }

    #[test]
    fn what_the_driver_leaves_in_files_is_told() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        for (number, model) in [
            ("0000:1b:00.0", "NVIDIA H100"),
            ("0000:43:00.0", "NVIDIA L4"),
        ] {
            let text = format!("Model: \t\t {model}\nIRQ:   \t\t 18\n");
            put(at, &format!("{GPUS}/{number}/information"), text.as_bytes());
        }
        let version = b"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Tue\n";
        put(at, VERSION, version);
        let system = System::within(at);
        let found = gpu(&system);
        assert_eq!(found.devices, Measured::Value(Devices(2)));
        assert_eq!(
            found.driver_version,
            Measured::Value(Name("550.54.15".to_owned()))
        );
        let names = ["NVIDIA H100", "NVIDIA L4"].map(str::to_owned);
        assert_eq!(found.names, Measured::Value(Names(names.into())));
        // a container with one of them
        put(at, "dev/nvidia1", b"");
        put(at, "dev/nvidiactl", b"");
        put(at, "sys/module/nvidia/version", b"560.1\n");
        let found = gpu(&system);
        assert_eq!(found.devices, Measured::Value(Devices(1)));
        assert_eq!(
            found.driver_version,
            Measured::Value(Name("560.1".to_owned()))
        );
    }

    #[test]
    fn the_library_is_found_where_a_linker_finds_it() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path();
        let system = System::within(at);
        put(
            at,
            LINKER_CACHE,
            b"glibc\0libcuda.so.1\0/opt/gpu/libcuda.so.1\0/usr/lib/x\0",
        );
        assert!(driver_library(&system).why_not().is_some());
        put(at, "opt/gpu/libcuda.so.1", b"");
        let found = driver_library(&system);
        assert!(found.value().unwrap().0.ends_with("/opt/gpu/libcuda.so.1"));
        put(at, "usr/lib64/libcuda.so.1", b"");
        let found = driver_library(&system);
        assert!(
            found
                .value()
                .unwrap()
                .0
                .ends_with("/usr/lib64/libcuda.so.1")
        );
        let first = at.join("first");
        put(&first, "libcuda.so.1", b"");
        let system = System {
            linker_folders: vec![first],
            ..system
        };
        let found = driver_library(&system);
        assert!(found.value().unwrap().0.ends_with("/first/libcuda.so.1"));
    }
}
