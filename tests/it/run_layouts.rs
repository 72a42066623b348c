//! Weights in memory as they are, packed, or coded: the same logits to the bit, also of a tensor
//! that cannot be packed.

use std::fs;
use std::path::Path;

use bigsmall::archive::Model;
use bigsmall::exec::Row;
use bigsmall::exec::config::Config;
use bigsmall::exec::engine;
use bigsmall::exec::engine::EngineOptions;
use bigsmall::exec::engine::MemoryPlan;
use bigsmall::exec::engine::Survey;
use bigsmall::exec::place::Layout;

use crate::models;
use crate::models::Random;
use crate::roundtrip::put;
use crate::run::CONFIG;
use crate::run::done;
use crate::run::tensors;

const TOKENS: [u32; 9] = [1, 17, 900, 3, 5, 8, 13, 21, 34];
/// Of as many columns as it pays to pack.
const WILD: &str = "model.layers.1.mlp.down_proj.weight";

/// The logits of all positions, first of all at once, then of the last one alone.
fn logits(model: &Path, layout: Layout, ram: u64) -> (Vec<u32>, MemoryPlan) {
    let config = Config::parse(CONFIG.as_bytes(), "config.json".as_ref()).unwrap();
    let model = std::sync::Arc::new(Model::open(model).unwrap());
    let program = engine::program_of(&config, &model).unwrap();
    let survey = Survey::new(model, program).unwrap();
    let prepared = survey.prepare(EngineOptions {
        threads: 2,
        budget: ram,
        is_streamed: false,
        positions: 64,
        rows: (TOKENS.len(), TOKENS.len()),
        taken: 0,
        layout: Some(layout),
    });
    let prepared = prepared.unwrap();
    let plan = prepared.demand();
    let mut engine = prepared.load(&|_| Ok(())).unwrap();
    let mut sequence = engine.sequence(64, TOKENS.len());
    let rows = |from: usize, tokens: &[u32]| -> Vec<Row> {
        let row = |(at, token): (usize, &u32)| Row {
            sequence: 0,
            position: from + at,
            token: *token,
        };
        tokens.iter().enumerate().map(row).collect()
    };
    let all: Vec<usize> = (0..TOKENS.len()).collect();
    let mut pass = |rows: &[Row], wanted: &[usize]| {
        let sequences = &mut [&mut sequence];
        engine
            .pass(rows, wanted, sequences, None, &|_| Ok(()))
            .unwrap()
    };
    let mut values = pass(&rows(0, &TOKENS), &all);
    values.extend(pass(&rows(TOKENS.len(), &[55]), &[0]));
    (values.iter().map(|value| value.to_bits()).collect(), plan)
}

/// What is promised is within the budget, whatever it is.
#[test]
fn no_more_is_promised_than_may_be_taken() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(
        &at.join("model.safetensors"),
        &models::file(&tensors(3), 0, ""),
    );
    done(at, &["compress", "model.safetensors", "-o", "model.bs"]);
    for file in ["model.safetensors", "model.bs"] {
        let config = Config::parse(CONFIG.as_bytes(), "config.json".as_ref()).unwrap();
        let model = std::sync::Arc::new(Model::open(&at.join(file)).unwrap());
        let program = engine::program_of(&config, &model).unwrap();
        let survey = || Survey::new(model.clone(), program.clone()).unwrap();
        let options = |budget, layout| EngineOptions {
            threads: 2,
            budget,
            is_streamed: false,
            positions: 64,
            rows: (9, 9),
            taken: 0,
            layout: Some(layout),
        };
        let least = survey().least_bytes(&options(0, Layout::Plain));
        for step in 0..90 {
            let budget = least + step * 100_000;
            for layout in [Layout::Plain, Layout::Packed] {
                let plan = survey().prepare(options(budget, layout)).unwrap().demand();
                assert!(plan.total() <= budget, "{file} in {budget}: {plan:?}");
            }
        }
    }
}

#[test]
fn packed_weights_give_the_logits_of_plain_ones() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut all = tensors(3);
    let mut random = Random::new(11);
    let wild = all.iter_mut().find(|tensor| tensor.name == WILD).unwrap();
    for weight in wild.data.chunks_exact_mut(2) {
        // any small exponent
        weight[1] = (random.below(0x3c) as u8) | (weight[1] & 0x80);
    }
    put(&at.join("model.safetensors"), &models::file(&all, 0, ""));
    done(at, &["compress", "model.safetensors", "-o", "model.bs"]);
    let (wanted, plain) = logits(&at.join("model.safetensors"), Layout::Plain, 1 << 30);
    assert_eq!(plain.compressed, 0);
    for file in ["model.safetensors", "model.bs"] {
        let (found, plan) = logits(&at.join(file), Layout::Packed, 1 << 30);
        assert!(found == wanted, "{file}");
        assert!(plan.compressed > 0 && plan.plain > 0, "{file}: {plan:?}");
        let packed = (plain.plain - plan.plain) as f64;
        let share = plan.compressed as f64 / packed;
        assert!((0.75..0.85).contains(&share), "{file}: {share}");
        // with less memory, the first ones packed or coded, the others from the disk
        let fixed = plan.ring + plan.fixed;
        for ram in [fixed + plain.plain / 4, fixed + plain.plain / 2] {
            for layout in [Layout::Packed, Layout::Plain] {
                let (found, plan) = logits(&at.join(file), layout, ram);
                assert!(found == wanted, "{file} {layout:?} in {ram}: {plan:?}");
            }
        }
    }
    fs::remove_file(at.join("model.bs")).unwrap();
}
