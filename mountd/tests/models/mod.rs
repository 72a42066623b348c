//! Models for the tests of mounts.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// A file with these bytes.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// A safetensors file of one bf16 tensor `w` whose values look like weights; other seeds give other
/// values.
pub(crate) fn model(elements: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut element = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // sign and mantissa at random, exponents with falling frequency
        let exponent = 121 - u16::try_from((state >> 20).trailing_zeros().min(12)).unwrap();
        (state as u16 & 0x807f) | exponent << 7
    };
    let data: Vec<u8> = (0..elements)
        .flat_map(|_| element().to_le_bytes())
        .collect();
    let json = format!(
        "{{\"w\":{{\"dtype\":\"BF16\",\"shape\":[{elements}],\"data_offsets\":[0,{}]}}}}",
        data.len()
    );
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &data].concat()
}
