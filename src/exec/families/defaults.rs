//! What a family does where its configuration says nothing, and what it has of its own.

use crate::kernels::rope::Pairs;

/// Where norms stand around attention and perceptron.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norms {
    /// Before both.
    Before,
    /// After both.
    After,
    /// Before and after, by the names of Gemma 2.
    AroundGemma,
    /// Before and after, by the names of GLM-4.
    AroundGlm,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bias {
    None,
    /// Where `attention_bias` says so: of queries, keys, values and the output.
    Asked,
    /// Where `attention_bias` says so, but never of the output.
    AskedInputs,
    /// Of queries, keys and values.
    Inputs,
}

/// What a family does where its configuration says nothing, and what it has of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    pub(super) norms: Norms,
    pub(super) bias: Bias,
    /// Added to the weights of norms.
    pub(super) offset: f32,
    pub(super) epsilon: f64,
    pub(super) is_tied: bool,
    /// Key/value heads; none: as many as heads.
    pub(super) kv_heads: Option<usize>,
    /// Values of a head; none: hidden by heads.
    pub(super) head_dim: Option<usize>,
    pub(super) theta: f64,
    pub(super) partial: f64,
    pub(super) pairs: Pairs,
    /// Queries, keys and values in one matrix.
    pub(super) is_fused: bool,
    /// Gate and up in one matrix.
    pub(super) is_gate_fused: bool,
}

const LLAMA: Family = Family {
    norms: Norms::Before,
    bias: Bias::None,
    offset: 0.0,
    epsilon: 1e-6,
    is_tied: false,
    kv_heads: None,
    head_dim: None,
    theta: 10_000.0,
    partial: 1.0,
    pairs: Pairs::Halves,
    is_fused: false,
    is_gate_fused: false,
};

pub(super) fn family(name: &str) -> Family {
    match name {
        "llama" | "granite" => ASKED,
        "mistral" => with_heads(LLAMA, 8, None),
        "ministral3" => Family {
            epsilon: 1e-5,
            theta: 1_000_000.0,
            ..with_heads(LLAMA, 8, Some(128))
        },
        "qwen2" => Family {
            bias: Bias::Inputs,
            ..with_heads(LLAMA, 32, None)
        },
        "qwen3" => with_heads(ASKED, 32, Some(128)),
        "gemma2" | "gemma3_text" => Family {
            norms: Norms::AroundGemma,
            offset: 1.0,
            is_tied: true,
            ..with_heads(ASKED, 4, Some(256))
        },
        "phi3" => Family {
            epsilon: 1e-5,
            is_fused: true,
            is_gate_fused: true,
            ..LLAMA
        },
        "olmo2" => OLMO,
        "olmo3" => Family {
            theta: 500_000.0,
            ..OLMO
        },
        "smollm3" => Family {
            is_tied: true,
            theta: 2_000_000.0,
            ..with_heads(ASKED, 4, None)
        },
        "glm4" => Family {
            norms: Norms::AroundGlm,
            bias: Bias::AskedInputs,
            epsilon: 1.562_5e-7,
            partial: 0.5,
            pairs: Pairs::Neighbours,
            is_gate_fused: true,
            ..with_heads(LLAMA, 2, Some(128))
        },
        _ => LLAMA,
    }
}

const ASKED: Family = Family {
    bias: Bias::Asked,
    ..LLAMA
};

const OLMO: Family = Family {
    norms: Norms::After,
    epsilon: 1e-5,
    ..ASKED
};

fn with_heads(family: Family, kv_heads: usize, head_dim: Option<usize>) -> Family {
    Family {
        kv_heads: Some(kv_heads),
        head_dim,
        ..family
    }
}
