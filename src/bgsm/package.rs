//! A file of the package: its header, which is JSON, and where the coded bytes of each tensor are.

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use parking_lot::MutexGuard;
use serde::Deserialize;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::base::digest::from_hex;
use crate::bgsm::blob;
use crate::bgsm::blob::Codec;
use crate::tensor::dtype;

/// The first bytes of such a file.
pub const MAGIC: [u8; 4] = *b"BGSM";
/// Bytes before the JSON.
const PREFIX_LEN: u64 = 10;
/// Versions that there are.
const VERSIONS: [u16; 2] = [1, 2];
/// Bytes of JSON at most, as in safetensors files.
const JSON_LEN_MAX: u64 = 100_000_000;

/// Bytes that a tensor may have in any case, and times its coded bytes: a small file shall not take
/// all of the memory. Zeros are a longer frame of zstd many times over, so that is tried first,
/// without room for what it holds.
const TENSOR_LEN_FREE: u64 = 16 << 20;
const TENSOR_RATIO_MAX: u64 = 1 << 12;
const ZSTD_RATIO_MAX: u64 = 1 << 16;
/// Tensors of more than this times their coded bytes are decoded one at a time.
const DENSE_RATIO: u64 = 512;

/// The names of torch, and those of safetensors.
const DTYPES: [(&str, &str); 15] = [
    ("bfloat16", "BF16"),
    ("float16", "F16"),
    ("float32", "F32"),
    ("float64", "F64"),
    ("float8_e4m3fn", "F8_E4M3"),
    ("float8_e5m2", "F8_E5M2"),
    ("int8", "I8"),
    ("int16", "I16"),
    ("int32", "I32"),
    ("int64", "I64"),
    ("uint8", "U8"),
    ("uint16", "U16"),
    ("uint32", "U32"),
    ("uint64", "U64"),
    ("bool", "BOOL"),
];

#[derive(Debug, Deserialize)]
struct HeaderJson {
    tensors: Vec<TensorJson>,
    #[serde(default)]
    safetensors_metadata: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Deserialize)]
struct TensorJson {
    name: String,
    shape: Vec<u64>,
    dtype: String,
    codec: String,
    #[serde(default)]
    special: Option<String>,
    compressed_bytes: u64,
    offset: u64,
    #[serde(default)]
    md5: Option<String>,
    #[serde(default)]
    extra: Option<serde_json::Value>,
}

/// A tensor of the file.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its dtype, as safetensors spells it.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its bytes.
    pub len: u64,
    /// Its md5.
    md5: [u8; 16],
    stored: Stored,
}

impl Tensor {
    fn check(&self, md5: [u8; 16]) -> Result<()> {
        if md5 == self.md5 {
            return Ok(());
        }
        Err(Error::damaged(
            "the bytes do not have the md5 that the file names",
        ))
    }
}

#[derive(Debug, Clone)]
enum Stored {
    Blob {
        codec: Codec,
        offset: u64,
        len: u64,
    },
    /// The same bytes as another tensor.
    As(usize),
}

/// An open file of the package.
#[derive(Debug)]
pub struct Package {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    /// Its tensors, in the order in which it has them.
    pub tensors: Vec<Tensor>,
    /// What stood in the safetensors file under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The base of differences, if that was given.
    base: Option<Arc<dyn BaseTensors>>,
    dense: Mutex<()>,
}

/// Where the tensors of a base are.
pub trait BaseTensors: Send + Sync + std::fmt::Debug {
    /// The bytes of the tensor of this name and length.
    fn bytes(&self, name: &str, len: u64) -> Result<Vec<u8>>;
}

impl Package {
    /// Opens a file; `path` is for messages. What it has that is not read is an error now, and
    /// nothing of it is read.
    pub fn open(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        Self::read(source, path).map_err(|e| e.file(path))
    }

