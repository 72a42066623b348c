//! The list of a model's shards, as transformers and diffusers write it: which file has which
//! tensor.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use serde_json::Value;

use crate::archive::ShardIndex;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Result;
use crate::base::atomic;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;

/// The list.
#[derive(Debug, Clone)]
pub(super) struct List {
    /// Its name.
    path: PathBuf,
    /// What the names of the shards begin with.
    pub(super) stem: String,
    value: Value,
    mode: u32,
}

impl List {
    /// Of a model that has none yet.
    pub(super) fn new(stem: &str, like: Option<&Stamp>) -> Self {
        Self {
            path: ShardIndex::name_for(stem).into(),
            stem: stem.to_owned(),
            value: serde_json::json!({"metadata": {}}),
            mode: like.map_or_else(atomic::mode_of_new_file, |stamp| stamp.mode),
        }
    }

    /// Reads one.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let bytes = ShardIndex::bytes(&FileSource::open(path)?).map_err(|e| e.file(path))?;
        let value = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(format!("is no list of shards: {e}")).file(path))?;
        Ok(Self {
            path: path.file_name().unwrap_or_default().into(),
            stem: ShardIndex::stem_of(path).unwrap_or_default(),
            value,
            mode: Stamp::of(path)?.mode,
        })
    }

    /// The files that it names.
    pub(super) fn files(&self) -> impl Iterator<Item = &str> {
        let map = self.value.get("weight_map").and_then(Value::as_object);
        map.into_iter()
            .flat_map(|map| map.values())
            .filter_map(Value::as_str)
    }

    /// The file that it names for a tensor.
    pub(super) fn file_of(&self, tensor: &str) -> Option<&str> {
        self.value.get("weight_map")?.get(tensor)?.as_str()
    }

    /// Writes it anew, with what it said besides.
    pub(super) fn write(
        mut self,
        map: &BTreeMap<&str, String>,
        total_bytes: u64,
        output: &OutputFolder,
    ) -> Result<()> {
        let to = output.path(&self.path);
        let failed =
            |e| Error::invalid(format!("the list of shards cannot be written: {e}")).file(&to);
        if !self.value.is_object() || !self.value["metadata"].is_object() {
            self.value = serde_json::json!({"metadata": {}});
        }
        self.value["metadata"]["total_size"] = total_bytes.into();
        self.value["weight_map"] = serde_json::to_value(map).map_err(failed)?;
        let mut text = serde_json::to_string_pretty(&self.value).map_err(failed)?;
        text.push('\n');
        let mut file = OutputFile::create(&to, false)?;
        file.write(text.as_bytes())?;
        file.commit(None, Some(self.mode))
    }
}
