//! Every set of instructions gives the bits of the definition, whatever the shape, and products do
//! not depend on how many vectors are multiplied at once.

use bigsmall::kernels::Element;
use bigsmall::kernels::Kernels;
use bigsmall::kernels::attention::Attention;
use bigsmall::kernels::dispatch;
use bigsmall::kernels::elementwise::Activation;
use bigsmall::kernels::packed;
use bigsmall::kernels::padded;
use bigsmall::kernels::rope::Pairs;
use bigsmall::kernels::scaled;
use proptest::prelude::*;

use crate::models::Random;

const ELEMENTS: [Element; 4] = [Element::Bf16, Element::F16, Element::F32, Element::F8];

/// Finite elements of all sizes, denormal ones and zeros of both signs among them.
fn weights(random: &mut Random, element: Element, count: usize) -> Vec<u8> {
    let mut value = |_| {
        let sign = random.below(2) as u32;
        let wild = random.below(4) == 0;
        match element {
            Element::Bf16 if wild => (sign << 15 | random.below(0x4000) as u32) as u16,
            Element::Bf16 => (random.gauss().to_bits() >> 16) as u16,
            _ => (sign << 15 | random.below(0x7c00) as u32) as u16,
        }
        .to_le_bytes()
    };
    if element == Element::F8 {
        // all but the two that are no number
        return (0..count)
            .map(|_| random.below(127) as u8 | ((random.below(2) as u8) << 7))
            .collect();
    }
    if element != Element::F32 {
        return (0..count).flat_map(&mut value).collect();
    }
    let mut random = Random::new(random.next());
    (0..count)
        .flat_map(|_| values(&mut random, 1)[0].to_le_bytes())
        .collect()
}

