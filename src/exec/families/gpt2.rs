//! GPT-2: learned positions, layer norms, matrices that lie input-major.

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use crate::base::Error;
use crate::base::Result;
use crate::exec::config::Config;
use crate::exec::families::keys;
use crate::exec::families::keys::HasTensor;
use crate::exec::program::Attention;
use crate::exec::program::Layer;
use crate::exec::program::Linear;
use crate::exec::program::Mlp;
use crate::exec::program::Norm;
use crate::exec::program::Program;
use crate::kernels::elementwise::Activation;

/// Sizes and switches of a model, as its layers need them.
struct Shape {
    prefix: &'static str,
    hidden: usize,
    heads: usize,
    head_dim: usize,
    inner: usize,
    epsilon: f32,
    activation: Activation,
    is_scaled: bool,
    is_scaled_by_layer: bool,
}

pub(super) fn program(config: &Config, has: HasTensor<'_>) -> Result<Program> {
    config.ignore(&[
        "reorder_and_upcast_attn",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "n_ctx",
    ]);
    let shape = Shape::new(config, has)?;
    let layers = config.needed_size("n_layer")?;
    let of_layer = |number: usize| shape.at(number, "mlp.c_proj.weight");
    keys::check_sizes((layers, shape.head_dim), has, of_layer)?;
    let positions = config.size("n_positions")?.unwrap_or(1024);
    let is_tied = config.flag("tie_word_embeddings")?.unwrap_or(true);
    let embedding = format!("{}wte.weight", shape.prefix);
    let own_head = has("lm_head.weight") && !is_tied;
    let mut head = keys::linear("", config.needed_size("vocab_size")?, shape.hidden, false);
    head.tensor = if own_head {
        "lm_head.weight".to_owned()
    } else {
        embedding.clone()
    };
    Ok(Program {
        family: "gpt2".to_owned(),
        hidden: shape.hidden,
        vocabulary: head.rows,
        embedding,
        embedding_scale: 1.0,
        positions: Some((format!("{}wpe.weight", shape.prefix), positions)),
        ropes: Vec::new(),
        layers: (0..layers).map(|number| shape.layer(number)).collect(),
        residual_scale: 1.0,
        norm: shape.norm(&format!("{}ln_f", shape.prefix)),
        head,
        logits_divisor: 1.0,
        logits_soft_cap: None,
        context_max: Some(positions),
    })
}

impl Shape {
    fn new(config: &Config, has: HasTensor<'_>) -> Result<Self> {
        let hidden = config.needed_size("n_embd")?;
        let heads = config.needed_size("n_head")?;
        if !hidden.is_multiple_of(heads) {
            return Err(Error::invalid("n_head does not divide n_embd"));
        }
        let by_layer = config.flag("scale_attn_by_inverse_layer_idx")?;
        Ok(Self {
            prefix: if has("transformer.wte.weight") {
                "transformer."
            } else {
                ""
            },
            hidden,
            heads,
            head_dim: hidden / heads,
            inner: config.size("n_inner")?.unwrap_or(4 * hidden),
            epsilon: config.number("layer_norm_epsilon")?.unwrap_or(1e-5) as f32,
            activation: keys::activation(config, "activation_function", "gelu_new")?,
            is_scaled: config.flag("scale_attn_weights")?.unwrap_or(true),
            is_scaled_by_layer: by_layer.unwrap_or(false),
        })
    }

    fn at(&self, layer: usize, name: &str) -> String {
        format!("{}h.{layer}.{name}", self.prefix)
    }

    fn norm(&self, name: &str) -> Norm {
        Norm {
            bias: Some(format!("{name}.bias")),
            ..keys::rms_norm(name, self.hidden, self.epsilon, 0.0)
        }
    }

    fn layer(&self, number: usize) -> Layer {
        let hidden = self.hidden;
        let linear = |name: &str, rows, columns| transposed(&self.at(number, name), rows, columns);
        let mut scale = 1.0;
        if self.is_scaled {
            scale /= (self.head_dim as f64).sqrt();
        }
        if self.is_scaled_by_layer {
            scale /= (number + 1) as f64;
        }
        Layer {
            attention: Attention {
                input_norm: Some(self.norm(&self.at(number, "ln_1"))),
                projections: vec![linear("attn.c_attn", 3 * hidden, hidden)],
                heads: self.heads,
                kv_heads: self.heads,
                head_dim: self.head_dim,
                query_key_norm: None,
                rope: None,
                temperature: None,
                scale: scale as f32,
                soft_cap: None,
                window: None,
                output: linear("attn.c_proj", hidden, hidden),
                output_norm: None,
            },
            mlp: Mlp {
                input_norm: Some(self.norm(&self.at(number, "ln_2"))),
                inputs: vec![linear("mlp.c_fc", self.inner, hidden)],
                is_gated: false,
                len: self.inner,
                activation: self.activation,
                output: linear("mlp.c_proj", hidden, self.inner),
                output_norm: None,
            },
        }
    }
}

/// A matrix that lies as `[columns, rows]`.
fn transposed(name: &str, rows: usize, columns: usize) -> Linear {
    Linear {
        is_transposed: true,
        scales: None,
        ..keys::linear(name, rows, columns, true)
    }
}
