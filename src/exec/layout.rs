//! Whether products with weights in memory are faster as they are or packed, on this machine:
//! measured, as it depends on how fast its memory is for each thread.

use std::time::Duration;
use std::time::Instant;

use crate::base::Result;
use crate::base::level::Level;
use crate::base::random::SplitMix64;
use crate::exec::matmul::Workers;
use crate::exec::matrix;
use crate::exec::place::Layout;
use crate::kernels::Element;
use crate::kernels::packed;

/// Weights that are looked at: more than caches hold, of most machines.
const PROBE_LEN: usize = 96 << 20;
/// With fewer there is nothing to gain: they stay in a cache, or are soon read.
const WEIGHTS_LEN_MIN: u64 = 256 << 20;
const ROUNDS: usize = 3;
const COLUMNS: usize = 2048;
const ROW_LEN: usize = COLUMNS * 2;
/// Packed has to be so much faster: the two are measured in a moment, among others at work.
const GAIN_MIN: f64 = 1.05;

/// The faster layout for a model with `packable` bytes of weights that can be packed, where `free`
/// bytes may be taken to find out.
pub(super) fn faster(workers: &Workers, packable: u64, free: u64) -> Result<Layout> {
    let is_worth_it = packable >= WEIGHTS_LEN_MIN && free >= 2 * PROBE_LEN as u64;
    if !is_worth_it || workers.kernels().level() == Level::Scalar {
        return Ok(Layout::Plain);
    }
    let (plain, packed) = measure(workers)?;
    tracing::debug!("a pass over {PROBE_LEN} bytes: {plain:?} plain, {packed:?} packed");
    Ok(if plain.as_secs_f64() > packed.as_secs_f64() * GAIN_MIN {
        Layout::Packed
    } else {
        Layout::Plain
    })
}

/// The shortest time of a pass over the same weights, plain and packed, in turns.
fn measure(workers: &Workers) -> Result<(Duration, Duration)> {
    let kernels = workers.kernels();
    let tile_len = matrix::tile_len(ROW_LEN, None) as usize;
    let tile = weights(tile_len);
    let mut packed_tile = vec![0; packed::packed_len(tile_len / ROW_LEN, COLUMNS)];
    let packed_len = kernels.pack_rows(&tile, ROW_LEN, &mut packed_tile);
    // these weights have few exponents, so that they always can be
    let packed_tile = &packed_tile[..packed_len.unwrap_or_default()];
    let mut plain = matrix::pages(PROBE_LEN)?;
    let count = PROBE_LEN / tile_len;
    let mut packed = matrix::pages(count * packed_tile.len())?;
    let parts = plain
        .chunks_exact_mut(tile_len)
        .zip(packed.chunks_exact_mut(packed_tile.len()));
    workers.try_each(parts.collect(), |(plain, packed)| {
        plain.copy_from_slice(&tile);
        packed.copy_from_slice(packed_tile);
        Ok(())
    })?;
    let x = vec![1.0_f32; COLUMNS];
    let mut out = vec![0.0; count * (tile_len / ROW_LEN)];
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
        let outs = out.chunks_exact_mut(tile_len / ROW_LEN);
        let started = Instant::now();
        workers.try_each(
            outs.zip(plain.chunks_exact(tile_len)).collect(),
            |(out, tile)| {
                kernels.gemv(Element::Bf16, tile, &x, out);
                Ok(())
            },
        )?;
        best[0] = best[0].min(started.elapsed());
        let outs = out.chunks_exact_mut(tile_len / ROW_LEN);
        let tiles = packed.chunks_exact(packed_tile.len());
        let started = Instant::now();
        workers.try_each(outs.zip(tiles).collect(), |(out, tile)| {
            kernels.packed_gemv(tile, &x, out);
            Ok(())
        })?;
        best[1] = best[1].min(started.elapsed());
    }
    Ok((best[0], best[1]))
}

/// BF16 weights with the exponents of a bell, about.
fn weights(len: usize) -> Vec<u8> {
    let mut random = SplitMix64(0);
    let weight = |_| {
        let bits = random.next_bits();
        let exponent = 121 - (bits >> 32).trailing_zeros().min(9) as u16;
        let weight = ((bits & 1) as u16) << 15 | exponent << 7 | (bits >> 8 & 0x7f) as u16;
        weight.to_le_bytes()
    };
    (0..len / 2).flat_map(weight).collect()
}