    fn read(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        let mut prefix = [0; PREFIX_LEN as usize];
        source.read_exact_at(0, &mut prefix)?;
        let no_package = || Error::damaged("this is no `.bs` file of the Python package");
        let rest = prefix.strip_prefix(&MAGIC).ok_or_else(no_package)?;
        let (version, rest) = rest.split_first_chunk().ok_or_else(no_package)?;
        let version = u16::from_le_bytes(*version);
        if !VERSIONS.contains(&version) {
            return Err(Error::unsupported(format!(
                "version {version} of the Python package's files"
            )));
        }
        let json_len = rest
            .first_chunk()
            .map_or(0, |len| u64::from(u32::from_le_bytes(*len)));
        if json_len > JSON_LEN_MAX || json_len > source.len().saturating_sub(PREFIX_LEN) {
            return Err(Error::damaged(format!(
                "a header of {json_len} bytes cannot be in this file of the Python package"
            )));
        }
        let mut json = vec![0; json_len as usize];
        source.read_exact_at(PREFIX_LEN, &mut json)?;
        let header: HeaderJson = serde_json::from_slice(&json).map_err(|e| {
            Error::damaged(format!("the header is not what the package writes: {e}"))
        })?;
        let data = PREFIX_LEN + json_len;
        let tensors = tensors_of(&header, data, source.len())?;
        Ok(Self {
            source,
            path: path.to_owned(),
            tensors,
            metadata: header.safetensors_metadata.unwrap_or_default(),
            base: None,
            dense: Mutex::default(),
        })
    }

    /// Whether tensors are stored as differences from a base.
    pub fn needs_base(&self) -> bool {
        let is_delta = |tensor: &Tensor| {
            matches!(
                &tensor.stored,
                Stored::Blob {
                    codec: Codec::Xor,
                    ..
                }
            )
        };
        self.tensors.iter().any(is_delta)
    }

    /// The same with its base.
    #[must_use]
    pub fn with_base(mut self, base: Arc<dyn BaseTensors>) -> Self {
        self.base = Some(base);
        self
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bytes of a tensor, which have its md5.
    pub fn decode(&self, number: usize) -> Result<Vec<u8>> {
        let tensor = self.tensor(number)?;
        let bytes = self.decode_unproved(number)?;
        let mut md5 = Md5::default();
        md5.update(&bytes);
        tensor
            .check(md5.finish())
            .map(|()| bytes)
            .map_err(|e| e.tensor(&tensor.name).file(&self.path))
    }

    /// The bytes of a tensor, whose md5 somebody else compares before they are used.
    pub fn decode_unproved(&self, number: usize) -> Result<Vec<u8>> {
        let tensor = self.tensor(number)?;
        self.decode_tensor(tensor)
            .map_err(|e| e.tensor(&tensor.name).file(&self.path))
    }

    fn tensor(&self, number: usize) -> Result<&Tensor> {
        let tensor = self.tensors.get(number);
        tensor.ok_or_else(|| Error::invalid("there is no such tensor"))
    }

    fn decode_tensor(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let (codec, offset, len) = match &tensor.stored {
            Stored::As(number) => return self.decode_unproved(*number),
            Stored::Blob { codec, offset, len } => (*codec, *offset, *len),
        };
        let base = match (codec, &self.base) {
            (Codec::Xor, Some(base)) => base.bytes(&tensor.name, tensor.len)?,
            (Codec::Xor, None) => {
                let error = Error::new(
                    crate::base::ErrorKind::MissingBase,
                    "is stored as a difference from a base",
                );
                return Err(error.hint("it needs the model that it was made from"));
            }
            _ => Vec::new(),
        };
        let mut blob = vec![0; len as usize];
        self.source.read_exact_at(offset, &mut blob)?;
        if codec == Codec::Zstd
            && tensor.len > TENSOR_LEN_FREE.max(len.saturating_mul(TENSOR_RATIO_MAX))
        {
            tensor.check(blob::md5_of_zstd(&blob, tensor.len as usize)?)?;
        }
        blob::decode(codec, &blob, tensor.len as usize, &base)
    }

    /// What the file says of each tensor's bytes.
    pub fn md5s(&self) -> BTreeMap<String, [u8; 16]> {
        let of = |tensor: &Tensor| (tensor.name.clone(), tensor.md5);
        self.tensors.iter().map(of).collect()
    }

    /// To be held while a tensor is decoded and used that is much larger than its coded bytes: one
    /// such at a time, for a small file may have many.
    pub fn alone_if_dense(&self, number: usize) -> Option<MutexGuard<'_, ()>> {
        let tensor = self.tensors.get(number)?;
        match tensor.stored {
            Stored::Blob { len, .. } if tensor.len <= len.saturating_mul(DENSE_RATIO) => None,
            _ => Some(self.dense.lock()),
        }
    }
}

