//! Which files a model is, and what lies beside them.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::BlockCache;
use crate::archive::ImageKind;
use crate::archive::Model;
use crate::archive::ModelFile;
use crate::archive::Opening;
use crate::archive::OriginalFile;
use crate::archive::ShardIndex;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::base::atomic;
use crate::exec::config::Config;
use crate::ops::base::SearchPaths;
use crate::ops::folder;
use crate::text::ModelFolder;

/// Decoded blocks that are kept for tables of which single rows are read.
const CACHE_LEN: u64 = 4 << 20;
/// The longest configuration.
const CONFIG_LEN_MAX: u64 = 16 << 20;

/// A model, and what lies beside it.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) model: Arc<Model>,
    pub(super) companions: Companions,
}

/// Where the configuration and the tokenizer of a model are.
#[derive(Debug)]
pub(super) enum Companions {
    /// In the folder of the model.
    Folder(PathBuf),
    /// In its image, which is one of a whole folder.
    Image {
        path: PathBuf,
        files: Vec<OriginalFile>,
    },
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
        Ok(Self {
            companions: Companions::of(&file, &opening)?,
            model: Arc::new(Model::open_with(&file, opening)?),
        })
    }

    /// `config.json`.
    pub(super) fn config(&self) -> Result<Config> {
        const NAME: &str = "config.json";
        let path = self.companions.path_of(NAME);
        let bytes = self.companions.read(NAME, CONFIG_LEN_MAX)?;
        let bytes = bytes.ok_or_else(|| {
            let what = "not there, and without it nobody knows what the model computes";
            Error::new(ErrorKind::NotFound, what).file(&path)
        })?;
        Config::parse(&bytes, &path)
    }
}

impl Companions {
    fn of(model: &Path, opening: &Opening) -> Result<Self> {
        if folder::is_image(model) {
            let file = ModelFile::open(model, opening)?;
            let kind = file.archive().map(|archive| archive.header().kind);
            if kind == Some(ImageKind::Folder) {
                return Ok(Self::Image {
                    path: model.to_owned(),
                    files: file.originals().to_vec(),
                });
            }
        }
        Ok(Self::Folder(atomic::folder_of(model).to_owned()))
    }
}

impl ModelFolder for Companions {
    fn read(&self, name: &str, len_max: u64) -> Result<Option<Vec<u8>>> {
        let files = match self {
            Self::Folder(folder) => return folder.as_path().read(name, len_max),
            Self::Image { files, .. } => files,
        };
        let Some(file) = files.iter().find(|file| file.path == name) else {
            return Ok(None);
        };
        let len = file.bytes.len();
        if len > len_max {
            let what = format!("longer than {len_max} bytes, which no such file needs");
            return Err(Error::over_limit(what).file(&self.path_of(name)));
        }
        let mut bytes = vec![0; len as usize];
        file.bytes.read_exact_at(0, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn path_of(&self, name: &str) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join(name),
            Self::Image { path, .. } => path.join(name),
        }
    }
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
