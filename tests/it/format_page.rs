//! docs/format.md is true: its worked example is what the program writes, byte for byte.

use std::fs;
use std::path::Path;

use bigsmall::codec::Profile;

use crate::roundtrip::image_of;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/format.md")).unwrap()
}

/// The bytes in the fenced block after `heading`: an offset, then up to 16 bytes in hexadecimal,
/// then a remark.
fn hex_block(page: &str, heading: &str) -> Vec<u8> {
    let (_, after) = page.split_once(heading).expect(heading);
    let block = after.split("```").nth(1).unwrap();
    let mut bytes = Vec::new();
    for line in block.lines().filter(|line| line.starts_with("0x")) {
        let (offset, rest) = line.split_once(' ').unwrap();
        let offset = usize::from_str_radix(&offset[2..], 16).unwrap();
        assert_eq!(offset, bytes.len(), "{line}");
        let row = rest.split('|').next().unwrap().split_whitespace();
        bytes.extend(row.map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    }
    bytes
}

#[test]
fn the_worked_example_is_what_is_written() {
    let page = page();
    let original = hex_block(&page, "### The original file");
    let expected = hex_block(&page, "### The image");
    let folder = tempfile::tempdir().unwrap();
    let image = image_of(folder.path(), &original, Profile::Balanced, 1);
    if image != expected {
        let rows: Vec<String> = image
            .chunks(16)
            .enumerate()
            .map(|(row, bytes)| {
                let bytes: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                format!("0x{:03x} {}", row * 16, bytes.join(" "))
            })
            .collect();
        panic!("docs/format.md should show:\n{}", rows.join("\n"));
    }
}
