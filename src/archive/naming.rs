//! Names: which file an image stands for, and which image a file becomes (docs/format.md, section
//! 3).

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;

use crate::format::Header;
use crate::format::ImageKind;

/// What every image's name ends with.
pub const IMAGE_EXTENSION: &str = ".bs";
/// What the names of most models end with; it is taken off when one becomes an image.
pub const MODEL_EXTENSION: &str = ".safetensors";
/// The short form, which other files have, too: the content decides.
pub const SHORT_MODEL_EXTENSION: &str = ".sft";

/// What the parity of a file has behind that file's name.
pub const PARITY_EXTENSION: &str = crate::parity::EXTENSION;

/// Whether a file of this name may be an image.
pub fn is_image_name(name: &OsStr) -> bool {
    stem(name).is_some()
}

/// Whether a file of this name is a model, or may be one.
pub fn is_model_name(name: &OsStr) -> bool {
    model_extension(name).is_some()
}

/// Whether the content of a file of this name may make it a model: the blobs of the Hugging Face
/// cache have no extension.
pub fn has_no_extension(name: &OsStr) -> bool {
    !name.as_bytes().contains(&b'.')
}

/// What makes the name one of a model, in the letters that it has there.
pub fn model_extension(name: &OsStr) -> Option<&str> {
    let of = |extension: &str| {
        let at = name.len().checked_sub(extension.len())?;
        let end = std::str::from_utf8(name.as_bytes().get(at..)?).ok()?;
        end.eq_ignore_ascii_case(extension).then_some(end)
    };
    of(MODEL_EXTENSION).or_else(|| of(SHORT_MODEL_EXTENSION))
}

fn stem(name: &OsStr) -> Option<&[u8]> {
    name.as_bytes()
        .strip_suffix(IMAGE_EXTENSION.as_bytes())
        .filter(|stem| !stem.is_empty())
}

/// The name of the file or folder that the image `name` stands for; `None` if it is no image's
/// name, or would stand for `.` or `..`.
pub fn original_name(name: &OsStr, header: &Header) -> Option<OsString> {
    let stem = stem(name)?;
    let mut original = stem.to_vec();
    if header.kind == ImageKind::File && !stem.ends_with(header.suffix.as_bytes()) {
        original.extend_from_slice(header.suffix.as_bytes());
    }
    // `..bs` and `...bs` would stand for the folder itself and for the one above
    let leads_elsewhere = matches!(original.as_slice(), b"." | b"..");
    (!leads_elsewhere).then(|| OsString::from_vec(original))
}

/// The name of the image of file `name`, and the suffix that it records.
pub fn image_name(name: &OsStr) -> (OsString, &str) {
    let suffix = model_extension(name).filter(|suffix| suffix.len() < name.len());
    let suffix = suffix.unwrap_or_default();
    let stem = &name.as_bytes()[..name.len() - suffix.len()];
    let image = [stem, IMAGE_EXTENSION.as_bytes()].concat();
    (OsString::from_vec(image), suffix)
}

/// A second name for that image, for where the first is taken: the whole name stays in it, and it
/// stands for the same file.
pub fn long_image_name(name: &OsStr) -> OsString {
    let mut long = name.to_owned();
    long.push(IMAGE_EXTENSION);
    long
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(suffix: &str, kind: ImageKind) -> Header {
        Header {
            kind,
            suffix: suffix.into(),
            required_features: 0,
            image_len: 0,
            original_len: 0,
            index_len: 0,
            tail_index_offset: 0,
            index_checksum: 0,
            file_count: 1,
        }
    }

    #[test]
    fn names_go_there_and_back() {
        for name in [
            "model.safetensors",
            "a.b.safetensors",
            "0123abcd",
            "m.gguf",
            ".safetensors",
            "a.sft",
            "a.sft.safetensors",
            "a.SAFETENSORS",
            "a.SafeTensors",
            "a.safetensors.SFT",
            ".SFT",
        ] {
            let name = OsStr::new(name);
            let (image, suffix) = image_name(name);
            assert!(Header::suffix_is_valid(suffix));
            for image in [image, long_image_name(name)] {
                let back = original_name(&image, &header(suffix, ImageKind::File));
                assert_eq!(back.as_deref(), Some(name));
            }
        }
        assert_eq!(image_name(OsStr::new("a.SFT")).0, "a.bs");
        assert!(!is_model_name(OsStr::new("soft")));
        let whole = header(".safetensors", ImageKind::File);
        for image in ["x.bs", "x.safetensors.bs"] {
            let original = original_name(OsStr::new(image), &whole).unwrap();
            assert_eq!(original, "x.safetensors");
        }
        let folder = header("", ImageKind::Folder);
        assert_eq!(original_name(OsStr::new("m.bs"), &folder).unwrap(), "m");
        for image in [".bs", "..bs", "...bs"] {
            assert_eq!(original_name(OsStr::new(image), &folder), None);
        }
    }
}
