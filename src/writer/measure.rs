//! How long an image would be: coded as it would be, in all or in parts that stand for the rest,
//! and written nowhere.

use crate::base::Progress;
use crate::base::Result;
use crate::codec::Profile;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::Index;
use crate::writer::data::DataWriter;
use crate::writer::dedup;
use crate::writer::delta::Plan;
use crate::writer::image_writer::ImageWriter;
use crate::writer::outline;
use crate::writer::source::Source;
use crate::writer::task::ImageJob;
use crate::writer::task::Task;

/// For each span the first earlier one that it most likely repeats.
pub(crate) fn likely_repeats(
    source: &Source,
    progress: &dyn Progress,
) -> Result<Vec<Option<usize>>> {
    dedup::find_likely(source, progress)
}

/// The index of an image of `source` before anything is coded.
pub(crate) fn outline(
    source: &Source,
    repeats: &[Option<usize>],
    profile: Profile,
) -> Result<Index> {
    let bases = vec![None; source.layout.spans.len()];
    outline::blank_index(std::slice::from_ref(source), repeats, &bases, profile)
}

/// The index of an image of `source` once all is coded. The spans have parts of others, of `lens`,
/// and are coded as these would be.
pub(crate) fn coded(
    source: &Source,
    lens: &[u64],
    profile: Profile,
    progress: &dyn Progress,
) -> Result<Index> {
    let job = ImageJob::new(profile, 1, progress);
    let index = outline(source, &vec![None; lens.len()], profile)?;
    let bases = vec![None; lens.len()];
    let tasks = Task::of_sources(std::slice::from_ref(source), &bases, &index);
    let mut writer = ImageWriter::new(index, 0, DataWriter::nowhere(), &job);
    writer.code_window(&tasks, &Plan::default(), |task| lens[task.number])?;
    Ok(writer.into_index())
}

/// The length of the image of this index.
pub(crate) fn image_len(index: &mut Index) -> Result<u64> {
    let index_len = index.encode().len() as u64;
    index.assign_offsets(Header::data_offset(index_len))?;
    Ok(index.tail_offset() + index_len + HEADER_LEN as u64)
}
