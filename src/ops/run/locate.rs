//! Which files a model is, and what lies beside them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::BlockCache;
use crate::archive::Model;
use crate::archive::Opening;
use crate::archive::ShardIndex;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::base::atomic;
use crate::exec::config::Config;
use crate::ops::base::SearchPaths;
use crate::ops::folder;

/// Decoded blocks that are kept for tables of which single rows are read.
const CACHE_LEN: u64 = 4 << 20;
/// The longest file beside a model that is read.
const COMPANION_LEN_MAX: u64 = 256 << 20;

/// A model, and the folder that its configuration and tokenizer are in.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) model: Arc<Model>,
    pub(super) folder: PathBuf,
}

impl Located {
    pub(super) fn open(path: &Path, bases: &[PathBuf]) -> Result<Self> {
        let file = if path.is_dir() {
            model_in(path)?
        } else {
            path.to_owned()
        };
        let paths = SearchPaths::new(bases, path).or_beside(&file);
        let opening = Opening {
            cache: BlockCache::new(CACHE_LEN),
            resolver: Some(Arc::new(paths)),
            ..Opening::default()
        };
        let model = Model::open_with(&file, opening)?;
        let folder = if path.is_dir() {
            path
        } else {
            atomic::folder_of(path)
        };
        Ok(Self {
            model: Arc::new(model),
            folder: folder.to_owned(),
        })
    }

    /// `config.json`.
    pub(super) fn config(&self) -> Result<Config> {
        let path = self.folder.join("config.json");
        Config::parse(&read(&path)?, &path)
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let len = fs::metadata(path)
        .map_err(|e| Error::io("cannot open", path, e))?
        .len();
    if len > COMPANION_LEN_MAX {
        return Err(Error::over_limit("a file this large is not read").file(path));
    }
    fs::read(path).map_err(|e| Error::io("cannot read", path, e))
}

/// The model of a folder: `model.safetensors` or its index, plain or as an image; else the only
/// candidate.
fn model_in(folder: &Path) -> Result<PathBuf> {
    const USUAL: [&str; 3] = [
        "model.safetensors",
        "model.safetensors.index.json",
        "model.safetensors.bs",
    ];
    let usual = USUAL.iter().map(|name| folder.join(name));
    if let Some(found) = usual.into_iter().find(|path| path.is_file()) {
        return Ok(found);
    }
    let entries = fs::read_dir(folder).map_err(|e| Error::io("cannot list", folder, e))?;
    let mut candidates = Vec::new();
    for entry in entries {
        let path = entry
            .map_err(|e| Error::io("cannot list", folder, e))?
            .path();
        let is_index = ShardIndex::stem_of(&path).is_some();
        if path.is_file() && (is_index || folder::is_image(&path) || folder::is_model(&path)) {
            candidates.push(path);
        }
    }
    candidates.sort();
    let indexes = candidates
        .iter()
        .filter(|path| ShardIndex::stem_of(path).is_some());
    let indexes: Vec<&PathBuf> = indexes.collect();
    if let [index] = indexes.as_slice() {
        return Ok((*index).clone());
    }
    match candidates.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let what = "no model here: no .safetensors, no .bs and no index of shards";
            Err(Error::new(ErrorKind::NotFound, what).file(folder))
        }
        several => {
            let names = several.iter().filter_map(|path| path.file_name());
            let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
            let what = format!("several models are here: {}", names.join(", "));
            Err(Error::invalid(what).file(folder).hint("name one of them"))
        }
    }
}
