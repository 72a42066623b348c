//! The coded bytes of one tensor to its bytes, for each codec of the package that its files have.

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::io::Read;

use crate::base::Error;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::bgsm::coder;
use crate::bgsm::coder::Coder;
use crate::bgsm::coder::Model;
use crate::bgsm::coder::Stream;
use crate::bgsm::coder::damaged;

/// How a tensor is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Raw,
    Zstd,
    /// Sign and exponent by a coder, mantissas by one stream for each exponent.
    Bf16(Coder),
    F16,
    /// Sign and exponent by the range coder, mantissas in three zstd frames.
    F32,
    /// The upper halves as bf16, the lower ones as zstd.
    Bf16InF32,
    /// The same, each half with a number that says how.
    Bf16InF32Chosen,
    /// Bytes by the range coder.
    Bytes,
    /// At most 16 values, and which of them each element is.
    FewValues,
    /// Differences from the same tensor of a base, by exclusive or, as zstd.
    Xor,
}

impl Codec {
    /// By the names that the package gives them; none for one that is not read.
    pub(super) fn named(codec: &str, special: Option<&str>) -> Option<Self> {
        Some(match (codec, special) {
            ("raw", _) => Self::Raw,
            ("zstd", None | Some("delta_standalone")) => Self::Zstd,
            ("bf16_se_rans", _) => Self::Bf16(Coder::Ans),
            ("bf16_se_ac", _) => Self::Bf16(Coder::Range),
            ("fp16_se_ac", _) => Self::F16,
            ("fp32_se_ac", _) => Self::F32,
            ("bf16_native_f32", _) => Self::Bf16InF32,
            ("bf16_native_f32_v2", _) => Self::Bf16InF32Chosen,
            ("fp8_cat_ac", _) => Self::Bytes,
            (_, Some("lowcard")) => Self::FewValues,
            ("zstd_xor_delta", _) => Self::Xor,
            _ => return None,
        })
    }
}

