//! Model files made in memory: what the other modules feed to the program.

use std::fmt::Write as _;

use proptest::prelude::*;

/// A small fast generator with a fixed seed: the same models in every run.
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// About normal, by the sum of twelve uniform numbers.
    pub(crate) fn gauss(&mut self) -> f32 {
        (0..12)
            .map(|_| (self.next() >> 40) as f32 / 16_777_216.0)
            .sum::<f32>()
            - 6.0
    }
}

/// One tensor of a file.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// Bytes per element of the dtypes with whole bytes.
pub(crate) const DTYPES: [(&str, usize); 19] = [
    ("BOOL", 1),
    ("U8", 1),
    ("I8", 1),
    ("F8_E5M2", 1),
    ("F8_E4M3", 1),
    ("F8_E8M0", 1),
    ("F8_E4M3FNUZ", 1),
    ("F8_E5M2FNUZ", 1),
    ("I16", 2),
    ("U16", 2),
    ("F16", 2),
    ("BF16", 2),
    ("I32", 4),
    ("U32", 4),
    ("F32", 4),
    ("C64", 8),
    ("F64", 8),
    ("I64", 8),
    ("U64", 8),
];

/// Weights as trained models have them: bf16 elements of a normal distribution.
pub(crate) fn bf16_weights(random: &mut Random, count: usize) -> Vec<u8> {
    let element = |_| {
        let bits = (random.gauss() * 0.02).to_bits();
        ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
    };
    (0..count).map(element).flat_map(u16::to_le_bytes).collect()
}

/// Data of one of several kinds: weights, noise, constants, few values, special values, a ramp.
pub(crate) fn data(random: &mut Random, width: usize, count: usize, kind: u64) -> Vec<u8> {
    let len = width * count;
    match kind % 6 {
        0 if width == 2 => bf16_weights(random, count),
        0 if width >= 4 => (0..len / 4)
            .flat_map(|_| (random.gauss() * 0.03).to_le_bytes())
            .collect(),
        0 => (0..len)
            .map(|_| (random.gauss() * 12.0 + 60.0) as u8)
            .collect(),
        1 => random.bytes(len),
        2 => random.bytes(width).repeat(count),
        3 => (0..len).map(|_| (random.below(3) * 7) as u8).collect(),
        4 => {
            // NaN payloads, infinities, subnormals, negative zeros among ordinary values
            let mut bytes = data(random, width, count, 0);
            for element in bytes.chunks_mut(width) {
                if random.below(20) == 0 {
                    let special = [0x7f, 0xff, 0x80, 0x00][random.below(4) as usize];
                    element.fill(random.next() as u8);
                    element[width - 1] = special;
                }
            }
            bytes
        }
        _ => (0..len).map(|i| (i / width % 251) as u8).collect(),
    }
}

/// The bytes of a safetensors file with these tensors in this order, `padding` blanks after the
/// header, and an entry of metadata.
pub(crate) fn file(tensors: &[Tensor], padding: usize, metadata: &str) -> Vec<u8> {
    let mut header = String::from("{");
    if !metadata.is_empty() {
        write!(header, "\"__metadata__\":{{\"k\":{}}}", json(metadata)).unwrap();
    }
    let mut offset = 0;
    for tensor in tensors {
        let comma = if header.len() > 1 { "," } else { "" };
        let end = offset + tensor.data.len();
        write!(
            header,
            "{comma}{}:{{\"dtype\":\"{}\",\"shape\":{:?},\"data_offsets\":[{offset},{end}]}}",
            json(&tensor.name),
            tensor.dtype,
            tensor.shape
        )
        .unwrap();
        offset = end;
    }
    header.push('}');
    header.extend(std::iter::repeat_n(' ', padding));
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(tensors.iter().flat_map(|tensor| &tensor.data));
    bytes
}

