//! Deltas of deltas: to a depth, never in a circle, and each readable wherever its bases lie.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::Availability;
use bigsmall::archive::Bases;
use bigsmall::archive::DigestIndex;
use bigsmall::base::ErrorKind;
use bigsmall::base::Result;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::Output;
use bigsmall::ops::VerifyOptions;
use bigsmall::ops::compress;
use bigsmall::ops::decompress;
use bigsmall::ops::verify;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::options;
use crate::roundtrip::put;

const COUNT: usize = 60_000;

/// Steps of a training run, each a little way from the one before.
pub(crate) struct Run {
    folder: tempfile::TempDir,
    pub(crate) steps: Vec<Vec<u8>>,
}

impl Run {
    pub(crate) fn new(count: usize) -> Self {
        Self::of_seed(count, 5)
    }

    pub(crate) fn of_seed(count: usize, seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut weights: Vec<f32> = (0..COUNT).map(|_| random.gauss() * 0.02).collect();
        let mut steps = Vec::new();
        let folder = tempfile::tempdir().unwrap();
        // with nothing beside it
        fs::create_dir(folder.path().join("run")).unwrap();
        for step in 0..count {
            let half = |v: &f32| ((v.to_bits() + 0x8000) >> 16) as u16;
            let data: Vec<u8> = weights
                .iter()
                .map(half)
                .flat_map(u16::to_le_bytes)
                .collect();
            let tensors = tensors(&data);
            steps.push(models::file(&tensors, 0, ""));
            put(
                &folder.path().join(format!("run/{step}.safetensors")),
                &steps[step],
            );
            for weight in &mut weights {
                *weight += random.gauss() * 0.0002;
            }
        }
        Self { folder, steps }
    }

    /// A step in two files.
    pub(crate) fn shards(&self, step: usize) -> [Vec<u8>; 2] {
        let len = self.steps[step].len();
        let data = &self.steps[step][len - 2 * COUNT..];
        tensors(data).map(|tensor| models::file(&[tensor], 0, ""))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    pub(crate) fn compress(&self, step: usize, base: &str) -> Result<()> {
        let options = CompressOptions {
            base: Some(Arc::new(Bases::open(&self.at(base), None)?)),
            ..options(&self.at(&format!("{step}.bs")), Profile::Balanced, 2)
        };
        compress(&self.at(&format!("{step}.safetensors")), &options, &Silent)?;
        Ok(())
    }

    fn restore(&self, step: usize, base: &str) -> Result<Vec<u8>> {
        let output = self.at("restored");
        let options = DecompressOptions {
            output: Output::Path(output.clone()),
            bases: vec![self.at(base)],
            force: true,
            threads: 2,
        };
        decompress(&self.at(&format!("{step}.bs")), &options, &Silent)?;
        Ok(fs::read(output).unwrap())
    }

    pub(crate) fn remove(&self, step: usize) {
        fs::remove_file(self.at(&format!("{step}.safetensors"))).unwrap();
    }
}

fn tensors(data: &[u8]) -> [Tensor; 2] {
    let tensor = |name: &str, data: &[u8]| Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: vec![data.len() as u64 / 2],
        data: data.to_vec(),
    };
    let (a, b) = data.split_at(COUNT);
    [tensor("a", a), tensor("b", b)]
}

#[test]
fn four_deltas_may_stand_on_one_another_and_no_fifth() {
    let run = Run::new(6);
    run.compress(1, "0.safetensors").unwrap();
    for step in 2..=4 {
        run.remove(step - 1);
        run.compress(step, &format!("{}.bs", step - 1)).unwrap();
    }
    run.remove(4);
    let error = run.compress(5, "4.bs").unwrap_err();
    assert!(error.to_string().contains("more than 4"), "{error}");
    // in a folder, and beside the one that was named
    for base in [".", "3.bs"] {
        assert!(run.restore(4, base).unwrap() == run.steps[4], "{base}");
    }
    assert!(run.restore(2, ".").unwrap() == run.steps[2]);
    let index = Archive::open(&run.at("4.bs")).unwrap();
    assert_eq!(index.index().base_path, "3.bs");
    let report = verify(&run.path(), &VerifyOptions::whole(&[], 2), &Silent).unwrap();
    assert!(report.ok && report.images.len() == 4);
    // one link less, and all that stands on it cannot be read
    fs::remove_file(run.at("2.bs")).unwrap();
    let report = verify(&run.path(), &VerifyOptions::whole(&[], 2), &Silent).unwrap();
    let fine: Vec<bool> = report.images.iter().map(|image| image.ok).collect();
    assert_eq!(fine, [true, false, false]);
    let missing = report.images[1].missing_base.as_deref();
    assert!(
        missing.is_some_and(|why| why.contains("BLAKE3")),
        "{report:?}"
    );
}

