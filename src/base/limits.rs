//! Ceilings for what a file may claim, so that a hostile one costs an error and not the memory.

/// What readers refuse to go beyond; the values are those of docs/format.md, section 10.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one copy of the index, and of one of its sections after zstd.
    pub index_len_max: u64,
    /// Bytes after zstd of a section that is stored as a zstd frame: a small file cannot claim much
    /// memory.
    pub shrunk_section_len_max: u64,
    /// Bytes of a safetensors header; the safetensors library has the same limit.
    pub safetensors_header_len_max: u64,
    /// Original files in one image.
    pub file_count_max: u32,
    /// Files, folders and links in one image of a folder.
    pub member_count_max: u32,
    /// Bytes of the tables of one span.
    pub tables_len_max: u32,
}

impl Limits {
    /// The limits of format version 1.
    pub const FORMAT_1: Self = Self {
        index_len_max: 256 << 20,
        shrunk_section_len_max: 64 << 20,
        safetensors_header_len_max: 100_000_000,
        file_count_max: 1_000_000,
        member_count_max: 1_000_000,
        tables_len_max: 256 << 10,
    };
    /// How many coded bytes a block may have beyond its original bytes.
    pub const CODED_EXTRA_MAX: u32 = 1024;
}

impl Default for Limits {
    fn default() -> Self {
        Self::FORMAT_1
    }
}
