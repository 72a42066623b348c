//! The safetensors header: read by the safetensors library, so that what it refuses is refused here
//! too.

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::cmp::Ordering;
use std::collections::BTreeMap;

use safetensors::tensor::Metadata;

use crate::base::Error;
use crate::base::Limits;
use crate::base::ReadAt;
use crate::base::Result;
use crate::tensor::Lookalike;
use crate::tensor::dtype;

/// Most dimensions of a tensor: what an index has room for (docs/format.md, section 4.2).
/// safetensors has no limit.
const RANK_MAX: usize = u16::MAX as usize;

/// One tensor as the header names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, escapes resolved.
    pub name: String,
    /// Dtype as safetensors spells it.
    pub dtype: String,
    /// Dimensions; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte, counted from the start of the file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// The checked header of a safetensors file.
#[derive(Debug, Clone)]
pub struct Header {
    /// Bytes of the header with its 8-byte length: where the data begin.
    pub len: u64,
    /// The tensors in the order of their bytes; those without bytes by start, then by name.
    pub tensors: Vec<TensorInfo>,
    /// What stands under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
}

/// The header of a new file with these tensors (name, dtype, shape and length in bytes) in this
/// order, as the safetensors library writes it: with its length before it, filled up with blanks so
/// that the data are aligned.
pub(crate) fn write<'a>(
    metadata: &BTreeMap<String, String>,
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a [u64], u64)>,
) -> Result<Vec<u8>> {
    const ALIGN: usize = 8;
    let mut entries = Vec::new();
    if !metadata.is_empty() {
        entries.push(format!("\"__metadata__\":{}", json(metadata)?));
    }
    let mut end = 0_u64;
    for (name, dtype, shape, len) in tensors {
        let start = end;
        end = end
            .checked_add(len)
            .filter(|end| i64::try_from(*end).is_ok())
            .ok_or_else(|| Error::damaged("tensors of more bytes than there can be"))?;
        let (name, dtype, shape) = (json(name)?, json(dtype)?, json(shape)?);
        entries.push(format!(
            "{name}:{{\"dtype\":{dtype},\"shape\":{shape},\"data_offsets\":[{start},{end}]}}"
        ));
    }
    let entries = format!("{{{}}}", entries.join(","));
    let padded = entries.len().next_multiple_of(ALIGN);
    let mut header = (padded as u64).to_le_bytes().to_vec();
    header.extend_from_slice(entries.as_bytes());
    header.resize(padded.saturating_add(8), b' ');
    Ok(header)
}

fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::invalid(e.to_string()))
}

/// The order in which the safetensors library writes tensors: the widest dtypes first, and those of
/// one dtype by name.
pub(crate) fn cmp_as_written(a: (&str, &str), b: (&str, &str)) -> Ordering {
    let wider_first = dtype::rank(b.1).cmp(&dtype::rank(a.1));
    wider_first.then_with(|| a.0.cmp(b.0))
}

impl Header {
    /// Whether a file is safetensors.
    pub fn is_in(source: &dyn ReadAt) -> bool {
        Self::may_be_in(source) && Self::read(source).is_ok()
    }

    /// Whether a file may be, by the nine bytes by which most others are told.
    pub fn may_be_in(source: &dyn ReadAt) -> bool {
        let mut head = [0_u8; 9];
        if source.read_exact_at(0, &mut head).is_err() {
            return false;
        }
        let [length @ .., first] = head;
        let claimed = u64::from_le_bytes(length);
        first == b'{' && claimed <= source.len()
    }

    /// Reads and checks the header of a whole file: tensors must tile the data from the first byte
    /// to the last.
    pub fn read(source: &dyn ReadAt) -> Result<Self> {
        let (header, end) = Self::read_to_end(source)?;
        if end == source.len() {
            return Ok(header);
        }
        Err(refused(&format!(
            "the tensors end at byte {end}, the file at {}",
            source.len()
        )))
    }

