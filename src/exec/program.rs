//! What is computed, as data: one layer program with switches for all families.

use crate::kernels::elementwise::Activation;
use crate::kernels::rope::Pairs;

/// A matrix of weights, by the name of its tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linear {
    /// The tensor.
    pub tensor: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
    /// Added to the outputs.
    pub bias: Option<String>,
    /// Whether the tensor lies as `[columns, rows]`.
    pub is_transposed: bool,
    /// Of weights of eight bits.
    pub scales: Option<Scales>,
}

/// Scales of blocks of weights: `[rows / block rows, columns / block columns]`, rounded up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scales {
    /// The tensor.
    pub tensor: String,
    /// Rows and columns of a block.
    pub block: (usize, usize),
}

impl Scales {
    /// How many a matrix has.
    pub fn count(&self, rows: usize, columns: usize) -> usize {
        rows.div_ceil(self.block.0) * columns.div_ceil(self.block.1)
    }
}

/// A norm of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// Its weights.
    pub weight: String,
    /// What is added: then it is a layer norm, else one of root mean squares.
    pub bias: Option<String>,
    /// Values of a row.
    pub len: usize,
    /// Added under the root.
    pub epsilon: f32,
    /// Added to each weight.
    pub offset: f32,
}

/// Norms of queries and keys, before they are turned.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryKeyNorm {
    /// Of each head.
    PerHead {
        /// Of queries.
        query: Norm,
        /// Of keys.
        key: Norm,
    },
    /// Of all heads together.
    Whole {
        /// Of queries.
        query: Norm,
        /// Of keys.
        key: Norm,
    },
}

/// Angles by which queries and keys are turned.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Angle per position, of each pair.
    pub frequencies: Vec<f32>,
    /// Those for a long text, where they differ (longrope).
    pub long_frequencies: Option<Vec<f32>>,
    /// Positions from which on a text is long.
    pub long_from: usize,
    /// Factor of cosines and sines.
    pub factor: f32,
    /// Which values are a pair.
    pub pairs: Pairs,
}

/// Queries grow with their position (Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueryTemperature {
    /// Factor of the logarithm.
    pub beta: f32,
    /// Positions of a step.
    pub step: usize,
}

/// The attention of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Before it.
    pub input_norm: Option<Norm>,
    /// Queries, keys and values, whose outputs stand one behind another: three matrices, or one.
    pub projections: Vec<Linear>,
    /// Of queries.
    pub heads: usize,
    /// Of keys and values; divides the heads.
    pub kv_heads: usize,
    /// Values of a head.
    pub head_dim: usize,
    /// Norms of queries and keys.
    pub query_key_norm: Option<QueryKeyNorm>,
    /// Number of the [`Rope`] in the program.
    pub rope: Option<usize>,
    /// Queries grow with their position.
    pub temperature: Option<QueryTemperature>,
    /// Factor of the scores.
    pub scale: f32,
    /// Where scores are capped.
    pub soft_cap: Option<f32>,
    /// How many positions are seen, itself included; none: all before.
    pub window: Option<usize>,
    /// Heads to the residual stream.
    pub output: Linear,
    /// After it.
    pub output_norm: Option<Norm>,
}

/// The multi-layer perceptron of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Mlp {
    /// Before it.
    pub input_norm: Option<Norm>,
    /// Gate and up, whose outputs stand one behind another, in two matrices or one; or up alone.
    pub inputs: Vec<Linear>,
    /// Whether the first half is the gate of the second.
    pub is_gated: bool,
    /// Values between.
    pub len: usize,
    /// What stands between.
    pub activation: Activation,
    /// Back to the residual stream.
    pub output: Linear,
    /// After it.
    pub output_norm: Option<Norm>,
}

/// A layer.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    /// First.
    pub attention: Attention,
    /// Then.
    pub mlp: Mlp,
}

/// A model.
#[derive(Debug, Clone, PartialEq)]
pub struct Program {
    /// Its family, as `model_type` names it.
    pub family: String,
    /// Values of the residual stream.
    pub hidden: usize,
    /// Tokens.
    pub vocabulary: usize,
    /// Table of embeddings, `[vocabulary, hidden]`.
    pub embedding: String,
    /// Factor of embeddings.
    pub embedding_scale: f32,
    /// Table of learned positions, `[positions, hidden]`, and how many it has.
    pub positions: Option<(String, usize)>,
    /// Of the layers.
    pub ropes: Vec<Rope>,
    /// One after another.
    pub layers: Vec<Layer>,
    /// Factor of what a layer adds.
    pub residual_scale: f32,
    /// After the last layer.
    pub norm: Norm,
    /// To the logits.
    pub head: Linear,
    /// Logits are divided by it.
    pub logits_divisor: f32,
    /// Where logits are capped.
    pub logits_soft_cap: Option<f32>,
    /// Positions that the model was made for.
    pub context_max: Option<usize>,
}

impl Program {
    /// All matrices, in the order in which a pass uses them; the head last.
    pub fn matrices(&self) -> impl Iterator<Item = &Linear> {
        let layers = self.layers.iter().flat_map(|layer| {
            let attention = layer.attention.projections.iter();
            let attention = attention.chain([&layer.attention.output]);
            attention
                .chain(&layer.mlp.inputs)
                .chain([&layer.mlp.output])
        });
        layers.chain([&self.head])
    }

    /// The same, to be changed.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        let layers = self.layers.iter_mut().flat_map(|layer| {
            let attention = layer.attention.projections.iter_mut();
            let attention = attention.chain([&mut layer.attention.output]);
            attention
                .chain(&mut layer.mlp.inputs)
                .chain([&mut layer.mlp.output])
        });
        layers.chain([&mut self.head])
    }

    /// All norms.
    pub fn norms(&self) -> impl Iterator<Item = &Norm> {
        let layers = self.layers.iter().flat_map(|layer| {
            let of_heads = layer
                .attention
                .query_key_norm
                .iter()
                .flat_map(|norm| match norm {
                    QueryKeyNorm::PerHead { query, key } | QueryKeyNorm::Whole { query, key } => {
                        [query, key]
                    }
                });
            let attention = &layer.attention;
            let mlp = &layer.mlp;
            let around = attention.input_norm.iter().chain(&attention.output_norm);
            around
                .chain(&mlp.input_norm)
                .chain(&mlp.output_norm)
                .chain(of_heads)
        });
        layers.chain([&self.norm])
    }

    /// Bytes of keys and values of one position.
    pub fn position_len(&self) -> usize {
        let layers = self.layers.iter().map(|layer| &layer.attention);
        layers
            .map(|layer| 2 * layer.kv_heads * layer.head_dim * size_of::<f32>())
            .sum()
    }
}
