//! The commands that only look: `scan`, `stat` and `xray`, and what `verify` says of models that
//! were never trained.

use std::fs;

use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::cli_trust::text;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

const TRAINED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/data/mini-llama/model.safetensors"
);

pub(crate) fn matrix(name: &str, dtype: &'static str, shape: [u64; 2], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        data,
    }
}

/// Numbers as layers are filled with before training.
pub(crate) fn fresh(seed: u64, count: usize, shape: &str) -> Vec<f32> {
    let mut random = Random::new(seed);
    let uniform = |random: &mut Random| (random.next() >> 40) as f32 / 16_777_216.0 - 0.5;
    let normal = |random: &mut Random, most: f32| {
        std::iter::repeat_with(|| random.gauss())
            .find(|value| value.abs() <= most)
            .unwrap()
    };
    let draw = |random: &mut Random| match shape {
        "normal" => normal(random, 9.0) * 0.02,
        "truncated" => normal(random, 2.0) * 0.02,
        _ => uniform(random) * 0.125,
    };
    (0..count).map(|_| draw(&mut random)).collect()
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

pub(crate) fn bf16_bytes(values: &[f32]) -> Vec<u8> {
    let upper = |value: &f32| ((value.to_bits() + 0x8000) >> 16) as u16;
    values
        .iter()
        .flat_map(|value| upper(value).to_le_bytes())
        .collect()
}

/// The tensor `t` of a file with nothing else, as xray sees it.
fn seen(dtype: &'static str, shape: [u64; 2], data: Vec<u8>) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let file = models::file(&[matrix("t", dtype, shape, data)], 0, "");
    put(&folder.path().join("m.safetensors"), &file);
    let report = json(&bigsmall(
        folder.path(),
        &["xray", "m.safetensors", "--json"],
    ));
    report["tensors"][0].clone()
}

fn flags(tensor: &Value) -> Vec<&str> {
    let flags = tensor["flags"].as_array().unwrap();
    flags.iter().map(|flag| flag.as_str().unwrap()).collect()
}

#[test]
fn what_was_trained_is_told_from_fresh_random_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let report = json(&bigsmall(at, &["xray", TRAINED, "--json"]));
    assert_eq!(report["looks_untrained"], false);
    assert_eq!(
        report["flags"].get("unstructured"),
        None,
        "{}",
        report["flags"]
    );
    assert!(report["judged_bytes"].as_u64() > Some(1_000_000));
    assert_eq!(
        code(&bigsmall(at, &["compress", TRAINED, "-o", "trained.bs"])),
        0
    );
    let checked = json(&bigsmall(at, &["verify", "trained.bs", "--json"]));
    assert_eq!(checked["images"][0]["notes"], Value::Array(Vec::new()));
    for (number, shape) in ["normal", "truncated", "uniform"].iter().enumerate() {
        for dtype in ["F32", "BF16"] {
            // the bound of uniform numbers is a power of two where the rounding matters most
            let tensors = [(200, 300), (64, 128), (500, 96)].map(|(rows, columns)| {
                let values = fresh(number as u64 + rows, (rows * columns) as usize, shape);
                let data = if dtype == "F32" {
                    f32_bytes(&values)
                } else {
                    bf16_bytes(&values)
                };
                matrix(&format!("{rows}"), dtype, [rows, columns], data)
            });
            put(
                &at.join("fresh.safetensors"),
                &models::file(&tensors, 0, ""),
            );
            let report = json(&bigsmall(at, &["xray", "fresh.safetensors", "--json"]));
            assert_eq!(report["looks_untrained"], true, "{shape} {dtype} {report}");
            assert_eq!(
                code(&bigsmall(at, &["compress", "fresh.safetensors", "-f"])),
                0
            );
            // worth knowing, and no damage
            let checked = bigsmall(at, &["verify", "fresh.bs"]);
            assert_eq!(code(&checked), 0);
            assert!(
                text(&checked).contains("note: it looks untrained: 3 of 3"),
                "{}",
                text(&checked)
            );
        }
    }
}

