//! Info: what an image holds and how it is coded, from its index alone.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::Availability;
use crate::archive::Bases;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::hex;
use crate::base::progress::Skipped;
use crate::base::units;
use crate::format::ImageKind;
use crate::format::Member;
use crate::format::MemberKind;
use crate::format::SpanRecord;
use crate::ops::base::SearchPaths;
use crate::ops::folder;
use crate::ops::report;
use crate::ops::shard_notes;
use crate::tensor::SpanKind;

/// So many bytes of what may be the base of an image are read, to see whether it is.
const BASE_BYTES_MAX: u64 = 256 << 20;

/// One span of a file.
#[derive(Debug, Clone, Serialize)]
pub struct SpanInfo {
    /// Tensor name; `(header)` or `(bytes)` for the rest.
    pub name: String,
    /// Dtype; empty unless a tensor.
    pub dtype: String,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Original bytes.
    pub original_bytes: u64,
    /// Coded bytes, tables included.
    pub coded_bytes: u64,
    /// Blocks by codec.
    pub codecs: BTreeMap<String, u64>,
    /// The earlier tensor of the same bytes, whose blocks serve both.
    pub repeats: Option<String>,
    /// The tensor of another model that it is stored as differences from.
    pub base: Option<BaseInfo>,
    /// md5 of the original bytes.
    pub md5: String,
}

/// A base tensor.
#[derive(Debug, Clone, Serialize)]
pub struct BaseInfo {
    /// Its name there.
    pub name: String,
    /// BLAKE3-256 of its bytes.
    pub blake3: String,
}

/// The model that a delta was made from.
#[derive(Debug, Clone, Serialize)]
pub struct BaseSummary {
    /// Where it was when the image was made, seen from the image; empty if that is not known.
    pub place: String,
    /// Tensors stored as differences.
    pub tensors: u64,
    /// Whether all of them are at hand: `yes`, `no`, or `not compared` where models have tensors of
    /// the same names and lengths.
    pub at_hand: &'static str,
    /// The first tensor that is not, if any.
    pub missing: Option<String>,
    /// The files in which they are or may be.
    #[serde(serialize_with = "report::paths")]
    pub files: Vec<PathBuf>,
}

/// One original file.
#[derive(Debug, Clone, Serialize)]
pub struct FileInfo {
    /// Path within the image; empty for an image of one file.
    pub path: String,
    /// `safetensors` or `bytes`.
    pub kind: &'static str,
    /// Original bytes.
    pub original_bytes: u64,
    /// sha256 of the original bytes.
    pub sha256: String,
    /// Header, tensors and other bytes, in order.
    pub spans: Vec<SpanInfo>,
}

/// Sums over the spans of one dtype.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DtypeInfo {
    /// Number of tensors.
    pub tensors: u64,
    /// Original bytes.
    pub original_bytes: u64,
    /// Coded bytes, tables included.
    pub coded_bytes: u64,
    /// Blocks by codec.
    pub codecs: BTreeMap<String, u64>,
}

/// A file, folder or link of a folder, with what was noted of it.
#[derive(Debug, Clone, Serialize)]
pub struct MemberInfo {
    /// Path within the folder; empty for the folder itself.
    pub path: String,
    /// `file`, `folder` or `link`.
    pub kind: &'static str,
    /// Where a link leads, or the first path of a file of which this is another.
    pub target: Option<String>,
    /// Permissions, in octal.
    pub mode: String,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Time of change in seconds since 1970.
    pub seconds: i64,
    /// What is left of it.
    pub nanoseconds: u32,
    /// Names of its users' extended attributes.
    pub attributes: Vec<String>,
}

/// One image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageInfo {
    /// The image.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// `file` or `folder`.
    pub kind: &'static str,
    /// What was taken off the file's name.
    pub suffix: String,
    /// Version of the format.
    pub format_version: u16,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Bytes of the originals.
    pub original_bytes: u64,
    /// The image in percent of the originals.
    pub percent: f64,
    /// Bytes of both copies of the index.
    pub index_bytes: u64,
    /// The model that it is stored as differences from.
    pub base: Option<BaseSummary>,
    /// Of a folder what it holds beside the bytes of its files, if that was noted.
    pub members: Option<Vec<MemberInfo>>,
    /// Sums for each dtype; `-` for what is no tensor.
    pub dtypes: BTreeMap<String, DtypeInfo>,
    /// The files.
    pub files: Vec<FileInfo>,
}

/// All images looked at.
#[derive(Debug, Clone, Serialize)]
pub struct InfoReport {
    /// One for each image.
    pub images: Vec<ImageInfo>,
    /// What is odd about sharded models, such as a shard that is missing.
    pub notes: Vec<String>,
}

