//! Safetensors headers from any bytes: judged as the safetensors library judges them, but for bytes
//! after the last tensor, which are a span of their own here; a layout covers its file in order and
//! without holes, and fits into an index.

use bigsmall::base::ErrorKind;
use bigsmall::base::digest;
use bigsmall::format::FileRecord;
use bigsmall::format::ImageKind;
use bigsmall::format::Index;
use bigsmall::format::SpanRecord;
use bigsmall::tensor::Layout;
use bigsmall::tensor::SpanKind;
use bigsmall::tensor::dtype;
use safetensors::SafeTensorError;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;

use super::written_index;

/// Bytes of tensors that a mended file may have.
const DATA_LEN_MAX: usize = 1 << 20;

pub(crate) fn run(data: &[u8]) {
    judge(data);
    if let Some(file) = mended(data) {
        judge(&file);
    }
}

/// The bytes as JSON, their length before them and as many zeros behind them as the tensors ask
/// for.
fn mended(json: &[u8]) -> Option<Vec<u8>> {
    let metadata: Metadata = serde_json::from_slice(json).ok()?;
    let data_len = metadata.data_len();
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json);
    file.resize(file.len() + data_len.min(DATA_LEN_MAX), 0);
    Some(file)
}

fn judge(file: &[u8]) {
    let ours = Layout::of_safetensors(&file.to_vec());
    let trailing = ours.as_ref().map_or(0, Layout::trailing) as usize;
    let (tensors, rest) = file.split_at(file.len() - trailing);
    if !rest.is_empty() {
        let theirs = SafeTensors::read_metadata(file).err();
        assert!(
            matches!(theirs, Some(SafeTensorError::MetadataIncompleteBuffer)),
            "{theirs:?}"
        );
    }
    match (ours, SafeTensors::read_metadata(tensors)) {
        (Ok(layout), Ok((json_len, metadata))) => {
            covers(&layout, file.len() as u64, json_len as u64 + 8, &metadata);
            fits_an_index(&layout, file);
        }
        (Err(ours), Err(_)) => assert_eq!(ours.kind(), ErrorKind::Invalid),
        (Err(ours), Ok(_)) => panic!("refused alone: {ours}"),
        (Ok(_), Err(theirs)) => panic!("accepted alone: {theirs}"),
    }
}

fn covers(layout: &Layout, len: u64, header_len: u64, metadata: &Metadata) {
    assert_eq!(layout.len, len);
    let (header, mut tensors) = layout.spans.split_first().expect("a span of the header");
    assert_eq!((header.kind, header.len), (SpanKind::Header, header_len));
    let mut end = 0;
    for span in &layout.spans {
        assert_eq!(span.start, end, "a hole or an overlap before {span:?}");
        end += span.len;
    }
    assert_eq!(end, len);
    if layout.trailing() > 0 {
        tensors = &tensors[..tensors.len() - 1];
        assert!(!tensors.is_empty(), "bytes after no tensor are no model");
    }
    assert_eq!(tensors.len(), metadata.tensors().len());
    for span in tensors {
        assert_eq!(span.kind, SpanKind::Tensor);
        assert_eq!(dtype::byte_len(&span.dtype, &span.shape), Some(span.len));
        let info = metadata.info(&span.name).expect("the library knows it");
        let (start, end) = info.data_offsets;
        let theirs = (start as u64 + header_len, end as u64 + header_len);
        assert_eq!((span.start, span.start + span.len), theirs);
    }
}

fn fits_an_index(layout: &Layout, file: &[u8]) {
    let spans: Vec<SpanRecord> = layout
        .spans
        .iter()
        .map(|span| SpanRecord::new(span.clone(), 17))
        .collect();
    let record = FileRecord {
        path: String::new(),
        is_safetensors: layout.is_safetensors,
        len: layout.len,
        spans: 0..spans.len(),
        sha256: [digest::xxh3(file) as u8; 32],
    };
    let index = Index::blank(vec![record], spans, Vec::new()).expect("a small file has few blocks");
    written_index::comes_back(&index, ImageKind::File);
}
