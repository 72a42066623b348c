//! The original files of a model.

use std::sync::Arc;

use crate::archive::model::Model;
use crate::base::ReadAt;

impl Model {
    /// The original files: the name of each where it was restored, if that is known, and its
    /// bytes.
    pub fn originals(&self) -> impl Iterator<Item = (String, &Arc<dyn ReadAt>)> {
        self.files.iter().flat_map(|file| {
            file.originals.iter().enumerate().map(|(number, source)| {
                let location = file.locations.get(&number).and_then(|all| all.first());
                let name = location.map(|location| location.name.to_string_lossy().into_owned());
                let own = || file.path.file_name().unwrap_or_default().to_string_lossy();
                (name.unwrap_or_else(|| own().into_owned()), &source.bytes)
            })
        })
    }

    /// Whether all that is read of it is checked against checksums: all of it is in images.
    pub fn is_checked(&self) -> bool {
        let mut originals = self.files.iter().flat_map(|file| &file.originals);
        originals.all(|source| source.in_image.is_some())
    }
}