/// Takes fields from the front of a blob.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.0.split_at_checked(len);
        let (taken, rest) = taken.ok_or_else(|| damaged("coded bytes that end too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, len: usize) -> Result<usize> {
        let bytes = self.take(len)?.iter().rev();
        Ok(bytes.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// So many numbers of so many bytes each.
    fn numbers(&mut self, count: usize, len: usize) -> Result<Vec<usize>> {
        // what is not there is not made room for
        let bytes = self.take(count.saturating_mul(len))?;
        let numbers = bytes.chunks_exact(len.max(1));
        Ok(numbers
            .map(|bytes| {
                bytes
                    .iter()
                    .rev()
                    .fold(0, |n, byte| n << 8 | usize::from(*byte))
            })
            .collect())
    }

    /// Bytes behind their length.
    fn sized(&mut self) -> Result<&'a [u8]> {
        let len = self.number(4)?;
        self.take(len)
    }

    /// Symbols, their counts, and a model of both: each symbol has so many bytes.
    fn model(&mut self, count: usize, symbol_len: usize, alphabet: usize) -> Result<Model> {
        let symbols = self.numbers(count, symbol_len)?;
        let counts = self.numbers(count, 4)?;
        let pairs = symbols.iter().zip(&counts);
        let pairs: Vec<(u16, u32)> = pairs
            .map(|(symbol, count)| (*symbol as u16, *count as u32))
            .collect();
        Model::of_counts(alphabet, &pairs)
    }

    fn end(&self) -> Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(damaged("coded bytes that go on behind their end"))
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` gives")]
fn failed(e: std::io::Error) -> Error {
    Error::damaged(format!("a zstd frame cannot be read: {e}"))
}

/// The md5 of what a zstd frame of exactly so many bytes holds, without room for more than its
/// window.
pub(super) fn md5_of_zstd(frame: &[u8], len: usize) -> Result<[u8; 16]> {
    const WINDOW_LOG_MAX: u32 = 24;
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(failed)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(failed)?;
    let mut limited = decoder.single_frame().take(len as u64 + 1);
    let (mut md5, mut total, mut piece) = (Md5::default(), 0, vec![0; 1 << 16]);
    loop {
        let read = limited.read(&mut piece).map_err(failed)?;
        let Some(read) = piece.get(..read).filter(|read| !read.is_empty()) else {
            break;
        };
        md5.update(read);
        total += read.len();
    }
    if total != len {
        return Err(damaged("a zstd frame of another length"));
    }
    Ok(md5.finish())
}

/// A zstd frame of exactly so many bytes. Room is made for what comes, not for what is claimed.
fn unzstd(frame: &[u8], len: usize) -> Result<Vec<u8>> {
    // a frame needs no larger window than what it holds
    let window_log = len.next_power_of_two().trailing_zeros().clamp(20, 27);
    let mut decoder = zstd::stream::read::Decoder::with_buffer(frame).map_err(failed)?;
    decoder.window_log_max(window_log).map_err(failed)?;
    let mut bytes = Vec::new();
    let mut limited = decoder.single_frame().take(len as u64 + 1);
    limited.read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() != len {
        return Err(damaged("a zstd frame of another length"));
    }
    Ok(bytes)
}

/// Decodes `blob` to `len` bytes. `base` has the same tensor of the base, for differences.
pub(super) fn decode(codec: Codec, blob: &[u8], len: usize, base: &[u8]) -> Result<Vec<u8>> {
    let bytes = match codec {
        Codec::Raw => blob.to_vec(),
        Codec::Zstd => unzstd(blob, len)?,
        Codec::Bf16(coder) => floats(&mut Fields(blob), len, coder, &BF16)?,
        Codec::F16 => floats(&mut Fields(blob), len, Coder::Range, &F16)?,
        Codec::F32 => f32s(blob, len)?,
        Codec::Bf16InF32 | Codec::Bf16InF32Chosen => halves(codec, blob, len)?,
        Codec::Bytes => bytes_of(blob, len)?,
        Codec::FewValues => few_values(blob, len)?,
        Codec::Xor => {
            if base.len() != len {
                return Err(damaged("differences from a tensor of another length"));
            }
            let mut bytes = unzstd(blob, len)?;
            for (byte, base) in bytes.iter_mut().zip(base) {
                *byte ^= base;
            }
            bytes
        }
    };
    if bytes.len() != len {
        return Err(damaged("a tensor of another length"));
    }
    Ok(bytes)
}

/// How floats of two bytes are cut.
struct Parts {
    mantissa_bits: u32,
    exponent_bits: u32,
    /// Bytes of the number of symbols, of a symbol, and of an exponent where those stand.
    count_len: usize,
    symbol_len: usize,
    /// Bytes of the number of mantissas, and of a mantissa where those stand.
    mantissa_count_len: usize,
    mantissa_len: usize,
}

const BF16: Parts = Parts {
    mantissa_bits: 7,
    exponent_bits: 8,
    count_len: 2,
    symbol_len: 2,
    mantissa_count_len: 1,
    mantissa_len: 1,
};
const F16: Parts = Parts {
    mantissa_bits: 10,
    exponent_bits: 5,
    count_len: 1,
    symbol_len: 1,
    mantissa_count_len: 2,
    mantissa_len: 2,
};

/// A stream, the model of its symbols, and how many there are.
type Coded<'a> = (Model, &'a [u8], usize);

/// Signs and exponents of so many elements, still coded.
fn signs_and_exponents<'a>(
    fields: &mut Fields<'a>,
    elements: usize,
    (count_len, symbol_len, exponent_bits): (usize, usize, u32),
) -> Result<Coded<'a>> {
    if fields.number(4)? != elements {
        return Err(damaged("a tensor of another number of elements"));
    }
    let count = fields.number(count_len)?;
    let model = fields.model(count, symbol_len, 1 << (exponent_bits + 1))?;
    Ok((model, fields.sized()?, elements))
}

/// The symbols of streams, one after another: as many as `most` at most together.
fn symbols_of(coder: Coder, coded: &[Coded<'_>], most: usize) -> Result<Vec<u16>> {
    let lens = coded.iter().map(|(.., count)| *count);
    let total = lens.fold(0, usize::saturating_add);
    if total > most {
        return Err(damaged("more symbols than there are elements"));
    }
    let mut symbols = vec![0; total];
    let mut rest = symbols.as_mut_slice();
    let mut streams = Vec::with_capacity(coded.len());
    for (model, words, count) in coded {
        let (out, after) = rest.split_at_mut(*count);
        rest = after;
        if coder == Coder::Ans {
            streams.push(Stream::new(words, model, out)?);
            continue;
        }
        let mut symbols = out.iter_mut();
        coder::decode(coder, words, *count, model, |symbol| {
            if let Some(slot) = symbols.next() {
                *slot = symbol;
            }
        })?;
    }
    coder::decode_streams(streams);
    Ok(symbols)
}

fn floats(fields: &mut Fields<'_>, len: usize, coder: Coder, parts: &Parts) -> Result<Vec<u8>> {
    let shape = (parts.count_len, parts.symbol_len, parts.exponent_bits);
    let elements = len / 2;
    let mut coded = vec![signs_and_exponents(fields, elements, shape)?];
    let mut rest = Fields(fields.sized()?);
    fields.end()?;
    let count = rest.number(4)?;
    let exponents = rest.numbers(count, parts.symbol_len)?;
    if !exponents.is_sorted_by(|a, b| a < b) {
        return Err(damaged("exponents that do not ascend"));
    }
    for _ in &exponents {
        let number = rest.number(4)?;
        let used = rest.number(parts.mantissa_count_len)?;
        let model = rest.model(used, parts.mantissa_len, 1 << parts.mantissa_bits)?;
        coded.push((model, rest.sized()?, number));
    }
    rest.end()?;
    let symbols = symbols_of(coder, &coded, 2 * elements)?;
    let (signs, mantissas) = symbols
        .split_at_checked(elements)
        .ok_or_else(|| damaged("fewer symbols than there are elements"))?;
    let exponent_mask = (1_u16 << parts.exponent_bits) - 1;
    // where the next mantissa of each exponent is, and where its last one ends
    let mut next = vec![0; usize::from(exponent_mask) + 1];
    let mut ends = Vec::with_capacity(exponents.len());
    let mut end = 0;
    for (exponent, (.., number)) in exponents.into_iter().zip(coded.iter().skip(1)) {
        let at = next.get_mut(exponent);
        *at.ok_or_else(|| damaged("an exponent that there is not"))? = end;
        end += number;
        ends.push((exponent, end));
    }
    let mut bytes = vec![0; len];
    for (sign, element) in signs.iter().zip(bytes.as_chunks_mut().0) {
        let exponent = sign & exponent_mask;
        let at = next.get_mut(usize::from(exponent));
        let at = at.ok_or_else(|| damaged("an exponent that there is not"))?;
        let mantissa = mantissas.get(*at);
        let mantissa = *mantissa.ok_or_else(|| damaged("an element without a mantissa"))?;
        *at += 1;
        let word = (sign >> parts.exponent_bits) << 15 | exponent << parts.mantissa_bits | mantissa;
        *element = word.to_le_bytes();
    }
    // each exponent has used up its own: so no other has
    let is_used_up = |(exponent, end): &(usize, usize)| next.get(*exponent) == Some(end);
    if end != elements || !ends.iter().all(is_used_up) {
        return Err(damaged(
            "another number of mantissas than of elements with that exponent",
        ));
    }
    Ok(bytes)
}

fn f32s(blob: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut fields = Fields(blob);
    let elements = len / 4;
    let coded = signs_and_exponents(&mut fields, elements, (2, 2, 8))?;
    let signs = symbols_of(Coder::Range, &[coded], elements)?;
    let mut planes = Vec::new();
    for _ in 0..3 {
        planes.push(unzstd(fields.sized()?, elements)?);
    }
    fields.end()?;
    let mut bytes = Vec::with_capacity(len);
    let mut planes = planes.iter().map(|plane| plane.iter());
    let (Some(low), Some(middle), Some(high)) = (planes.next(), planes.next(), planes.next())
    else {
        return Err(damaged("fewer planes than there are"));
    };
    for (((sign, low), middle), high) in signs.iter().zip(low).zip(middle).zip(high) {
        let mantissa = u32::from(*low) | u32::from(*middle) << 8 | u32::from(*high) << 16;
        let word = u32::from(sign >> 8) << 31 | u32::from(sign & 0xff) << 23 | mantissa;
        bytes.extend(word.to_le_bytes());
    }
    Ok(bytes)
}

/// Values of four bytes by their upper and lower halves.
fn halves(codec: Codec, blob: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut fields = Fields(blob);
    if fields.number(4)? != len / 4 {
        return Err(damaged("a tensor of another number of elements"));
    }
    let mut half = |is_high: bool| {
        let how = match codec {
            Codec::Bf16InF32Chosen => fields.number(1)?,
            _ => {
                if is_high {
                    2
                } else {
                    0
                }
            }
        };
        let blob = fields.sized()?;
        match how {
            0 => unzstd(blob, len / 2),
            1 => decode(Codec::Bf16(Coder::Ans), blob, len / 2, &[]),
            2 => decode(Codec::Bf16(Coder::Range), blob, len / 2, &[]),
            _ => Err(damaged("a half that is coded in no known way")),
        }
    };
    let (high, low) = (half(true)?, half(false)?);
    fields.end()?;
    let (high, _) = high.as_chunks::<2>();
    let (low, _) = low.as_chunks::<2>();
    Ok(low
        .iter()
        .zip(high)
        .flat_map(|(low, high)| [*low, *high].concat())
        .collect())
}

fn bytes_of(blob: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut fields = Fields(blob);
    if fields.number(4)? != len {
        return Err(damaged("a tensor of another number of elements"));
    }
    let count = fields.number(2)?;
    let model = fields.model(count, 1, 256)?;
    let mut bytes = Vec::with_capacity(len);
    coder::decode(Coder::Range, fields.sized()?, len, &model, |symbol| {
        bytes.push(symbol as u8);
    })?;
    fields.end()?;
    Ok(bytes)
}

fn few_values(blob: &[u8], len: usize) -> Result<Vec<u8>> {
    let mut fields = Fields(blob);
    let (item_len, count) = (fields.number(1)?, fields.number(1)?);
    let values = fields.take(item_len * count)?;
    let frame = fields.sized()?;
    let elements = fields.number(4)?;
    fields.end()?;
    if elements.checked_mul(item_len) != Some(len) {
        return Err(damaged("a tensor of another number of elements"));
    }
    let mut bytes = Vec::with_capacity(len);
    for number in unzstd(frame, elements)? {
        let at = usize::from(number) * item_len;
        let value = values.get(at..at + item_len);
        bytes.extend_from_slice(value.ok_or_else(|| damaged("a value that there is not"))?);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "no hostile bytes here")]
    use super::*;

    #[test]
    fn few_values_are_put_together() {
        let frame = zstd::bulk::compress(&[1, 0, 1], 1).unwrap();
        let mut blob = vec![2, 2, 10, 11, 20, 21];
        blob.extend((frame.len() as u32).to_le_bytes());
        blob.extend(&frame);
        blob.extend(3_u32.to_le_bytes());
        let bytes = decode(Codec::FewValues, &blob, 6, &[]).unwrap();
        assert_eq!(bytes, [20, 21, 10, 11, 20, 21]);
        for len in 0..blob.len() {
            assert!(decode(Codec::FewValues, &blob[..len], 6, &[]).is_err());
        }
        assert!(decode(Codec::FewValues, &blob, 8, &[]).is_err());
    }
}
