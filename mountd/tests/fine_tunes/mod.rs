//! Fine-tunes of models.

/// A fine-tune of a model: every ninth byte of its tensors is another.
pub(crate) fn fine_tune(base: &[u8]) -> Vec<u8> {
    let mut tuned = base.to_vec();
    for byte in tuned[200..].iter_mut().step_by(9) {
        *byte ^= 1;
    }
    tuned
}
