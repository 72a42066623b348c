//! Logits as a safetensors file: `logits`, `[steps, vocabulary]`, and `prompt_logits`, `[prompt,
//! vocabulary]`, both F32.

use std::path::Path;
use std::path::PathBuf;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use crate::base::Error;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic::check_target;
use crate::base::output_file::OutputFile;
use crate::ops::companions;
use crate::ops::run::RunOptions;

/// Logits that are collected, and where they go.
#[derive(Debug)]
pub(super) struct LogitsFile {
    path: PathBuf,
    steps: Vec<u8>,
    step_count: usize,
    prompt: Vec<u8>,
    vocabulary: usize,
}

impl LogitsFile {
    pub(super) fn create(path: &Path) -> Result<Self> {
        check_target(path, true)?;
        Ok(Self {
            path: path.to_owned(),
            steps: Vec::new(),
            step_count: 0,
            prompt: Vec::new(),
            vocabulary: 0,
        })
    }

    /// Bytes that they take in memory: collected, and put together to be written.
    pub(super) fn memory_bytes(options: &RunOptions, prompt_len: usize, vocabulary: usize) -> u64 {
        let of_prompt = if options.all_logits { prompt_len } else { 0 };
        let rows = (options.new_tokens_max + of_prompt) as u64;
        rows.saturating_mul((2 * vocabulary * size_of::<f32>()) as u64)
    }

    pub(super) fn prompt(&mut self, logits: &[f32]) {
        self.prompt
            .extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    }

    pub(super) fn step(&mut self, logits: &[f32]) {
        self.vocabulary = logits.len();
        self.step_count += 1;
        self.steps
            .extend(logits.iter().flat_map(|logit| logit.to_le_bytes()));
    }

    pub(super) fn finish(self, progress: &dyn Progress) -> Result<()> {
        let view = |rows: usize, bytes| {
            TensorView::new(Dtype::F32, vec![rows, self.vocabulary], bytes)
                .map_err(|e| Error::invalid(format!("logits do not fit together: {e}")))
        };
        let mut tensors = vec![("logits", view(self.step_count, self.steps.as_slice())?)];
        if !self.prompt.is_empty() {
            let rows = self.prompt.len() / size_of::<f32>() / self.vocabulary.max(1);
            tensors.push(("prompt_logits", view(rows, self.prompt.as_slice())?));
        }
        let bytes = safetensors::serialize(tensors, None)
            .map_err(|e| Error::invalid(format!("logits cannot be written: {e}")))?;
        let mut file = OutputFile::create(&self.path, true)?;
        file.write(&bytes)?;
        companions::commit(file, (None, None), 1, progress).map(drop)
    }
}
