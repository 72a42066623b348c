//! Reports for programs.

use crate::cli::bigsmall;
use crate::cli::folder_with_model;

#[test]
fn reports_are_one_json_object_with_a_schema() {
    let folder = folder_with_model();
    let at = folder.path();
    for words in [
        &["compress", "m.safetensors", "--ecc", "--json"][..],
        &["info", "m.bs", "--json"],
        &["verify", "m.bs", "--sample", "1", "--json"],
        &["protect", "m.bs", "--force", "--json"],
        &["repair", "m.bs", "--json"],
        &["scrub", ".", "--memory", "memory", "--json"],
        &["decompress", "m.bs", "-o", "x", "--json"],
    ] {
        let output = bigsmall(at, words);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(report["schema"], format!("bigsmall.{}/1", words[0]));
    }
    let info = bigsmall(at, &["info", "m.bs", "--json"]);
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["images"][0]["files"][0]["spans"][1]["dtype"], "BF16");
}

/// The fields of a report, down to so many lists or parts of it; of each list those of the first.
fn collect_fields<'a>(
    value: &'a serde_json::Value,
    depth: u32,
    depth_max: u32,
    fields: &mut Vec<&'a str>,
) {
    let value = value.get(0).unwrap_or(value);
    let Some(object) = value.as_object().filter(|_| depth <= depth_max) else {
        return;
    };
    for (field, value) in object {
        fields.push(field);
        // these are by names of their own
        if !["dtypes", "spans"].contains(&field.as_str()) {
            collect_fields(value, depth + 1, depth_max, fields);
        }
    }
}

/// Every field of a report stands in docs/json.md, and the other way round.
#[test]
fn the_page_on_json_is_true() {
    let page = include_str!("../../docs/json.md");
    let folder = folder_with_model();
    for words in [
        &["compress", "m.safetensors", "--ecc", "--json"][..],
        &["info", "m.bs", "--json"],
        &["verify", "m.bs", "--sample", "1", "--json"],
        &["protect", "m.bs", "--force", "--json"],
        &["repair", "m.bs", "--json"],
        &["scrub", ".", "--memory", "memory", "--json"],
        &["bench", "m.safetensors", "--json"],
        &["decompress", "m.bs", "-o", "x", "--json"],
    ] {
        let report: serde_json::Value =
            serde_json::from_slice(&bigsmall(folder.path(), words).stdout).unwrap();
        let row = page
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", words[0])))
            .unwrap();
        let documented: Vec<&str> = row.split('`').skip(3).step_by(2).collect();
        let mut fields = Vec::new();
        // what `scrub` says of an image is what `verify` does
        let depth = match words[0] {
            "verify" => 2,
            "scrub" => 0,
            _ => 1,
        };
        collect_fields(&report, 0, depth, &mut fields);
        fields.retain(|field| *field != "schema");
        for field in &fields {
            assert!(
                documented.contains(field),
                "{}: `{field}` is not documented",
                words[0]
            );
        }
        for field in documented {
            let values = ["whole", "structure", "sample"];
            let nested = ["spans", "sha256", "ok"].contains(&field) || values.contains(&field);
            // of a delta, whose base is looked at in `cli_deltas`
            let nested = nested || ["place", "tensors", "at_hand", "missing"].contains(&field);
            let of_auto_base = [
                "base",
                "why",
                "files",
                "alone_percent",
                "candidates",
                "path",
                "alike_percent",
                "estimated_percent",
            ];
            // of a further name of a file, which `further_names` looks at
            let nested = nested || words[0] == "compress" && field == "image";
            let nested = nested || words[0] == "compress" && of_auto_base.contains(&field);
            assert!(
                nested || fields.contains(&field),
                "{}: there is no `{field}`",
                words[0]
            );
        }
    }
}