#[test]
fn what_would_be_its_own_base_is_an_error_and_no_endless_search() {
    let run = Run::new(3);
    run.compress(0, "2.safetensors").unwrap();
    run.compress(1, "0.safetensors").unwrap();
    run.compress(2, "1.safetensors").unwrap();
    (0..3).for_each(|step| run.remove(step));
    for step in 0..3 {
        let error = run.restore(step, ".").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingBase, "{error}");
    }
}

#[test]
fn digests_are_kept_and_trusted_only_for_the_same_file() {
    let run = Run::new(2);
    let index = DigestIndex::new(&run.at("digests"));
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(100);
    let base = run.at("0.safetensors");
    let file = fs::File::options().write(true).open(&base).unwrap();
    file.set_modified(long_ago).unwrap();
    // the time of the last change of anything cannot be set
    std::thread::sleep(std::time::Duration::from_millis(2100));
    run.compress(1, "0.safetensors").unwrap();
    let find = || {
        let bases = Arc::new(Bases::open(&base, Some(index.clone())).unwrap());
        let archive = Archive::open(&run.at("1.bs")).unwrap().with_bases(bases);
        archive.find_bases(1, &Silent)
    };
    find().unwrap();
    assert_eq!(fs::read_dir(run.at("digests")).unwrap().count(), 1);
    find().unwrap();
    let bases = Bases::open(&base, Some(index.clone())).unwrap();
    let archive = Archive::open(&run.at("1.bs")).unwrap();
    let record = archive.index().bases[0].named("a");
    assert_eq!(
        bases.availability_of(&record, COUNT as u64),
        Availability::Present
    );
    // another content of the same length under the same time
    put(&base, &run.steps[1]);
    let file = fs::File::options().write(true).open(&base).unwrap();
    file.set_modified(long_ago).unwrap();
    assert_eq!(find().unwrap_err().kind(), ErrorKind::MissingBase);
}

#[test]
fn a_chain_is_found_whatever_its_names_and_whatever_was_read_before() {
    let run = Run::new(5);
    for step in (0..4).rev() {
        let base = if step == 3 {
            "4.safetensors".into()
        } else {
            format!("{}.bs", step + 1)
        };
        run.compress(step, &base).unwrap();
    }
    (0..4).for_each(|step| run.remove(step));
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]] {
        let bases = Arc::new(Bases::open(&run.path(), None).unwrap());
        for step in order {
            let archive = Archive::open(&run.at(&format!("{step}.bs"))).unwrap();
            let archive = archive.with_bases(bases.clone());
            archive.expect_bases().unwrap();
            archive.find_bases(2, &Silent).unwrap();
        }
    }
    assert!(run.restore(0, ".").unwrap() == run.steps[0]);
}

#[test]
fn names_that_lead_to_one_another_end_a_search_soon() {
    let run = Run::new(1);
    let mut random = Random::new(6);
    let model = |name: &str, data: Vec<u8>| {
        let tensor = Tensor {
            name: name.into(),
            dtype: "BF16",
            shape: vec![data.len() as u64 / 2],
            data,
        };
        models::file(&[tensor], 0, "")
    };
    // each is a delta of what was called otherwise and is no more: whichever may be the base of
    // another leads to all others
    for step in 1..=24 {
        let names = [["a", "b"], ["b", "a"]][step % 2];
        let mut data = models::bf16_weights(&mut random, 10_000);
        put(&run.at("base.safetensors"), &model(names[0], data.clone()));
        data[2000..2200].fill(7);
        let tuned = run.at(&format!("{step}.safetensors"));
        put(&tuned, &model(names[1], data));
        run.compress(step, "base.safetensors").unwrap();
        run.remove(step);
    }
    fs::remove_file(run.at("base.safetensors")).unwrap();
    let begun = std::time::Instant::now();
    let error = run.restore(1, ".").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingBase, "{error}");
    assert!(begun.elapsed().as_secs() < 20);
}