#[test]
fn numbers_of_narrower_dtypes_are_known_in_wider_ones() {
    let values = fresh(3, 128 * 128, "normal");
    let shape = [128, 128];
    let narrowed: Vec<f32> = values
        .iter()
        .map(|v| f32::from_bits(v.to_bits() & 0xffff_0000))
        .collect();
    let of = |values: &[f32]| seen("F32", shape, f32_bytes(values));
    assert!(flags(&of(&narrowed)).contains(&"bf16-lineage"));
    assert_eq!(of(&narrowed)["unused_mantissa_bits"], 16);
    assert!(!flags(&of(&values)).contains(&"bf16-lineage"));
    let half: Vec<f32> = values
        .iter()
        .map(|v| f32::from_bits(v.to_bits() & 0xffff_e000))
        .collect();
    assert!(flags(&of(&half)).contains(&"f16-lineage"));
    let mut most = narrowed.clone();
    most[..500].copy_from_slice(&values[..500]);
    assert!(flags(&of(&most)).contains(&"bf16-residue"));
    // 1.mmmmmmm000 as F16
    let mut random = Random::new(9);
    let f16: Vec<u8> = (0..128 * 128)
        .flat_map(|_| ((random.next() as u16 & 0x83f8) | 0x2c00).to_le_bytes())
        .collect();
    assert!(flags(&seen("F16", shape, f16)).contains(&"bf16-lineage"));
    // four bits and a scale for each row, as a quantised model is unpacked
    let mut random = Random::new(10);
    let unpacked: Vec<f32> = (0..128)
        .flat_map(|_| {
            let scale = random.gauss().abs() * 0.01 + 0.01;
            (0..128)
                .map(|_| (random.below(15) as f32 - 7.0) * scale)
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(flags(&seen("BF16", shape, bf16_bytes(&unpacked))).contains(&"carved-mantissas"));
    let coarse: Vec<f32> = values
        .iter()
        .map(|v| f32::from_bits(v.to_bits() & 0xffe0_0000))
        .collect();
    let coarse = seen("BF16", shape, bf16_bytes(&coarse));
    assert!(flags(&coarse).contains(&"unused-mantissa-bits"), "{coarse}");
    assert_eq!(coarse["unused_mantissa_bits"], 5);
}

#[test]
fn counts_are_what_is_there() {
    let mut values = fresh(4, 64 * 100, "normal");
    values[100..300].fill(0.0);
    values[5] = f32::NAN;
    values[6] = f32::INFINITY;
    let tensor = seen("F32", [64, 100], f32_bytes(&values));
    let found = flags(&tensor);
    for flag in ["nan", "infinite", "dead-rows"] {
        assert!(found.contains(&flag), "{tensor}");
    }
    assert_eq!(
        (
            &tensor["nans"],
            &tensor["infinities"],
            &tensor["zeros"],
            &tensor["dead_rows"]
        ),
        (&1.into(), &1.into(), &200.into(), &2.into())
    );
    let constant = seen("BF16", [64, 100], bf16_bytes(&vec![1.0; 6400]));
    assert_eq!(flags(&constant), ["constant"]);
    // two exponents, both signs, one mantissa, each as often
    let four: Vec<f32> = (0..6400).map(|n| [1.0, -1.0, 2.0, -2.0][n % 4]).collect();
    let four = seen("BF16", [64, 100], bf16_bytes(&four));
    for (plane, bits) in [("sign", 1.0), ("exponent", 1.0), ("mantissa", 0.0)] {
        assert!((four["entropy"][plane].as_f64().unwrap() - bits).abs() < 1e-9);
    }
    assert!((four["floor_percent"].as_f64().unwrap() - 12.5).abs() < 1e-9);
    assert!(flags(&four).contains(&"few-values"));
    assert!(four["entropy"]["mantissa"] == 0.0 && four["distinct"] == 4);
    let positive: Vec<f32> = fresh(5, 6400, "normal").iter().map(|v| v.abs()).collect();
    assert!(flags(&seen("F32", [64, 100], f32_bytes(&positive))).contains(&"sign-imbalance"));
    let mut sparse = fresh(6, 6400, "normal");
    sparse.iter_mut().step_by(3).for_each(|value| *value = 0.0);
    sparse.iter_mut().step_by(2).for_each(|value| *value = 0.0);
    assert!(flags(&seen("F32", [64, 100], f32_bytes(&sparse))).contains(&"sparse"));
    // a normalisation's weights are neither coarse nor few, and of one sign by nature
    let near_one: Vec<f32> = fresh(7, 6400, "normal").iter().map(|v| 1.0 + v).collect();
    let near_one = seen("F32", [1, 6400], f32_bytes(&near_one));
    assert_eq!(flags(&near_one), [""; 0]);
    assert!(near_one["distinct"].is_null());
    // rows that hold no numbers are not rows of zeros, and leave the others what they are
    let mut spoilt = fresh(8, 6400, "normal");
    spoilt[100..200].fill(f32::NAN);
    let spoilt = seen("F32", [64, 100], f32_bytes(&spoilt));
    assert_eq!(flags(&spoilt), ["nan", "unstructured"]);
    // 0x80 is no zero in this format
    let fnuz = seen("F8_E4M3FNUZ", [64, 100], vec![0x80; 6400]);
    assert_eq!((&fnuz["zeros"], &fnuz["nans"]), (&0.into(), &6400.into()));
    // what holds no floats is listed
    assert!(seen("I64", [2, 2], vec![1; 32])["flags"].is_null());
}

#[test]
fn an_image_shows_what_its_original_shows_on_a_page_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::copy(TRAINED, at.join("m.safetensors")).unwrap();
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors"])), 0);
    let look = |file: &str| {
        let mut report = json(&bigsmall(at, &["xray", file, "--spectrum", "--json"]));
        assert_eq!(report["schema"], "bigsmall.xray/1");
        report.as_object_mut().unwrap().remove("path");
        report
    };
    let report = look("m.bs");
    assert!(report == look("m.safetensors"));
    let shares = report["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|tensor| tensor["concentration"].as_f64());
    assert!(
        shares.clone().count() > 10 && shares.clone().all(|share| (0.0..=1.0).contains(&share))
    );
    let pages = ["xray", "m.bs", "--html", "m.html", "--svg", "m.svg"];
    assert_eq!(code(&bigsmall(at, &pages)), 0);
    let page = fs::read_to_string(at.join("m.html")).unwrap();
    let picture = fs::read_to_string(at.join("m.svg")).unwrap();
    assert!(page.contains(&picture) && picture.matches("<circle").count() > 30);
    for tensor in report["tensors"].as_array().unwrap() {
        assert!(page.contains(tensor["name"].as_str().unwrap()));
    }
    // nothing is fetched, nothing runs, nothing is replaced unasked
    assert!(!page.contains("<script") && page.matches("http").count() == 1);
    assert_eq!(code(&bigsmall(at, &pages)), 2);
    let image = fs::read(at.join("m.bs")).unwrap();
    for words in [
        &["--html", "m.bs", "--force"][..],
        &["--svg", "./m.bs", "--force"],
        &["--html", "x", "--svg", "x"],
        &["--html", "y", "--svg", "m.svg"],
    ] {
        assert_eq!(code(&bigsmall(at, &[&["xray", "m.bs"], words].concat())), 2);
    }
    assert!(fs::read(at.join("m.bs")).unwrap() == image);
    assert!(!at.join("x").exists() && !at.join("y").exists());
    for (words, status) in [
        (["xray", "."], 2),
        (["xray", "m.svg"], 2),
        (["xray", "none"], 3),
    ] {
        assert_eq!(code(&bigsmall(at, &words)), status, "{words:?}");
    }
}

#[test]
fn tensors_are_sorted_and_filtered() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::copy(TRAINED, at.join("m.safetensors")).unwrap();
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors"])), 0);
    let stat = |words: &[&str]| json(&bigsmall(at, &[&["stat", "--json"], words].concat()));
    let column = |report: &Value, key: &str| -> Vec<Value> {
        let rows = report["tensors"].as_array().unwrap();
        rows.iter().map(|row| row[key].clone()).collect()
    };
    let all = stat(&["m.bs"]);
    let info = json(&bigsmall(at, &["info", "m.bs", "--json"]));
    let coded: u64 = info["images"][0]["dtypes"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(dtype, _)| *dtype != "-")
        .map(|(_, sum)| sum["coded_bytes"].as_u64().unwrap())
        .sum();
    assert_eq!(all["coded_bytes"], coded);
    // a plain file has the same tensors
    let plain = stat(&["m.safetensors"]);
    assert_eq!(column(&plain, "name"), column(&all, "name"));
    assert_eq!(plain["tensors"][0]["coded_bytes"], Value::Null);
    let sizes = column(&stat(&["m.bs", "--sort", "size"]), "bytes");
    assert!(
        sizes
            .windows(2)
            .all(|pair| pair[0].as_u64() >= pair[1].as_u64())
    );
    let ratios = column(
        &stat(&["m.bs", "--sort", "ratio", "--reverse", "-n", "5"]),
        "percent",
    );
    assert!(
        ratios.len() == 5
            && ratios
                .windows(2)
                .all(|pair| pair[0].as_f64() <= pair[1].as_f64())
    );
    let names = column(
        &stat(&[
            "m.bs", "--sort", "name", "--tensor", "mlp.up", "--dtype", "bf16",
        ]),
        "name",
    );
    assert!(
        !names.is_empty()
            && names
                .iter()
                .all(|name| name.as_str().unwrap().contains("mlp.up"))
    );
    assert_eq!(
        stat(&["m.bs", "--dtype", "F64"])["tensors"],
        Value::Array(Vec::new())
    );
    assert!(
        column(&stat(&["m.bs", "--codec", "raw"]), "codecs")
            .iter()
            .all(|codecs| codecs.get("raw").is_some())
    );
    // a folder is all that is in it
    assert_eq!(
        stat(&["."])["tensors_in_all"].as_u64(),
        all["tensors_in_all"].as_u64().map(|count| 2 * count)
    );
    assert!(text(&bigsmall(at, &["stat", "m.bs"])).contains("r32-bf16"));
}

#[test]
fn a_mask_is_not_constant_and_the_headline_tells_what_is_odd() {
    let mut values = vec![0.0_f32; 64 * 64];
    let mask: Vec<f32> = (0..64 * 64)
        .map(|place| {
            if place % 64 > place / 64 {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        })
        .collect();
    assert_eq!(
        flags(&seen("F32", [64, 64], f32_bytes(&values))),
        ["constant"]
    );
    let seen_mask = seen("F32", [64, 64], f32_bytes(&mask));
    assert!(!flags(&seen_mask).contains(&"constant"), "{seen_mask}");
    assert!(flags(&seen_mask).contains(&"infinite"));
    values[77] = f32::NAN;
    let seen_nan = seen("F32", [64, 64], f32_bytes(&values));
    assert!(!flags(&seen_nan).contains(&"constant") && flags(&seen_nan).contains(&"nan"));
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let narrow: Vec<f32> = fresh(5, 128 * 128, "normal")
        .iter()
        .map(|v| f32::from_bits(v.to_bits() & 0xffff_0000))
        .collect();
    let tensors = [
        matrix("mask", "F32", [64, 64], f32_bytes(&mask)),
        matrix("nan", "F32", [64, 64], f32_bytes(&values)),
        matrix("w", "F32", [128, 128], f32_bytes(&narrow)),
        matrix("none", "F32", [0, 128], Vec::new()),
        matrix("all-nan", "F32", [2, 2], f32_bytes(&[f32::NAN; 4])),
    ];
    put(&at.join("m.safetensors"), &models::file(&tensors, 0, ""));
    let words = ["xray", "m.safetensors", "--html", "x.html", "-t"];
    let said = text(&bigsmall(at, &words));
    for part in [
        "5 of its numbers are NaN, 2016 are infinite",
        "holds numbers of BF16",
        "bf16-lineage: every number would fit",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let page = fs::read_to_string(at.join("x.html")).unwrap();
    assert!(page.contains("name=\"viewport\"") && page.contains("<dt>floor</dt>"));
    assert!(page.contains("<dt>infinite</dt>") && page.contains("5 of its numbers are NaN"));
    let numbers = page.split('<').filter_map(|part| part.split_once('>'));
    for (tag, shown) in numbers {
        let broken = ["NaN", "inf", "-0.0"]
            .iter()
            .any(|word| shown.trim() == *word);
        assert!(
            !broken && !tag.contains("=\"NaN") && !tag.contains("=\"inf"),
            "{tag} {shown}"
        );
    }
    assert!(!page.contains(">-0.00"), "{page}");
}

#[test]
fn tensors_of_two_dtypes_have_a_distance() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let values = fresh(9, 100 * 100, "normal");
    let tensor = |dtype, data| models::file(&[matrix("w", dtype, [100, 100], data)], 0, "");
    put(
        &at.join("wide.safetensors"),
        &tensor("F32", f32_bytes(&values)),
    );
    let narrow = bf16_bytes(&values);
    put(
        &at.join("narrow.safetensors"),
        &tensor("BF16", narrow.clone()),
    );
    let words = ["diff", "wide.safetensors", "narrow.safetensors"];
    let report = json(&bigsmall(at, &[&words[..], &["--json"]].concat()));
    let found = &report["reshaped"][0];
    assert_eq!(
        (&report["same"], &found["elements"]),
        (&false.into(), &10_000.into())
    );
    let rms = found["rms_difference"].as_f64().unwrap();
    assert!((1e-5..1e-4).contains(&rms), "{found}");
    assert!(text(&bigsmall(at, &words)).contains("of its numbers differ; by"));
    // what is only wider is the same numbers
    let widened: Vec<u8> = narrow.chunks(2).flat_map(|b| [0, 0, b[0], b[1]]).collect();
    put(&at.join("wide.safetensors"), &tensor("F32", widened));
    let said = bigsmall(at, &words);
    assert_eq!(code(&said), 1);
    assert!(
        text(&said).contains("every number is the same"),
        "{}",
        text(&said)
    );
}

#[test]
fn a_missing_folder_is_named_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("lib")).unwrap();
    fs::create_dir(at.join("img")).unwrap();
    fs::copy(TRAINED, at.join("lib/m.safetensors")).unwrap();
    let image = ["compress", "lib/m.safetensors", "-o", "img/m.bs"];
    assert_eq!(code(&bigsmall(at, &image)), 0);
    for words in [
        &["compress", "lib/m.safetensors", "-o", "no/such/m.bs"][..],
        &["compress", "lib", "-o", "no/such/out"],
        &["compress", "lib", "-o", "no/such/lib.bs"],
        &["decompress", "img/m.bs", "-o", "no/such/m"],
        &["decompress", "img", "-o", "no/such/out"],
        &["transcode", "img/m.bs", "no/such/m.bs"],
        &["reshard", "img/m.bs", "no/such/out", "--join"],
        &["xray", "lib/m.safetensors", "--html", "no/such/x.html"],
        &[
            "diff",
            "lib/m.safetensors",
            "img/m.bs",
            "--patch",
            "no/such/p.bs",
        ],
    ] {
        let output = bigsmall(at, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 3, "{words:?}: {said}");
        assert!(
            said.contains("there is no folder `no/such`"),
            "{words:?}: {said}"
        );
        assert!(said.contains("mkdir -p 'no/such'"), "{words:?}: {said}");
        assert!(!at.join("no").exists());
    }
}

#[test]
fn an_image_that_grows_saves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::copy(TRAINED, at.join("m.safetensors")).unwrap();
    let words = ["compress", "m.safetensors", "--storage"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let there = ["transcode", "m.bs", "n.bs", "--profile", "inference"];
    let said = text(&bigsmall(at, &there));
    assert!(
        said.contains("more than the") && !said.contains("saved"),
        "{said}"
    );
    assert!(said.contains("of the original's 1.97 MB"), "{said}");
    let back = [
        "transcode",
        "n.bs",
        "o.bs",
        "--profile",
        "storage",
        "--json",
    ];
    let report = json(&bigsmall(at, &back));
    let of = |name: &str| fs::metadata(at.join(name)).unwrap().len();
    assert_eq!(report["source_bytes"], of("n.bs"));
    assert_eq!(report["output_bytes"], of("o.bs"));
}
