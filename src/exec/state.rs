//! What a text leaves behind: keys and values of its positions, in f32.

use crate::exec::program::Program;

/// Keys and values of one layer, each `[head][position][value]`.
#[derive(Debug)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// A text that grows.
#[derive(Debug)]
pub struct Sequence {
    pub(super) layers: Vec<LayerCache>,
    /// Positions that are there.
    len: usize,
    capacity: usize,
    /// Whether its first prompt was long: it chooses the angles for all of it.
    pub(super) is_long: bool,
}

impl Sequence {
    /// An empty one with room for `capacity` positions, whose first prompt has `prompt_len`.
    pub fn new(program: &Program, capacity: usize, prompt_len: usize) -> Self {
        let layers = program.layers.iter().map(|layer| {
            let len = layer.attention.kv_heads * layer.attention.head_dim * capacity;
            LayerCache {
                keys: vec![0.0; len],
                values: vec![0.0; len],
            }
        });
        Self {
            layers: layers.collect(),
            len: 0,
            capacity,
            is_long: program.ropes.iter().any(|rope| prompt_len > rope.long_from),
        }
    }

    /// Positions that are there.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is there yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Positions that it has room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether longrope's factors for long texts are used.
    pub fn is_long(&self) -> bool {
        self.is_long
    }

    /// Forgets all positions from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Says which of longrope's factors are used, before anything is there.
    pub fn set_long(&mut self, is_long: bool) {
        self.is_long = is_long;
    }

    pub(super) fn grow(&mut self, count: usize) {
        self.len += count;
    }
}
