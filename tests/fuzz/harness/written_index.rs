//! An index that is written reads as the same index.

use bigsmall::format::Header;
use bigsmall::format::ImageKind;
use bigsmall::format::Index;

pub(crate) fn comes_back(index: &Index, kind: ImageKind) {
    let mut index = index.clone();
    let index_len = index.encode().len() as u64;
    index
        .assign_offsets(Header::data_offset(index_len))
        .expect("the blocks had a place before");
    let header = Header {
        kind,
        suffix: String::new(),
        required_features: index.required_features(),
        image_len: index.tail_offset() + index_len + 128,
        original_len: index.files.iter().map(|file| file.len).sum(),
        index_len,
        tail_index_offset: index.tail_offset(),
        index_checksum: 0,
        file_count: index.files.len() as u32,
    };
    let again = Index::parse(&index.encode(), &header).expect("a written index is well formed");
    assert!(again == index, "the written index says something else");
}
