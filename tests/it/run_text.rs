//! The trained model that comes with the project is asked: text in, text out, alone, together with
//! others, and in a conversation.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::roundtrip::put;

/// The trained model that comes with the project.
fn mini_llama() -> String {
    format!("{}/tests/data/mini-llama", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn text_goes_in_and_comes_out() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = mini_llama();
    let words = [
        "run",
        &model,
        "--prompt",
        "The compiler will",
        "--max-new-tokens",
        "12",
    ];
    let output = bigsmall(at, &words);
    assert_eq!(code(&output), 0);
    let shown = String::from_utf8(output.stdout.clone()).unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        told.contains("promised: at most") && told.contains("measured"),
        "{told}"
    );

    let report = json(&bigsmall(at, &[&words[..], &["--json"]].concat()));
    assert_eq!(
        shown.trim_end_matches('\n'),
        report["text"].as_str().unwrap().trim_end_matches('\n')
    );
    assert!(report["text"].as_str().unwrap().len() > 10);
    assert_eq!(report["receipt"], Value::Null);
    for field in [
        "promised_bytes",
        "peak_bytes",
        "load_seconds",
        "prefill_tokens_per_second",
    ] {
        assert!(report[field].as_f64().unwrap() > 0.0, "{field}");
    }
    assert!(report["peak_bytes"].as_u64() <= report["promised_bytes"].as_u64());
    assert!(report["placement"]["plain"].as_u64().unwrap() > 1_900_000);

    // a stop text is not shown, and ends it
    let text = report["text"].as_str().unwrap();
    let stop: String = text.chars().skip(3).take(4).collect();
    let stopped = json(&bigsmall(
        at,
        &[&words[..], &["--json", "--stop", &stop]].concat(),
    ));
    let before = text.split(&stop).next().unwrap();
    assert_eq!(stopped["text"], before);

    // drawn tokens follow the seed
    let draw = |seed: &str| {
        let drawn = ["--json", "--temperature", "1.3", "--seed", seed];
        json(&bigsmall(at, &[&words[..], &drawn].concat()))["tokens"].clone()
    };
    assert_eq!(draw("4"), draw("4"));
    assert_ne!(draw("4"), draw("5"));
    assert_ne!(draw("4"), report["tokens"]);
}

#[test]
fn answers_of_a_batch_are_those_that_come_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let model = mini_llama();
    let prompts = [
        "The compiler",
        "A vector is",
        "fn main() {",
        "import os\n",
        "Returns the",
    ];
    let mut lines = String::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let line = serde_json::json!({"id": number, "prompt": prompt, "max_new_tokens": 4 + number,
            "temperature": 0.8, "seed": number});
        writeln!(lines, "{line}").unwrap();
    }
    put(&at.join("prompts.jsonl"), lines.as_bytes());
    let output = bigsmall(at, &["run", &model, "--batch", "prompts.jsonl", "-q"]);
    assert_eq!(
        code(&output),
        0,
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<Value> = answers
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(answers.len(), prompts.len());
    for (number, prompt) in prompts.iter().enumerate() {
        let new = (4 + number).to_string();
        let seed = number.to_string();
        let words = [
            "run",
            &model,
            "--prompt",
            prompt,
            "--max-new-tokens",
            &new,
            "--json",
        ];
        let alone = json(&bigsmall(
            at,
            &[&words[..], &["--temperature", "0.8", "--seed", &seed]].concat(),
        ));
        assert_eq!(answers[number]["id"], number);
        assert_eq!(answers[number]["tokens"], alone["tokens"], "{prompt}");
        assert_eq!(answers[number]["text"], alone["text"]);
    }
    for broken in [
        "{}",
        "[]",
        r#"{"prompt":"a","messages":[]}"#,
        r#"{"prompt":"a","tempo":1}"#,
    ] {
        put(&at.join("broken.jsonl"), broken.as_bytes());
        let output = bigsmall(at, &["run", &model, "--batch", "broken.jsonl"]);
        assert_eq!(code(&output), 2, "{broken}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("line 1"),
            "{broken}"
        );
    }
}

/// `echo` ends a line, which is no part of what is asked; and there is nothing yet that is faster
/// than exact, which is said.
#[test]
fn a_prompt_from_a_pipe_ends_before_its_newline() {
    let ask = |words: &[&str], piped: &str| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_bigsmall"))
            .args(["run", &mini_llama(), "--max-new-tokens", "3", "--json"])
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        run.stdin
            .take()
            .unwrap()
            .write_all(piped.as_bytes())
            .unwrap();
        let output = run.wait_with_output().unwrap();
        assert_eq!(code(&output), 0);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (
            report["prompt_tokens"].clone(),
            report["tokens"].clone(),
            said,
        )
    };
    let (count, tokens, _) = ask(&["--prompt", "The word"], "");
    for piped in ["The word", "The word\n", "The word\r\n"] {
        let (piped_count, piped_tokens, _) = ask(&[], piped);
        assert_eq!(
            (piped_count, piped_tokens),
            (count.clone(), tokens.clone()),
            "{piped:?}"
        );
    }
    let (longer, ..) = ask(&[], "The word\n\n");
    assert!(longer.as_u64() > count.as_u64());
    let (_, fast, said) = ask(&["--numerics", "fast"], "The word");
    assert_eq!(fast, tokens);
    assert!(said.contains("nothing is faster than exact"), "{said}");
}

/// What was said stays in the cache; the answers are those of the whole conversation read anew.
#[test]
fn a_conversation_goes_on_from_turn_to_turn() {
    const TEMPLATE: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}\
        {% if add_generation_prompt %}assistant: {% endif %}";
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ] {
        fs::copy(format!("{}/{name}", mini_llama()), at.join(name)).unwrap();
    }
    put(&at.join("chat_template.jinja"), TEMPLATE.as_bytes());
    let said = ["What is a vector?", "And a </s> list?", "Thank you."];
    let mut chat = Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args([
            "run",
            ".",
            "--chat",
            "--system",
            "Be short.",
            "--max-new-tokens",
            "9",
            "-q",
        ])
        .current_dir(at)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let words = said.join("\n");
    chat.stdin
        .take()
        .unwrap()
        .write_all(words.as_bytes())
        .unwrap();
    let output = chat.wait_with_output().unwrap();
    assert_eq!(code(&output), 0);

    let mut messages = vec![serde_json::json!({"role": "system", "content": "Be short."})];
    let mut wanted = String::new();
    for said in said {
        messages.push(serde_json::json!({"role": "user", "content": said}));
        let line = serde_json::json!({"messages": messages, "max_new_tokens": 9});
        put(&at.join("asked.jsonl"), line.to_string().as_bytes());
        let answer = bigsmall(at, &["run", ".", "--batch", "asked.jsonl", "-q"]);
        assert_eq!(
            code(&answer),
            0,
            "{}",
            String::from_utf8_lossy(&answer.stderr)
        );
        let answer: Value = serde_json::from_slice(&answer.stdout).unwrap();
        let text = answer["text"].as_str().unwrap();
        messages.push(serde_json::json!({"role": "assistant", "content": text}));
        writeln!(wanted, "{text}").unwrap();
    }
    assert_eq!(String::from_utf8(output.stdout).unwrap(), wanted);
}
