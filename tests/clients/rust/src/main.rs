//! Loaders of Rust on one file: `clients safetensors|candle FILE` prints each tensor with a digest
//! of its bytes.

use sha2::{Digest, Sha256};

fn main() {
    let mut words = std::env::args().skip(1);
    let (client, path) = (words.next().unwrap(), words.next().unwrap());
    let mut lines = match client.as_str() {
        "candle" => {
            let device = candle_core::Device::Cpu;
            // SAFETY: the file is not changed while this runs
            let file = unsafe { candle_core::safetensors::MmapedSafetensors::new(&path) }.unwrap();
            let names: Vec<String> = file.tensors().into_iter().map(|(name, _)| name).collect();
            let line = |name: &String| {
                let tensor = file.load(name, &device).unwrap();
                let view = file.get(name).unwrap();
                format!("{name} {:?} {:x}", tensor.shape(), Sha256::digest(view.data()))
            };
            names.iter().map(line).collect::<Vec<_>>()
        }
        _ => {
            let file = std::fs::File::open(&path).unwrap();
            // SAFETY: the file is not changed while this runs
            let bytes = unsafe { memmap2::Mmap::map(&file) }.unwrap();
            let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            let line = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
                format!("{name} {:?} {:x}", view.shape(), Sha256::digest(view.data()))
            };
            file.tensors().into_iter().map(line).collect()
        }
    };
    lines.sort();
    println!("{}", lines.join("\n"));
}
