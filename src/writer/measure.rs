//! How long an image would be: coded as it would be, in all or in parts that stand for the rest,
//! and written nowhere.

use crate::base::Progress;
use crate::base::Result;
use crate::codec::Profile;
use crate::format::HEADER_LEN;
use crate::format::Header;
use crate::format::Index;
use crate::writer::Source;
use crate::writer::WriteOptions;
use crate::writer::against::Plan;
use crate::writer::coding;
use crate::writer::coding::Job;
use crate::writer::coding::Owners;
use crate::writer::coding::Task;
use crate::writer::data::DataWriter;
use crate::writer::image;
use crate::writer::journal::Known;
use crate::writer::small;
use crate::writer::twins;

/// For each span the first earlier one that it most likely repeats.
pub fn likely_repeats(source: &Source, progress: &dyn Progress) -> Result<Vec<Option<usize>>> {
    twins::find_likely(source, progress)
}

/// The index of an image of `source` before anything is coded.
pub fn outline(source: &Source, repeats: &[Option<usize>], profile: Profile) -> Result<Index> {
    let bases = vec![None; source.layout.spans.len()];
    image::blank_index(std::slice::from_ref(source), repeats, &bases, profile)
}

/// The index of an image of `source` once all is coded. The spans have parts of others, of `lens`,
/// and are coded as these would be.
pub fn coded(
    source: &Source,
    lens: &[u64],
    profile: Profile,
    progress: &dyn Progress,
) -> Result<Index> {
    let options = WriteOptions {
        profile,
        threads: 1,
        base_place: String::new(),
        members: Vec::new(),
    };
    let mut index = outline(source, &vec![None; lens.len()], profile)?;
    let bases = vec![None; lens.len()];
    let tasks = image::tasks(std::slice::from_ref(source), &bases, &index);
    let job = Job {
        options: &options,
        known: &Known::default(),
        progress,
    };
    let mut data = DataWriter::nowhere();
    let (plan, mut owners) = (Plan::default(), Owners::default());
    let is_small = |task: &Task<'_>| lens[task.number] <= coding::SMALL_SPAN_LEN;
    let mut rest = tasks.as_slice();
    while let Some(first) = rest.first() {
        let small = rest.iter().take_while(|task| is_small(task)).count();
        let (now, later) = rest.split_at(small.max(1));
        if small > 0 {
            small::code(now, &plan, &mut owners, &job, &mut data, &mut index)?;
        } else {
            coding::code_large(*first, &job, &mut data, &mut index)?;
        }
        rest = later;
    }
    Ok(index)
}

/// The length of the image of this index.
pub fn image_len(index: &mut Index) -> Result<u64> {
    let index_len = index.encode().len() as u64;
    index.assign_offsets(Header::data_offset(index_len))?;
    Ok(index.tail_offset() + index_len + HEADER_LEN as u64)
}
