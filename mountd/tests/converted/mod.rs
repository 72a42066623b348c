//! What the tests of mounts over their own source share: a folder of models, converted, with the
//! mount over it.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;

use bigsmall::base::in_use::FinishedCheck;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::ConvertOptions;
use bigsmall::ops::ConvertReport;
use bigsmall::ops::convert;
use bigsmall::ops::plan_convert;

use crate::models::model;
use crate::models::put;

/// Models that were just written are as good as others.
pub(crate) const AT_ONCE: FinishedCheck = FinishedCheck {
    min_age: Duration::ZERO,
    sparse: false,
};

pub(crate) fn mountd(words: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_bigsmall-mountd");
    Command::new(program).args(words).output().unwrap()
}

/// Converts all models in a folder, however young.
pub(crate) fn convert_all(root: &Path) -> ConvertReport {
    let plan = plan_convert(root, &AT_ONCE, &Silent).unwrap();
    let options = ConvertOptions {
        profile: Profile::Balanced,
        keep: None,
        threads: 2,
    };
    convert(&plan, &options, &Silent).unwrap()
}

/// A folder of models, converted, with the mount over it.
pub(crate) struct Setup {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) models: Vec<(PathBuf, Vec<u8>)>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("models");
        let mut models = Vec::new();
        for (number, path) in ["a.safetensors", "deep/b.safetensors", "blobs/0af3"]
            .iter()
            .enumerate()
        {
            let (path, bytes) = (root.join(path), model(200_000, 7 + number as u64));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            put(&path, &bytes);
            models.push((path, bytes));
        }
        std::os::unix::fs::symlink("../blobs/0af3", root.join("deep/link.safetensors")).unwrap();
        put(&root.join("config.json"), b"{}");
        let report = convert_all(&root);
        assert_eq!(report.converted, 3, "{report:?}");
        assert!(models.iter().all(|(path, _)| !path.exists()));
        let setup = Self { folder, models };
        setup.mount();
        setup
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    pub(crate) fn mount(&self) {
        self.run("mount", &[]);
    }

    pub(crate) fn unmount(&self) {
        self.run("unmount", &[]);
    }

    /// Says `word` to the daemon, of the folder, and more words.
    pub(crate) fn run(&self, word: &str, words: &[&str]) {
        let root = self.root();
        let output = mountd(&[&[word, root.to_str().unwrap()], words].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{word}: {said}");
    }

    pub(crate) fn models_are_whole(&self) {
        for (path, bytes) in &self.models {
            assert!(fs::read(path).unwrap() == *bytes, "{}", path.display());
        }
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        let _ = mountd(&["unmount", "--lazy", self.root().to_str().unwrap()]);
    }
}