fn values(random: &mut Random, count: usize) -> Vec<f32> {
    let value = |_| match random.below(16) {
        0 => f32::from_bits(random.below(0x0080_0000) as u32),
        1 => -0.0,
        _ => random.gauss(),
    };
    (0..count).map(value).collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// `vectors` vectors of `columns` values with their padding.
fn vectors(random: &mut Random, count: usize, columns: usize) -> Vec<f32> {
    let mut all = vec![0.0; count * padded(columns)];
    for vector in all.chunks_exact_mut(padded(columns)) {
        vector[..columns].copy_from_slice(&values(random, columns));
    }
    all
}

/// The product as the contract has it, written once more.
fn product(element: Element, row: &[u8], x: &[f32]) -> f32 {
    let mut widened = vec![0.0; row.len() / element.size()];
    Kernels::widen(element, row, &mut widened);
    widened.resize(x.len(), 0.0);
    let mut lanes = [0.0_f32; 64];
    for (at, (weight, x)) in widened.iter().zip(x).enumerate() {
        lanes[at % 64] = weight.mul_add(*x, lanes[at % 64]);
    }
    for half in [32, 16, 8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn products_are_those_of_the_contract(
        rows in 1_usize..12,
        columns in 1_usize..400,
        count in 1_usize..18,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        for element in ELEMENTS {
            let row_len = columns * element.size();
            let weights = weights(&mut random, element, rows * columns);
            let x = vectors(&mut random, count, columns);
            let wanted: Vec<f32> = weights
                .chunks_exact(row_len)
                .flat_map(|row| x.chunks_exact(padded(columns)).map(move |x| (row, x)))
                .map(|(row, x)| product(element, row, x))
                .collect();
            for kernels in dispatch::available() {
                let mut packed = vec![0.0; x.len()];
                kernels.pack(&x, padded(columns), &mut packed);
                let mut panel = vec![f32::NAN; kernels.panel_len(padded(columns))];
                let mut out = vec![0.0; rows * count];
                let packed = (packed.as_slice(), padded(columns));
                kernels.gemm(element, (&weights, row_len), packed, &mut panel, &mut out);
                prop_assert_eq!(bits(&out), bits(&wanted), "{:?} {:?}", element, kernels.level());
                let mut out = vec![0.0; rows];
                kernels.gemv(element, &weights, &x[..padded(columns)], &mut out);
                let of_first: Vec<f32> = wanted.iter().copied().step_by(count).collect();
                prop_assert_eq!(bits(&out), bits(&of_first), "{:?} {:?}", element, kernels.level());
            }
        }
    }

    /// Weights of eight bits times the scale of their block, whatever rows a tile begins with.
    #[test]
    fn scaled_rows_are_products_of_weights_and_scales(
        rows in 1_usize..12,
        columns in 1_usize..400,
        count in 2_usize..7,
        first in 0_usize..40,
        block in (1_usize..9, 1_usize..4),
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let block = (block.0, block.1 * 64);
        let weights = weights(&mut random, Element::F8, rows * columns);
        let scale_columns = columns.div_ceil(block.1);
        let scales: Vec<f32> = (0..(first + rows).div_ceil(block.0) * scale_columns)
            .map(|_| random.gauss() * 0.01)
            .collect();
        let mut plain = vec![0.0; weights.len()];
        Kernels::widen(Element::F8, &weights, &mut plain);
        for (at, weight) in plain.iter_mut().enumerate() {
            let (row, column) = (first + at / columns, at % columns);
            *weight *= scales[row / block.0 * scale_columns + column / block.1];
        }
        let plain: Vec<u8> = plain.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        let x = vectors(&mut random, count, columns);
        let rows_of = scaled::Rows {
            rows: &weights,
            first,
            scales: scaled::Scales { values: &scales, columns, block },
        };
        for kernels in dispatch::available() {
            let mut outs = [vec![0.0; rows], vec![0.0; rows]];
            kernels.gemv(Element::F32, &plain, &x[..padded(columns)], &mut outs[0]);
            kernels.scaled_gemv(rows_of, &x[..padded(columns)], &mut outs[1]);
            prop_assert_eq!(bits(&outs[0]), bits(&outs[1]), "{:?}", kernels.level());
            let mut packed = vec![0.0; x.len()];
            kernels.pack(&x, padded(columns), &mut packed);
            let packed = (packed.as_slice(), padded(columns));
            let mut panel = vec![f32::NAN; kernels.panel_len(padded(columns))];
            let mut all = [vec![0.0; rows * count], vec![0.0; rows * count]];
            kernels.gemm(Element::F32, (&plain, 4 * columns), packed, &mut panel, &mut all[0]);
            kernels.scaled_gemm(rows_of, packed, &mut panel, &mut all[1]);
            prop_assert_eq!(bits(&all[0]), bits(&all[1]), "{:?}", kernels.level());
        }
    }

    /// In twelve bits a weight: the same bytes back, and the same products, whatever the exponents.
    #[test]
    fn packed_rows_are_the_rows(
        rows in 1_usize..12,
        columns in 1_usize..400,
        count in 2_usize..9,
        listed in 0_u64..4,
        seed in any::<u64>(),
    ) {
        let mut random = Random::new(seed);
        let row_len = 2 * columns;
        let weights: Vec<u8> = (0..rows * columns)
            .flat_map(|_| {
                let weight = (random.gauss() * 0.02).to_bits() >> 16;
                let is_wild = random.below(2000) < listed;
                let weight = if is_wild { random.below(0x7f80) as u32 } else { weight };
                (weight as u16).to_le_bytes()
            })
            .collect();
        let x = vectors(&mut random, count, columns);
        let first = &x[..padded(columns)];
        let scalar = dispatch::available()[0];
        let mut wanted = vec![0.0; rows];
        scalar.gemv(Element::Bf16, &weights, first, &mut wanted);
        let mut tile = vec![0xaa; packed::packed_len(rows, columns)];
        let Some(len) = scalar.pack_rows(&weights, row_len, &mut tile) else {
            // small ones are soon more than may be listed
            prop_assert!(listed > 0 || rows * columns < 4000);
            return Ok(());
        };
        for kernels in dispatch::available() {
            let mut same = vec![0xaa; tile.len()];
            prop_assert_eq!(kernels.pack_rows(&weights, row_len, &mut same), Some(len));
            prop_assert_eq!(&same[..len], &tile[..len]);
            let mut unpacked = vec![0; weights.len()];
            kernels.unpack_rows(&tile[..len], row_len, &mut unpacked);
            prop_assert_eq!(&unpacked, &weights);
            let mut out = vec![0.0; rows];
            kernels.packed_gemv(&tile[..len], first, &mut out);
            prop_assert_eq!(bits(&out), bits(&wanted), "{:?}", kernels.level());
            let mut packed = vec![0.0; x.len()];
            kernels.pack(&x, padded(columns), &mut packed);
            let packed = (packed.as_slice(), padded(columns));
            let mut panel = vec![f32::NAN; kernels.panel_len(padded(columns))];
            let mut all = [vec![0.0; rows * count], vec![0.0; rows * count]];
            kernels.gemm(Element::Bf16, (&weights, row_len), packed, &mut panel, &mut all[0]);
            kernels.packed_gemm(&tile[..len], packed, &mut panel, &mut all[1]);
            prop_assert_eq!(bits(&all[0]), bits(&all[1]), "{:?}", kernels.level());
        }
    }

    #[test]
    fn what_stands_between_the_products_is_the_same_everywhere(
        len in 1_usize..300,
        positions in 1_usize..150,
        seed in any::<u64>(),
    ) {
        let all = dispatch::available();
        let mut random = Random::new(seed);
        let (x, weight, bias) = (
            values(&mut random, 2 * len),
            values(&mut random, len),
            values(&mut random, len),
        );
        let keys = values(&mut random, positions * len);
        let start = random.below(positions as u64) as usize;
        let of = |kernels: Kernels| {
            let mut outs = Vec::new();
            let mut norm = vec![0.0; len];
            kernels.rms_norm(&x[..len], Some(&weight), (1.0, 1e-6), &mut norm);
            outs.extend(bits(&norm));
            kernels.layer_norm(&x[..len], (&weight, &bias), 1e-5, &mut norm);
            outs.extend(bits(&norm));
            for activation in [Activation::Silu, Activation::GeluTanh, Activation::Relu] {
                let mut gate: Vec<f32> = x[..len].iter().map(|x| x * 9.0).collect();
                kernels.gate(activation, &mut gate, &x[len..]);
                outs.extend(bits(&gate));
            }
            for pairs in [Pairs::Halves, Pairs::Neighbours] {
                let mut head = x.clone();
                kernels.rotate(&mut head, (&weight, &bias), pairs);
                outs.extend(bits(&head));
            }
            for soft_cap in [None, Some(3.0)] {
                let (mut scores, mut out) = (vec![0.0; positions], vec![0.0; len]);
                kernels.attention(Attention {
                    query: &x[..len],
                    keys: &keys,
                    values: &keys,
                    seen: start..positions,
                    scale: 0.3,
                    soft_cap,
                    scores: &mut scores,
                    out: &mut out,
                });
                outs.extend(bits(&out));
            }
            outs
        };
        let wanted = of(all[0]);
        for kernels in all {
            prop_assert_eq!(&of(kernels), &wanted, "{:?}", kernels.level());
        }
    }
}

/// A window hides what is before it, and what is seen does not depend on it.
#[test]
fn attention_is_an_average_of_the_values_that_are_seen() {
    let (len, positions) = (24, 70);
    let mut random = Random::new(5);
    let query = values(&mut random, len);
    let keys = values(&mut random, positions * len);
    let cache: Vec<f32> = (0..positions).flat_map(|at| vec![at as f32; len]).collect();
    let mut far = cache.clone();
    far[..30 * len].fill(f32::NAN);
    for kernels in dispatch::available() {
        let of = |values: &[f32]| {
            let (mut scores, mut out) = (vec![0.0; positions], vec![0.0; len]);
            kernels.attention(Attention {
                query: &query,
                keys: &keys,
                values,
                seen: 30..positions,
                scale: 0.2,
                soft_cap: None,
                scores: &mut scores,
                out: &mut out,
            });
            out
        };
        let out = of(&cache);
        assert!(out.iter().all(|&value| (30.0..70.0).contains(&value)));
        assert_eq!(bits(&out), bits(&of(&far)));
    }
}