/// Looks at an image, or at every image under a folder. Bases are looked for at `bases`, in the
/// folder, or beside the image.
pub fn info(source: &Path, bases: &[PathBuf], progress: &dyn Progress) -> Result<InfoReport> {
    let paths = folder::images_under(source, progress)?;
    if paths.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no image (`.bs`) here").file(source));
    }
    let search_paths = SearchPaths::new(bases, source).or_beside(source);
    let mut images = Vec::new();
    for path in &paths {
        let archive = match Archive::open(path) {
            Ok(archive) => archive,
            Err(error) if source.is_dir() => {
                progress.skip(Skipped::no_good(path, &error))?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut info = image_info(&archive);
        if archive.index().is_delta() {
            info.base = Some(base_summary(&archive, search_paths.open()?));
        }
        images.push(info);
    }
    let notes = shard_notes::under(source);
    Ok(InfoReport { images, notes })
}

fn base_summary(archive: &Archive, bases: &Bases) -> BaseSummary {
    let index = archive.index();
    let mut records = Vec::new();
    for span in &index.spans {
        if let Some(number) = span.base {
            let record = index.bases[number].named(&span.span.name);
            records.push((record, span.span.len));
        }
    }
    bases.look_at_some(&records, BASE_BYTES_MAX);
    let (mut least, mut tensors, mut missing) = (Availability::Present, 0, None);
    for (record, len) in &records {
        tensors += 1;
        let found = bases.availability_of(record, *len);
        if found == Availability::Missing {
            missing.get_or_insert(record.name.clone());
        }
        least = least.min(found);
    }
    let files = bases.files_of(&records).into_iter();
    let files = files.filter(|file| *file != archive.path());
    BaseSummary {
        place: index.base_path.clone(),
        tensors,
        at_hand: match least {
            Availability::Present => "yes",
            Availability::Unchecked => "not compared",
            Availability::Missing => "no",
        },
        missing,
        files: files.map(Path::to_owned).collect(),
    }
}

fn member_infos(archive: &Archive) -> Option<Vec<MemberInfo>> {
    let members = &archive.index().members;
    let info = |member: &Member| {
        let (kind, target) = match &member.kind {
            MemberKind::File { first } => ("file", first.clone()),
            MemberKind::Folder => ("folder", None),
            MemberKind::Link { target } => ("link", Some(target.clone())),
        };
        MemberInfo {
            path: member.path.clone(),
            kind,
            target,
            mode: format!("{:04o}", member.mode),
            uid: member.uid,
            gid: member.gid,
            seconds: member.modified.seconds,
            nanoseconds: member.modified.nanoseconds,
            attributes: member.attributes.keys().cloned().collect(),
        }
    };
    (!members.is_empty()).then(|| members.iter().map(info).collect())
}

fn image_info(archive: &Archive) -> ImageInfo {
    let header = archive.header();
    let mut dtypes: BTreeMap<String, DtypeInfo> = BTreeMap::new();
    let mut files = Vec::new();
    for file in archive.files() {
        let mut spans = Vec::new();
        for record in archive.spans(file) {
            let span = span_info(archive, record);
            let key = if record.span.kind == SpanKind::Tensor {
                &span.dtype
            } else {
                "-"
            };
            let sum = dtypes.entry(key.to_owned()).or_default();
            sum.tensors += u64::from(record.span.kind == SpanKind::Tensor);
            sum.original_bytes += span.original_bytes;
            sum.coded_bytes += span.coded_bytes;
            for (codec, blocks) in &span.codecs {
                *sum.codecs.entry(codec.clone()).or_default() += blocks;
            }
            spans.push(span);
        }
        files.push(FileInfo {
            path: file.path.clone(),
            kind: if file.is_safetensors {
                "safetensors"
            } else {
                "bytes"
            },
            original_bytes: file.len,
            sha256: hex(&file.sha256),
            spans,
        });
    }
    ImageInfo {
        path: archive.path().to_owned(),
        kind: if header.kind == ImageKind::Folder {
            "folder"
        } else {
            "file"
        },
        suffix: header.suffix.clone(),
        format_version: crate::format::header::VERSION,
        image_bytes: header.image_len,
        original_bytes: header.original_len,
        percent: units::percent(header.image_len, header.original_len),
        index_bytes: 2 * header.index_len,
        base: None,
        members: member_infos(archive),
        dtypes,
        files,
    }
}

/// What the index says of a span.
pub(super) fn span_info(archive: &Archive, record: &SpanRecord) -> SpanInfo {
    let mut codecs = BTreeMap::new();
    let repeated = record.repeats.map(|number| &archive.index().spans[number]);
    let mut coded_bytes = 0;
    if repeated.is_some() {
        codecs.insert("repeat".to_owned(), record.blocks.len() as u64);
    } else {
        let own_tables_len = record.tables_of.map_or(record.tables_len, |_| 0);
        coded_bytes += u64::from(own_tables_len);
        for block in &archive.index().blocks[record.blocks.clone()] {
            coded_bytes += u64::from(block.coded_len);
            *codecs.entry(block.codec.name().to_owned()).or_default() += 1;
        }
    }
    SpanInfo {
        name: record.span.label().to_owned(),
        dtype: record.span.dtype.clone(),
        shape: record.span.shape.clone(),
        original_bytes: record.span.len,
        coded_bytes,
        codecs,
        base: record.base.map(|number| {
            let base = archive.index().bases[number].named(&record.span.name);
            BaseInfo {
                name: base.name,
                blake3: hex(&base.blake3),
            }
        }),
        repeats: repeated.map(|span| span.span.label().to_owned()),
        md5: hex(&record.md5),
    }
}
