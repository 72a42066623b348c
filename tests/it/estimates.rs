//! What `scan` says a model would take, beside what it takes: within a fiftieth, whatever the
//! model.

use std::fs;
use std::path::Path;

use bigsmall::ops::Estimate;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::cli_trust::text;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

/// So many bytes more or less are no error: files of a few kilobytes are mostly index.
const SLACK: u64 = 512;

fn tensor(name: String, dtype: &'static str, shape: Vec<u64>, data: Vec<u8>) -> Tensor {
    Tensor {
        name,
        dtype,
        shape,
        data,
    }
}

/// Normal numbers as F32, cut so that the mantissas keep only some bits. The least are too small
/// for F16.
fn floats(random: &mut Random, count: usize, mask: u32) -> Vec<u8> {
    let cut = |value: f32| {
        if value.abs() < 6.2e-5 {
            return 0.0;
        }
        f32::from_bits(value.to_bits() & mask)
    };
    let number = |_| cut(random.gauss() * 0.02).to_le_bytes();
    (0..count).flat_map(number).collect()
}

/// A causal mask: zeros, and -inf above the diagonal.
fn mask(side: usize) -> Vec<u8> {
    let at = |place: usize| place % side > place / side;
    let value = |place| if at(place) { f32::NEG_INFINITY } else { 0.0 };
    (0..side * side)
        .flat_map(|place| value(place).to_le_bytes())
        .collect()
}

/// One of several kinds of tensors that models have, of about so many elements.
fn tensor_of(kind: u8, random: &mut Random, name: String, count: usize) -> Tensor {
    let shape = vec![count as u64];
    match kind {
        0 | 1 => tensor(name, "BF16", shape, models::bf16_weights(random, count)),
        2 => tensor(name, "F32", shape, floats(random, count, u32::MAX)),
        3 => tensor(name, "F32", shape, floats(random, count, 0xffff_0000)),
        4 => tensor(name, "F32", shape, floats(random, count, 0xffff_e000)),
        5 => {
            let side = count.isqrt().max(1);
            tensor(name, "F32", vec![side as u64, side as u64], mask(side))
        }
        6 => tensor(name, "I8", shape, random.bytes(count)),
        7 => tensor(name, "F16", shape, vec![0; 2 * count]),
        _ => {
            let bytes = (0..count).map(|_| (random.gauss() * 12.0 + 60.0) as u8);
            let bytes = bytes.collect();
            tensor(name, "F8_E4M3", shape, bytes)
        }
    }
}

/// What a tensor of a model is. A model shrinks to few tensors, of kind 0, with nothing tied.
#[derive(Debug, Clone)]
struct TensorPlan {
    kind: u8,
    /// By how much it is smaller than the largest.
    divisor: usize,
    /// The same bytes as one before it.
    tied: Option<Index>,
}

fn any_part() -> impl Strategy<Value = TensorPlan> {
    let tied = prop::option::weighted(0.2, any::<Index>());
    let any = (0..9_u8, prop::sample::select(vec![1, 8, 15]), tied);
    any.prop_map(|(kind, divisor, tied)| TensorPlan {
        kind,
        divisor,
        tied,
    })
}

/// A file of at most about `bytes`.
fn model_of(parts: &[TensorPlan], bytes: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut model: Vec<Tensor> = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        let name = format!("layers.{number}.w");
        let tied = part.tied.filter(|_| !model.is_empty());
        let next = if let Some(tied) = tied {
            Tensor {
                name,
                ..tied.get(&model).clone()
            }
        } else {
            let count = bytes / parts.len() / 2 / part.divisor;
            tensor_of(part.kind, &mut random, name, count.max(1))
        };
        model.push(next);
    }
    models::file(&model, 0, "")
}

/// What was estimated, and what compress makes of it.
fn both(at: &Path, file: &[u8]) -> (u64, u64) {
    put(&at.join("m.safetensors"), file);
    let estimate = Estimate::of_file(&at.join("m.safetensors")).unwrap();
    assert!(estimate.bf16_in_f32_bytes + estimate.f16_in_f32_bytes <= file.len() as u64);
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors", "-f"])), 0);
    let real = fs::metadata(at.join("m.bs")).unwrap().len();
    (estimate.image_bytes, real)
}

fn is_near((estimated, real): (u64, u64)) -> bool {
    estimated.abs_diff(real) <= real / 50 + SLACK
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_small_model_is_estimated_within_a_fiftieth(
        seed in any::<u64>(),
        bytes in 1_usize..4_000_000,
        parts in prop::collection::vec(any_part(), 1..40),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let found = both(folder.path(), &model_of(&parts, bytes, seed));
        prop_assert!(is_near(found), "{found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_large_model_is_estimated_within_a_fiftieth(
        seed in any::<u64>(),
        bytes in 60_000_000_usize..160_000_000,
        parts in prop::collection::vec(any_part(), 2..60),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let found = both(folder.path(), &model_of(&parts, bytes, seed));
        prop_assert!(is_near(found), "{found:?}");
    }
}

#[test]
fn what_is_there_several_times_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let weights = models::bf16_weights(&mut random, 8_000_000);
    let one = |name: &str| tensor(name.into(), "BF16", vec![8_000_000], weights.clone());
    let tied = models::file(&[one("embed"), one("head")], 0, "");
    let found = both(folder.path(), &tied);
    assert!(
        is_near(found) && found.1 < tied.len() as u64 / 2,
        "{found:?}"
    );
    let masks: Vec<Tensor> = (0..12)
        .map(|layer| tensor(format!("h.{layer}.bias"), "F32", vec![192, 192], mask(192)))
        .collect();
    let found = both(folder.path(), &models::file(&masks, 0, ""));
    assert!(is_near(found), "{found:?}");
    let found = both(folder.path(), &models::file(&masks[..1], 0, ""));
    assert!(is_near(found), "{found:?}");
}

#[test]
fn bytes_of_narrow_numbers_are_those_of_their_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut random = Random::new(3);
    let bf16 = floats(&mut random, 500_000, 0xffff_0000);
    let half = floats(&mut random, 250_000, 0xffff_e000);
    let tensors = [
        tensor("a".into(), "F32", vec![500_000], bf16),
        tensor(
            "b".into(),
            "BF16",
            vec![4_000_000],
            models::bf16_weights(&mut random, 4_000_000),
        ),
        tensor("c".into(), "F32", vec![250_000], half),
        tensor(
            "d".into(),
            "F32",
            vec![100_000],
            floats(&mut random, 100_000, u32::MAX),
        ),
        tensor("e".into(), "F32", vec![100_000], vec![0; 400_000]),
    ];
    put(
        &at.join("mixed.safetensors"),
        &models::file(&tensors, 0, ""),
    );
    let report = json(&bigsmall(at, &["scan", "mixed.safetensors", "--json"]));
    let file = &report["files"][0];
    assert_eq!(file["bf16_in_f32_bytes"], 2_000_000, "{file}");
    assert_eq!(file["f16_in_f32_bytes"], 1_000_000, "{file}");
    let words = text(&bigsmall(at, &["scan", "mixed.safetensors"]));
    for part in [
        "2.00 MB of it is F32 that holds numbers of BF16 only",
        "1.00 MB of it is F32 that holds numbers of F16 only",
    ] {
        assert!(words.contains(part), "{words}");
    }
}
