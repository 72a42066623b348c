//! One model in every form, on any number of threads, with any memory and any instructions: the
//! same logits to the bit.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

const HIDDEN: u64 = 96;
const INNER: u64 = 304;
const VOCABULARY: u64 = 1_000;
const LAYERS: usize = 3;

pub(crate) const CONFIG: &str = r#"{"model_type":"llama","hidden_size":96,"intermediate_size":304,
"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":32,
"vocab_size":1000,"rms_norm_eps":1e-5,"rope_theta":10000.0,"tie_word_embeddings":true,
"max_position_embeddings":512}"#;

const PROMPT: &str = "1,17,900,3,5,8,13,21,34,55,89,144,233,377,610,987";

/// A small Llama, whose weights another seed changes a little.
pub(crate) fn tensors(seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(7);
    let mut other = Random::new(seed);
    let mut all = Vec::new();
    let mut add = |name: String, shape: &[u64]| {
        let count = shape.iter().product::<u64>() as usize;
        let mut data: Vec<u8> = if shape.len() == 1 {
            (0..count)
                .flat_map(|_| (0x3f80 + random.below(40) as u16).to_le_bytes())
                .collect()
        } else {
            let value = |_| (random.gauss() * 0.12).to_bits() >> 16;
            (0..count)
                .map(value)
                .flat_map(|bits| (bits as u16).to_le_bytes())
                .collect()
        };
        if seed > 0 {
            for byte in data.iter_mut().step_by(2).filter(|_| other.below(16) == 0) {
                *byte ^= 1;
            }
        }
        let shape = shape.to_vec();
        all.push(Tensor {
            name,
            dtype: "BF16",
            shape,
            data,
        });
    };
    add("model.embed_tokens.weight".into(), &[VOCABULARY, HIDDEN]);
    for layer in 0..LAYERS {
        let at = |name: &str| format!("model.layers.{layer}.{name}.weight");
        add(at("input_layernorm"), &[HIDDEN]);
        add(at("self_attn.q_proj"), &[128, HIDDEN]);
        add(at("self_attn.k_proj"), &[64, HIDDEN]);
        add(at("self_attn.v_proj"), &[64, HIDDEN]);
        add(at("self_attn.o_proj"), &[HIDDEN, 128]);
        add(at("post_attention_layernorm"), &[HIDDEN]);
        add(at("mlp.gate_proj"), &[INNER, HIDDEN]);
        add(at("mlp.up_proj"), &[INNER, HIDDEN]);
        add(at("mlp.down_proj"), &[HIDDEN, INNER]);
    }
    add("model.norm.weight".into(), &[HIDDEN]);
    all
}

fn put_model(folder: &Path, seed: u64) {
    fs::create_dir_all(folder).unwrap();
    put(&folder.join("config.json"), CONFIG.as_bytes());
    put(
        &folder.join("model.safetensors"),
        &models::file(&tensors(seed), 0, ""),
    );
}