fn tensors_of(header: &HeaderJson, data: u64, file_len: u64) -> Result<Vec<Tensor>> {
    let mut names = BTreeSet::new();
    let numbers: BTreeMap<&str, usize> = (header.tensors.iter().enumerate())
        .map(|(number, tensor)| (tensor.name.as_str(), number))
        .collect();
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for json in &header.tensors {
        let tensor = tensor_of(json, &numbers, data, file_len);
        let tensor = tensor.map_err(|e| e.tensor(&json.name))?;
        if !names.insert(&json.name) {
            return Err(Error::damaged("two tensors of one name").tensor(&json.name));
        }
        tensors.push(tensor);
    }
    // what repeats another has its md5, dtype and shape, and that one repeats none
    for tensor in &tensors {
        if let Stored::As(number) = tensor.stored {
            let is_it = |of: &&Tensor| {
                let alike =
                    (&of.md5, of.dtype, &of.shape) == (&tensor.md5, tensor.dtype, &tensor.shape);
                alike && matches!(of.stored, Stored::Blob { .. })
            };
            if !tensors.get(number).as_ref().is_some_and(is_it) {
                return Err(
                    Error::damaged("is tied to a tensor that is another").tensor(&tensor.name)
                );
            }
        }
    }
    Ok(tensors)
}

fn tensor_of(
    json: &TensorJson,
    numbers: &BTreeMap<&str, usize>,
    data: u64,
    file_len: u64,
) -> Result<Tensor> {
    let torch = json.dtype.strip_prefix("torch.").unwrap_or(&json.dtype);
    let known = DTYPES
        .iter()
        .find(|(name, own)| *name == torch || *own == torch);
    let (_, spelled) = known
        .ok_or_else(|| Error::unsupported(format!("the dtype `{torch}` of the Python package")))?;
    let len = dtype::byte_len(spelled, &json.shape)
        .ok_or_else(|| Error::damaged("a shape that no tensor has"))?;
    let md5 = json.md5.as_deref().and_then(from_hex).ok_or_else(|| {
        Error::damaged("has no md5, so that nothing could tell whether its bytes are right")
    })?;
    let tied = json.special.as_deref() == Some("tied") || json.codec == "tied_ref";
    let stored = if tied {
        let of = json
            .extra
            .as_ref()
            .and_then(|extra| extra.get("tied_to")?.as_str());
        let of = of.and_then(|name| numbers.get(name));
        Stored::As(
            *of.ok_or_else(|| Error::damaged("is tied to a tensor that is not in this file"))?,
        )
    } else {
        let codec = Codec::named(&json.codec, json.special.as_deref());
        let codec = codec.ok_or_else(|| {
            let special = json.special.as_deref().unwrap_or_default();
            let error = Error::unsupported(format!(
                "the codec `{} {special}` of the Python package is not supported",
                json.codec
            ));
            error.hint("restore the file with that package, and compress what comes out")
        })?;
        let offset = data.checked_add(json.offset);
        let end = offset.and_then(|offset| offset.checked_add(json.compressed_bytes));
        let (Some(offset), Some(_)) = (offset, end.filter(|end| *end <= file_len)) else {
            return Err(Error::damaged("coded bytes that are not in the file"));
        };
        let ratio_max = if codec == Codec::Zstd {
            ZSTD_RATIO_MAX
        } else {
            TENSOR_RATIO_MAX
        };
        if len > TENSOR_LEN_FREE.max(json.compressed_bytes.saturating_mul(ratio_max)) {
            let coded = json.compressed_bytes;
            let what = format!("{len} bytes are claimed to be in {coded}: more than this reads");
            return Err(Error::over_limit(what));
        }
        Stored::Blob {
            codec,
            offset,
            len: json.compressed_bytes,
        }
    };
    Ok(Tensor {
        name: json.name.clone(),
        dtype: spelled,
        shape: json.shape.clone(),
        len,
        md5,
        stored,
    })
}
