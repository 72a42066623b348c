//! What is known of this machine: measured, kept, shown again, and never made up.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bigsmall::base::ErrorKind;
use bigsmall::base::Progress;
use bigsmall::base::progress::Silent;
use bigsmall::ops::ProfileOptions;
use bigsmall::ops::ProfileReport;
use bigsmall::ops::profile;
use bigsmall::plan::Measured;
use bigsmall::plan::probe::System;
use bigsmall::plan::probe::pace::Pace;
use bigsmall::plan::store::Store;
use parking_lot::Mutex;
use serde_json::Value;

use crate::program::bigsmall;
use crate::program::code;
use crate::program::json;
use crate::program::stderr;
use crate::program::stdout;
use crate::roundtrip::put;

/// As little as can be measured.
const SHORT: Pace = Pace {
    pass: Duration::ZERO,
    passes: 1,
    memory_len: Some(4 << 20),
    disk_len: 1 << 30,
    disk_time: Duration::from_millis(1),
};

/// On this machine, kept in a folder.
fn options(folder: &Path) -> ProfileOptions {
    ProfileOptions {
        store: Some(Store::new(&store(folder))),
        pace: SHORT,
        ..ProfileOptions::new(2)
    }
}

fn store(folder: &Path) -> PathBuf {
    folder.join("cache/profile.json")
}

fn profiled(options: &ProfileOptions) -> ProfileReport {
    profile(options, &Silent).unwrap()
}

/// Makes what is kept so old.
fn age(folder: &Path, seconds: u64) {
    let text = fs::read_to_string(store(folder)).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    let measured_at = kept["measured_at"].as_u64().unwrap();
    kept["measured_at"] = (measured_at - seconds).into();
    put(&store(folder), kept.to_string().as_bytes());
}

/// Says what is warned of and what is begun.
#[derive(Default)]
struct Heard {
    warned: Mutex<Vec<String>>,
    begun: Mutex<Vec<String>>,
}

impl Progress for Heard {
    fn begin(&self, what: &str, _: u64) {
        self.begun.lock().push(what.to_owned());
    }

    fn warn(&self, text: &str) {
        self.warned.lock().push(text.to_owned());
    }
}

#[test]
fn what_was_measured_is_kept_and_shown_with_its_age() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    let heard = Heard::default();
    let first = profile(&options, &heard).unwrap();
    assert!(first.rates.is_whole(), "{:?}", first.rates);
    assert_eq!(first.age_seconds, 0);
    assert_eq!(first.kept_in.as_deref(), Some(&*store(folder.path())));
    let begun = heard.begun.into_inner();
    for what in ["memory, 2 threads", "decoding R16, 1 thread", "64 vectors"] {
        assert!(
            begun.iter().any(|it| it.contains(what)),
            "{what}: {begun:?}"
        );
    }
    age(folder.path(), 7_200);
    let heard = Heard::default();
    let second = profile(&options, &heard).unwrap();
    assert_eq!(second.rates, first.rates);
    assert!(second.age_seconds >= 7_200);
    assert!(heard.begun.into_inner().is_empty(), "nothing was measured");
    let refreshed = profiled(&ProfileOptions {
        refresh: true,
        ..options.clone()
    });
    assert_eq!(refreshed.age_seconds, 0);
    assert_eq!(profiled(&options).rates, refreshed.rates);
}

#[test]
fn what_is_damaged_or_of_another_machine_is_measured_anew() {
    let folder = tempfile::tempdir().unwrap();
    let options = options(folder.path());
    profiled(&options);
    age(folder.path(), 7_200);
    let good = fs::read_to_string(store(folder.path())).unwrap();
    let mut other: Value = serde_json::from_str(&good).unwrap();
    other["machine"]["memory_bytes"] = 5.into();
    let damaged = [
        String::new(),
        good[..good.len() / 2].to_owned(),
        "[1, 2".repeat(1_000),
        other.to_string(),
        good.replace("flop_per_second", "tokens_per_second"),
    ];
    for text in damaged {
        put(&store(folder.path()), text.as_bytes());
        let report = profiled(&options);
        assert_eq!(report.age_seconds, 0, "{text}");
        assert!(report.kept_in.is_some());
    }
    // with another number of threads it is another machine
    put(&store(folder.path()), good.as_bytes());
    assert!(profiled(&options).age_seconds >= 7_200);
    let one = profiled(&ProfileOptions {
        threads: 1,
        ..options
    });
    assert_eq!(one.age_seconds, 0);
}