fn json(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

/// A file of a few tensors of random dtypes, shapes and contents.
pub(crate) fn random_file(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let count = random.below(8);
    let tensors: Vec<Tensor> = (0..count)
        .map(|number| {
            let (dtype, width) = DTYPES[random.below(DTYPES.len() as u64) as usize];
            let shape: Vec<u64> = match random.below(8) {
                0 => vec![],
                1 => vec![0, 3],
                2 => vec![1],
                3 => vec![random.below(300_000)],
                4 => vec![2, 1 + random.below(40_000)],
                _ => vec![1 + random.below(60), 1 + random.below(60)],
            };
            let elements: u64 = shape.iter().product();
            let kind = random.next() >> 33;
            let data = data(&mut random, width, elements as usize, kind);
            let name = [
                "a",
                "a/b",
                "../up",
                "\u{e4}\u{1f642}",
                "new\nline",
                "\"",
                "",
                "x.weight",
            ];
            let name = format!("{}{number}", name[random.below(8) as usize]);
            Tensor {
                name,
                dtype,
                shape,
                data,
            }
        })
        .collect();
    let padding = random.below(20) as usize;
    file(
        &tensors,
        padding,
        ["", "v", "\u{e4}\\\""][random.below(3) as usize],
    )
}

/// A tensor by its parts, each of which shrinks by itself.
#[derive(Debug, Clone)]
pub(crate) struct AnyTensor {
    dtype: usize,
    shape: Vec<u64>,
    /// Of `data`: 5 is a ramp.
    kind: u64,
    seed: u64,
    name: &'static str,
}

fn any_shape() -> impl Strategy<Value = Vec<u64>> {
    prop_oneof![
        Just(vec![]),
        Just(vec![0, 3]),
        prop::collection::vec(1..60_u64, 1..3),
        (0..300_000_u64).prop_map(|count| vec![count]),
        (1..40_000_u64).prop_map(|columns| vec![2, columns]),
    ]
}

fn any_tensor() -> impl Strategy<Value = AnyTensor> {
    let name = prop::sample::select(vec![
        "x.weight",
        "a/b",
        "../up",
        "\u{e4}\u{1f642}",
        "new\nline",
        "\"",
        "",
    ]);
    let any = (0..DTYPES.len(), any_shape(), 0..6_u64, any::<u64>(), name);
    any.prop_map(|(dtype, shape, kind, seed, name)| AnyTensor {
        dtype,
        shape,
        kind,
        seed,
        name,
    })
}

/// A file by its parts.
#[derive(Debug, Clone)]
pub(crate) struct AnyFile {
    tensors: Vec<AnyTensor>,
    padding: usize,
    metadata: &'static str,
}

impl AnyFile {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let tensor = |(number, any): (usize, &AnyTensor)| {
            let (dtype, width) = DTYPES[any.dtype];
            let elements: u64 = any.shape.iter().product();
            let random = &mut Random::new(any.seed);
            Tensor {
                name: format!("{}{number}", any.name),
                dtype,
                shape: any.shape.clone(),
                data: data(random, width, elements as usize, any.kind),
            }
        };
        let tensors: Vec<Tensor> = self.tensors.iter().enumerate().map(tensor).collect();
        file(&tensors, self.padding, self.metadata)
    }
}

/// A file of a few tensors of any dtypes, shapes and contents. It shrinks to fewer tensors, of
/// fewer elements.
pub(crate) fn any_file() -> impl Strategy<Value = AnyFile> {
    let metadata = prop::sample::select(vec!["", "v", "\u{e4}\\\""]);
    let any = (
        prop::collection::vec(any_tensor(), 0..8),
        0..20_usize,
        metadata,
    );
    any.prop_map(|(tensors, padding, metadata)| AnyFile {
        tensors,
        padding,
        metadata,
    })
}

/// The smallest file whose image has every part: header, one table, a few blocks of several codecs.
pub(crate) fn small_file() -> Vec<u8> {
    let mut random = Random::new(7);
    let weights = bf16_weights(&mut random, 3000);
    let tensor = |name: &str, dtype, shape: &[u64], data: Vec<u8>| Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        data,
    };
    let bytes = (0..6000)
        .map(|_| (random.gauss() * 12.0 + 60.0) as u8)
        .collect();
    file(
        &[
            tensor("w", "BF16", &[3000], weights),
            tensor("f", "F8_E4M3", &[6000], bytes),
            tensor("zeros", "F32", &[10, 10], vec![0; 400]),
            tensor(
                "ids",
                "I64",
                &[64],
                (0..64_u64).flat_map(u64::to_le_bytes).collect(),
            ),
            tensor("s", "F32", &[], vec![1, 2, 3, 4]),
        ],
        3,
        "pt",
    )
}