pub(crate) fn done(at: &Path, words: &[&str]) {
    let output = bigsmall(at, words);
    assert_eq!(
        code(&output),
        0,
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs a model and gives its logits, as the file has them, and the report.
fn logits(at: &Path, words: &[&str], simd: &str) -> (Vec<u8>, Value) {
    let file = at.join("logits.safetensors");
    let output = Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .current_dir(at)
        .env("BIGSMALL_SIMD", simd)
        .arg("run")
        .args(words)
        .args(["--prompt-ids", PROMPT, "--max-new-tokens", "5", "--json"])
        .args(["--logits", "logits.safetensors", "--all-logits"])
        .output()
        .unwrap();
    assert_eq!(
        code(&output),
        0,
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    (fs::read(file).unwrap(), json(&output))
}

#[test]
fn every_form_of_a_model_gives_the_same_logits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(&at.join("plain"), 3);
    put_model(&at.join("base"), 0);
    for name in ["image", "inference", "delta", "shards"] {
        fs::create_dir(at.join(name)).unwrap();
        put(&at.join(name).join("config.json"), CONFIG.as_bytes());
    }
    let plain = "plain/model.safetensors";
    done(at, &["compress", plain, "-o", "image/model.safetensors.bs"]);
    done(
        at,
        &["compress", plain, "--inference", "-o", "inference/one.bs"],
    );
    // configuration and all, in one image
    done(at, &["compress", "plain", "-o", "whole.bs"]);
    let base = ["--base", "base/model.safetensors"];
    done(
        at,
        &[&["compress", plain, "-o", "delta/fine.bs"], &base[..]].concat(),
    );
    let all = tensors(3);
    let mut map = String::new();
    for (number, shard) in all.chunks(12).enumerate() {
        let name = format!("model-{:05}-of-00003.safetensors", number + 1);
        put(&at.join("shards").join(&name), &models::file(shard, 0, ""));
        for tensor in shard {
            let comma = if map.is_empty() { "" } else { "," };
            write!(map, "{comma}\"{}\":\"{name}\"", tensor.name).unwrap();
        }
    }
    let index = format!("{{\"weight_map\":{{{map}}}}}");
    put(
        &at.join("shards/model.safetensors.index.json"),
        index.as_bytes(),
    );

    let (wanted, report) = logits(at, &["plain"], "");
    assert_eq!(report["tokens"].as_array().unwrap().len(), 5);
    assert_eq!(report["prompt_tokens"], 16);
    let forms: [&[&str]; 14] = [
        &["plain", "-j1"],
        &["plain/model.safetensors", "--stream"],
        &["image"],
        &["whole.bs"],
        &["whole.bs", "--stream"],
        &["image", "--stream", "-j2"],
        &["image", "--stream", "-j1"],
        &["inference/one.bs", "--stream"],
        &["delta", "--base", "base"],
        &["delta", "--base", "base", "--stream"],
        &["shards"],
        &["shards", "--stream", "-j3"],
        &["shards/model.safetensors.index.json"],
        &["plain", "--context", "400"],
    ];
    for words in forms {
        let (found, _) = logits(at, words, "");
        assert!(found == wanted, "{words:?}");
    }
    for simd in ["scalar", "avx2", "avx512", "neon"] {
        let (found, _) = logits(at, &["image"], simd);
        assert!(found == wanted, "{simd}");
    }
    let (other, _) = logits(at, &["base"], "");
    assert!(other != wanted, "another model has other logits");
}

#[test]
fn a_receipt_is_replayed_on_any_form_and_shows_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(&at.join("plain"), 3);
    put_model(&at.join("other"), 4);
    fs::create_dir(at.join("image")).unwrap();
    put(&at.join("image/config.json"), CONFIG.as_bytes());
    done(
        at,
        &[
            "compress",
            "plain/model.safetensors",
            "-o",
            "image/model.safetensors.bs",
        ],
    );
    let ask = [
        "--prompt-ids",
        PROMPT,
        "--max-new-tokens",
        "6",
        "--temperature",
        "0.9",
    ];
    let ask = [&ask[..], &["--seed", "11", "--receipt", "receipt.json"]].concat();
    done(at, &[&["run", "image"], &ask[..]].concat());
    let receipt: Value =
        serde_json::from_slice(&fs::read(at.join("receipt.json")).unwrap()).unwrap();
    assert_eq!(receipt["logits_sha256"].as_array().unwrap().len(), 6);
    assert_eq!(receipt["checked"][0], "weights");
    assert_eq!(receipt["contract"], 1);
    assert_eq!(receipt["model"][0]["file"], "model.safetensors");

    let verify = |model: &str| bigsmall(at, &["run", model, "--verify", "receipt.json", "--json"]);
    for model in ["image", "plain"] {
        let output = verify(model);
        assert_eq!(
            code(&output),
            0,
            "{model}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
        assert_eq!(json(&output)["steps"], 6);
    }
    let output = verify("other");
    assert_eq!(code(&output), 1);
    assert_eq!(json(&output)["other_logits"], 0);
    assert_eq!(json(&output)["other_files"][0], "model.safetensors");

    // one step forged: it and no other is named
    let mut forged = receipt.clone();
    forged["logits_sha256"][4] = forged["logits_sha256"][3].clone();
    put(&at.join("receipt.json"), forged.to_string().as_bytes());
    let output = verify("plain");
    assert_eq!(code(&output), 1);
    assert_eq!(json(&output)["other_logits"], 4);
    assert_eq!(json(&output)["other_token"], Value::Null);

    // what is no receipt is an error, and nothing is computed
    for (broken, wanted) in [("{}", 2), ("[1]", 2), ("", 2)] {
        put(&at.join("receipt.json"), broken.as_bytes());
        assert_eq!(code(&verify("plain")), wanted, "{broken}");
    }
    forged["contract"] = 2.into();
    put(&at.join("receipt.json"), forged.to_string().as_bytes());
    assert_eq!(code(&verify("plain")), 6);

    // a plain file has no checksums, and the receipt does not say that it had
    done(at, &[&["run", "plain"], &ask[..]].concat());
    let of_plain: Value =
        serde_json::from_slice(&fs::read(at.join("receipt.json")).unwrap()).unwrap();
    assert_eq!(of_plain["checked"].as_array().unwrap().len(), 0);
    assert_eq!(of_plain["logits_sha256"], receipt["logits_sha256"]);
}

/// Configurations, the exit code of each, and what the error names.
fn refused_configurations() -> Vec<(String, i32, &'static str)> {
    let with = |from: &str, to: &str| CONFIG.replace(from, to);
    vec![
        (with("llama", "mamba"), 6, "mamba"),
        (
            with("\"rms_norm_eps\"", "\"new_trick\":3,\"rms_norm_eps\""),
            6,
            "new_trick",
        ),
        (
            with(
                "\"rms_norm_eps\"",
                "\"hidden_act\":\"mish\",\"rms_norm_eps\"",
            ),
            6,
            "mish",
        ),
        (
            with(
                "\"rms_norm_eps\"",
                "\"rope_scaling\":{\"rope_type\":\"odd\"},\"rms_norm_eps\"",
            ),
            6,
            "odd",
        ),
        (
            with("\"hidden_size\":96", "\"hidden_size\":1152921504606846976"),
            2,
            "hidden_size",
        ),
        (
            with("\"hidden_size\":96", "\"hidden_size\":0"),
            2,
            "hidden_size",
        ),
        (
            with("\"hidden_size\":96", "\"hidden_size\":100"),
            2,
            "shape",
        ),
        (
            with("\"num_hidden_layers\":3", "\"num_hidden_layers\":4"),
            2,
            "layers.3",
        ),
        (
            with(
                "\"num_hidden_layers\":3",
                "\"num_hidden_layers\":2000000000",
            ),
            2,
            "layers.1999999999",
        ),
        (
            with("\"num_attention_heads\":4", "\"num_attention_heads\":3"),
            2,
            "num_key_value_heads",
        ),
        (
            with("\"vocab_size\":1000", "\"vocab_size\":2000000000"),
            2,
            "shape",
        ),
        ("{".to_owned(), 2, "config.json"),
        ("[]".to_owned(), 2, "config.json"),
        ("{}".to_owned(), 6, "family"),
    ]
}

#[test]
fn what_cannot_be_run_is_refused_before_anything_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(&at.join("model"), 0);
    let run = |config: &str, words: &[&str]| {
        put(&at.join("model/config.json"), config.as_bytes());
        let ask = ["run", "model", "--prompt-ids=1,2", "--max-new-tokens=1"];
        let output = bigsmall(at, &[&ask[..], words].concat());
        (
            code(&output),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    assert_eq!(run(CONFIG, &[]).0, 0);
    for (config, wanted, named) in refused_configurations() {
        let (found, error) = run(&config, &[]);
        assert_eq!(found, wanted, "{config}: {error}");
        assert!(error.contains(named), "{named}: {error}");
        if wanted == 6 {
            assert!(error.contains("bigsmall mount"), "{error}");
        }
    }
    let (found, error) = run(CONFIG, &["--ram", "1M"]);
    assert_eq!(found, 8, "{error}");
    let (_, enough) = error.split_once("--ram ").unwrap();
    let (enough, _) = enough.split_once('`').unwrap();
    let (found, error) = run(CONFIG, &["--ram", enough]);
    assert_eq!(found, 0, "what was said to do does: {error}");
    assert_eq!(run(CONFIG, &["--context", "2"]).0, 2);
    let ask = |words: &[&str]| code(&bigsmall(at, &[&["run", "model"], words].concat()));
    assert_eq!(ask(&["--prompt", "a"]), 2, "no tokenizer");
    assert_eq!(ask(&["--chat"]), 2, "no template");
    assert_eq!(ask(&["--prompt-ids", "1000"]), 2, "no such token");
    assert_eq!(ask(&["--prompt-ids", "1", "--temperature", "-1"]), 2);
    assert_eq!(ask(&["--prompt-ids", "1", "--numerics", "quick"]), 2);
}

#[test]
fn damage_ends_a_run_before_a_token_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(&at.join("model"), 3);
    fs::create_dir(at.join("image")).unwrap();
    put(&at.join("image/config.json"), CONFIG.as_bytes());
    done(
        at,
        &[
            "compress",
            "model/model.safetensors",
            "-o",
            "image/model.safetensors.bs",
        ],
    );
    let path = at.join("image/model.safetensors.bs");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    put(&path, &bytes);
    for how in [&["--stream"][..], &[], &["-j1"]] {
        let ask = [
            "run",
            "image",
            "--prompt-ids",
            PROMPT,
            "--max-new-tokens",
            "4",
        ];
        let output = bigsmall(at, &[&ask[..], how].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 4, "{error}");
        assert!(
            error.contains("model.layers") && error.contains("model.safetensors.bs"),
            "{error}"
        );
        assert_eq!(output.stdout, b"");
    }
}

#[test]
fn a_folder_with_several_models_wants_one_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(&at.join("model"), 0);
    let ask = |at: &Path| {
        bigsmall(
            at,
            &["run", "model", "--prompt-ids", "1", "--max-new-tokens", "1"],
        )
    };
    fs::rename(
        at.join("model/model.safetensors"),
        at.join("model/one.safetensors"),
    )
    .unwrap();
    assert_eq!(code(&ask(at)), 0, "the only candidate");
    fs::copy(
        at.join("model/one.safetensors"),
        at.join("model/two.safetensors"),
    )
    .unwrap();
    let output = ask(at);
    assert_eq!(code(&output), 2);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        error.contains("one.safetensors") && error.contains("two.safetensors"),
        "{error}"
    );
    fs::remove_file(at.join("model/one.safetensors")).unwrap();
    fs::remove_file(at.join("model/two.safetensors")).unwrap();
    assert_eq!(code(&ask(at)), 3);
}