#[test]
fn where_nothing_can_be_kept_it_works_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    // a file is where the folder would be
    put(&folder.path().join("cache"), b"");
    let heard = Heard::default();
    let report = profile(&options(folder.path()), &heard).unwrap();
    assert!(report.rates.is_whole());
    assert_eq!(report.kept_in, None);
    assert!(report.not_kept.unwrap().contains("cache"));
    assert_eq!(heard.warned.into_inner().len(), 1);
    let nowhere = profiled(&ProfileOptions {
        store: None,
        ..options(folder.path())
    });
    assert!(nowhere.not_kept.unwrap().contains("HOME"));
}

/// A machine without /proc and /sys has reasons in the place of figures, and nothing of it is kept.
#[test]
fn probes_that_fail_give_reasons_and_no_figures() {
    let (folder, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let blind = ProfileOptions {
        system: System::within(empty.path()),
        pace: Pace {
            memory_len: None,
            ..SHORT
        },
        ..options(folder.path())
    };
    let report = profiled(&blind);
    let reasons = [
        report.processor.name.why_not(),
        report.processor.caches.l3.why_not(),
        report.memory.total.why_not(),
        report.memory.available.why_not(),
        report.gpu.driver_library.why_not(),
        report.gpu.devices.why_not(),
        report.disk.read.why_not(),
    ];
    assert!(reasons.iter().all(Option::is_some), "{reasons:?}");
    assert_eq!(report.machine, None);
    assert!(report.not_kept.is_some());
    assert!(!store(folder.path()).exists());
    // how much memory is free is not known, so none is taken
    let rate = report.rates.decode_r16.with(1);
    assert_eq!(rate.why_not(), report.memory.available.why_not());
}

#[test]
fn with_little_memory_no_rate_is_measured_and_what_was_kept_stays() {
    let (folder, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::create_dir(root.path().join("proc")).unwrap();
    let here = |available: u64| {
        put(&root.path().join("proc/cpuinfo"), b"model name : tiny\n");
        let meminfo = format!("MemTotal: 65536 kB\nMemAvailable: {available} kB\n");
        put(&root.path().join("proc/meminfo"), meminfo.as_bytes());
    };
    let measured = |refresh: bool, memory_len: Option<u64>| {
        profiled(&ProfileOptions {
            system: System::within(root.path()),
            refresh,
            pace: Pace {
                memory_len,
                ..SHORT
            },
            ..options(folder.path())
        })
    };
    here(60_000);
    let whole = measured(false, Some(4 << 20));
    assert!(whole.kept_in.is_some());
    here(1_000);
    let little = measured(true, None);
    let why = little.rates.memory_read.with(1);
    assert!(
        why.why_not().unwrap().contains("of memory would be needed"),
        "{why}"
    );
    assert!(little.not_kept.unwrap().contains("not everything"));
    assert_eq!(measured(false, None).rates, whole.rates);
}

#[test]
fn the_disk_of_a_model_is_measured_once() {
    let (folder, model) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let without = options(folder.path());
    let unknown = profiled(&without);
    assert_eq!(unknown.disk.read, Measured::not("no model was given"));
    let with = ProfileOptions {
        model: Some(model.path().to_owned()),
        ..without.clone()
    };
    let error = profile(&with, &Silent).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    put(&model.path().join("a.safetensors"), &vec![1; 17 << 20]);
    put(&model.path().join("b.safetensors"), &vec![2; 1 << 20]);
    put(&model.path().join("other"), &vec![2; 1 << 20]);
    let first = profiled(&with);
    assert!(first.disk.read.value().is_some(), "{:?}", first.disk);
    assert_eq!(first.disk_age_seconds, Some(0));
    assert_eq!(first.rates, unknown.rates, "these were kept");
    let heard = Heard::default();
    let second = profile(&with, &heard).unwrap();
    assert_eq!(second.disk, first.disk);
    assert!(heard.begun.into_inner().is_empty(), "nothing was measured");
    // a file is a model, too; a short one on a disk that nobody knows tells nothing
    let short = profiled(&ProfileOptions {
        model: Some(model.path().join("b.safetensors")),
        refresh: true,
        ..without.clone()
    });
    assert!(short.disk.read.why_not().unwrap().contains("1.05 MB"));
    assert_eq!(short.disk_age_seconds, None);
    // and what was known stays
    assert_eq!(profiled(&with).disk, first.disk);
}

#[test]
fn it_ends_when_somebody_wants_it_to() {
    struct Impatient;
    impl Progress for Impatient {
        fn interrupted(&self) -> bool {
            true
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let stopped = profile(&options(folder.path()), &Impatient);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(!store(folder.path()).exists());
}

/// Every figure is a value with its unit, or the reason why there is none.
fn assert_figure(figure: &Value) {
    let is_value = figure["unit"].is_string() && !figure["value"].is_null();
    let is_none = figure["not_measured"].is_string();
    assert!(is_value != is_none, "{figure}");
}

#[test]
fn the_command_measures_once_and_says_the_same_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = bigsmall(folder.path(), &["profile", "-j", "1", "--json"]);
    assert_eq!(code(&first), 0, "{}", stderr(&first));
    let first = json(&first);
    assert_eq!(first["schema"], "bigsmall.profile/1");
    for part in ["memory", "gpu", "disk"] {
        let figures = first[part].as_object().unwrap();
        assert!(figures.len() >= 3);
        figures.values().for_each(assert_figure);
    }
    assert_figure(&first["processor"]["name"]);
    assert_figure(&first["processor"]["caches"]["l2"]);
    for (name, rates) in first["rates"].as_object().unwrap() {
        assert_eq!(rates[0]["threads"], 1, "{name}");
        assert_figure(&rates[0]["rate"]);
    }
    let path = folder.path().join("bigsmall/profile.json");
    assert_eq!(first["kept_in"], path.to_str().unwrap());
    let kept: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for field in ["schema", "machine", "measured_at", "rates", "disks"] {
        assert_eq!(kept[field], first[field], "{field}");
    }
    let again = bigsmall(folder.path(), &["profile", "-j", "1"]);
    let text = stdout(&again);
    assert_eq!(code(&again), 0);
    for word in [
        "processor",
        "R16 times a vector",
        "not measured",
        "profile.json",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let again = json(&bigsmall(folder.path(), &["profile", "-j", "1", "--json"]));
    assert_eq!(again["rates"], first["rates"]);
    let gone = bigsmall(folder.path(), &["profile", "nowhere"]);
    assert_eq!(code(&gone), 3, "{}", stderr(&gone));
}

/// The row of docs/json.md, and the report.
#[test]
fn the_page_on_json_has_every_field() {
    let folder = tempfile::tempdir().unwrap();
    let report = serde_json::to_value(profiled(&options(folder.path()))).unwrap();
    let page = include_str!("../../docs/json.md");
    let mut rows = page.lines();
    let row = rows.find(|line| line.starts_with("| profile |")).unwrap();
    let documented: Vec<&str> = row.split('`').skip(3).step_by(2).collect();
    let mut fields = vec!["threads", "rate", "measured_at"];
    let nested = ["processor", "memory", "gpu", "machine", "rates", "disk"];
    for (name, value) in report.as_object().unwrap() {
        fields.push(name);
        if nested.contains(&name.as_str()) {
            fields.extend(value.as_object().unwrap().keys().map(String::as_str));
        }
    }
    for part in ["caches", "instructions"] {
        let part = report["processor"][part].as_object().unwrap();
        fields.extend(part.keys().map(String::as_str));
    }
    for field in &fields {
        assert!(documented.contains(field), "`{field}` is not documented");
    }
    for field in documented {
        // a part of itself, as it stands there
        assert!(fields.contains(&field), "there is no `{field}`");
    }
}