    /// The same, though other bytes may stand after the last tensor, of which there must be one
    /// then; and where the tensors end.
    pub fn read_to_end(source: &dyn ReadAt) -> Result<(Self, u64)> {
        if let Some(lookalike) = Lookalike::of(source) {
            let what = format!("not a safetensors file: {lookalike}");
            return Err(Error::invalid(what).hint(lookalike.hint()));
        }
        let mut length = [0_u8; 8];
        if source.len() < length.len() as u64 {
            return Err(refused(&format!("{} bytes hold no header", source.len())));
        }
        source.read_exact_at(0, &mut length)?;
        let json_len = u64::from_le_bytes(length);
        if json_len > Limits::FORMAT_1.safetensors_header_len_max {
            return Err(refused(&format!(
                "the header claims {json_len} bytes, at most {} are allowed",
                Limits::FORMAT_1.safetensors_header_len_max
            )));
        }
        let data_start = json_len.saturating_add(8);
        if data_start > source.len() {
            return Err(refused(&format!(
                "the header claims {json_len} bytes, the file has {}",
                source.len()
            )));
        }
        let mut json = vec![0_u8; json_len as usize];
        source.read_exact_at(8, &mut json)?;
        let metadata: Metadata =
            serde_json::from_slice(&json).map_err(|e| refused(&format!("header: {e}")))?;
        drop(json);
        let end = data_start.saturating_add(metadata.data_len() as u64);
        if end > source.len() || (end < source.len() && metadata.data_len() == 0) {
            return Err(refused(&format!(
                "the tensors end at byte {end}, the file at {}",
                source.len()
            )));
        }
        let tensors = tensors_of(&metadata, data_start);
        if let Some(tensor) = tensors.iter().find(|tensor| tensor.shape.len() > RANK_MAX) {
            return Err(refused(&format!(
                "a tensor of {} dimensions, at most {RANK_MAX} can be recorded",
                tensor.shape.len()
            )));
        }
        let text = metadata.metadata().clone().unwrap_or_default();
        let header = Self {
            len: data_start,
            tensors,
            metadata: text.into_iter().collect(),
        };
        Ok((header, end))
    }
}

fn refused(what: &str) -> Error {
    Error::invalid(format!("not a safetensors file: {what}"))
}

fn tensors_of(metadata: &Metadata, data_start: u64) -> Vec<TensorInfo> {
    let tensor = |name: String| {
        let info = metadata.info(&name)?;
        let (start, end) = info.data_offsets;
        Some(TensorInfo {
            dtype: info.dtype.to_string(),
            shape: info.shape.iter().map(|&dim| dim as u64).collect(),
            start: data_start.saturating_add(start as u64),
            len: (end as u64).saturating_sub(start as u64),
            name,
        })
    };
    let names = metadata.offset_keys().into_iter();
    let mut tensors: Vec<TensorInfo> = names.filter_map(tensor).collect();
    tensors.sort_by(|a, b| (a.start, a.len, &a.name).cmp(&(b.start, b.len, &b.name)));
    tensors
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
mod tests {
    use super::*;

    fn file(json: &str, data: &[u8]) -> Vec<u8> {
        [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
    }

    #[test]
    fn tensors_come_in_the_order_of_their_bytes() {
        let json = r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]},
            "z":{"dtype":"F32","shape":[0],"data_offsets":[1,1]},
            "e":{"dtype":"F32","shape":[0],"data_offsets":[1,1]},
            "a":{"dtype":"F8_E4M3","shape":[],"data_offsets":[0,1]},"__metadata__":{"k":"v"}}"#;
        let header = Header::read(&file(json, b"abc")).unwrap();
        let names: Vec<_> = header.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, ["a", "e", "z", "b"]);
        assert_eq!(header.tensors[0].dtype, "F8_E4M3");
        assert_eq!(header.tensors[3].start, header.len + 1);
    }

    #[test]
    fn what_safetensors_refuses_is_refused() {
        let good = r#"{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#;
        let mut wrong = vec![
            Vec::new(),
            b"\x02\0\0\0\0\0\0".to_vec(),
            file(good, &[0; 7]),
            file(good, &[0; 9]),
            file(&good.replace("[0,8]", "[8,0]"), &[0; 8]),
            file(&good.replace("BF16", "BF17"), &[0; 8]),
            file(
                &good.replace("[4]", "[4294967296,4294967296,4294967296]"),
                &[0; 8],
            ),
            file("[1]", b""),
            file(
                &format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)),
                b"",
            ),
        ];
        wrong.push([&u64::MAX.to_le_bytes(), good.as_bytes()].concat());
        for bytes in wrong {
            let error = Header::read(&bytes).unwrap_err();
            assert!(
                error.to_string().starts_with("not a safetensors file"),
                "{error}"
            );
        }
    }

    #[test]
    fn bytes_after_the_last_tensor_are_no_part_of_it() {
        let good = r#"{"a":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}}"#;
        let longer = file(good, &[0; 11]);
        let (header, end) = Header::read_to_end(&longer).unwrap();
        assert_eq!((header.tensors.len(), end), (1, longer.len() as u64 - 3));
        assert!(Header::read(&longer).is_err());
        // what has no tensor is no safetensors file that something was added to
        assert!(Header::read_to_end(&file("{}", &[0; 3])).is_err());
        let cut = file(good, &[0; 7]);
        assert!(Header::read_to_end(&cut).is_err());
    }
}
