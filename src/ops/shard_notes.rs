//! What is odd about the sharded models under a path, in words: an index that names a missing
//! shard, a tensor in two of the files.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::Model;
use crate::archive::ShardIndex;
use crate::archive::ShardNote;
use crate::archive::shards;
use crate::base::progress::Silent;
use crate::ops::folder;

/// Of a folder and those below it, of an image of a folder, or of an index of shards. What cannot
/// be read is for others to tell.
pub(crate) fn under(source: &Path) -> Vec<String> {
    let notes = if source.is_dir() {
        let entries = folder::walk(source, &Silent).unwrap_or_default();
        let indexes = entries.iter().map(|entry| source.join(&entry.path));
        return beside(indexes);
    } else if folder::is_image(source) {
        let archive = Archive::open(source).map(Arc::new);
        archive.map_or_else(|_| Vec::new(), |archive| shards::notes_of_image(&archive))
    } else {
        return beside(std::iter::once(source.to_owned()));
    };
    words(&notes)
}

/// Of the folders in which those of these files are that are indexes of shards.
pub(crate) fn beside(files: impl Iterator<Item = PathBuf>) -> Vec<String> {
    let indexes = files.filter(|path| ShardIndex::stem_of(path).is_some());
    let folders: BTreeSet<PathBuf> = indexes
        .map(|path| crate::base::atomic::folder_of(&path).to_owned())
        .collect();
    let notes = folders
        .iter()
        .filter_map(|folder| shards::notes_in(folder).ok());
    words(&notes.flatten().collect::<Vec<_>>())
}

/// Of models that were opened, each once.
pub(super) fn of_models<const N: usize>(models: [(&Path, &Model); N]) -> Vec<String> {
    let mut notes: Vec<String> = Vec::new();
    for (path, model) in models {
        for note in under(path).into_iter().chain(words(model.shard_notes())) {
            if !notes.contains(&note) {
                notes.push(note);
            }
        }
    }
    notes
}

fn words(notes: &[ShardNote]) -> Vec<String> {
    notes.iter().map(ShardNote::to_string).collect()
}
