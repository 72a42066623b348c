//! Llama and what differs from it by switches.

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use crate::base::Error;
use crate::base::Result;
use crate::exec::config::Config;
use crate::exec::families::defaults::Bias;
use crate::exec::families::defaults::Family;
use crate::exec::families::defaults::Norms;
use crate::exec::families::defaults::family;
use crate::exec::families::keys;
use crate::exec::families::keys::HasTensor;
use crate::exec::families::keys::linear;
use crate::exec::families::keys::rms_norm;
use crate::exec::program::Attention;
use crate::exec::program::Layer;
use crate::exec::program::Linear;
use crate::exec::program::Mlp;
use crate::exec::program::Norm;
use crate::exec::program::Program;
use crate::exec::program::QueryKeyNorm;
use crate::exec::program::QueryTemperature;
use crate::exec::program::Rope;
use crate::exec::rope;
use crate::exec::rope::RopeContext;

/// Whether a number says that something is left as it is.
#[expect(clippy::float_cmp, reason = "1 is written, not computed")]
fn is_one(number: f64) -> bool {
    number == 1.0
}

/// Sizes and switches of a model, as its layers need them.
struct Shape<'c> {
    name: &'c str,
    family: Family,
    config: &'c Config,
    prefix: String,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    inner: usize,
    epsilon: f32,
    has_bias: bool,
    layers: usize,
}

pub(super) fn program(name: &str, config: &Config, has: HasTensor<'_>) -> Result<Program> {
    if name == "gemma3" {
        return gemma3(config, has);
    }
    of_text(name, config, has, None)
}

/// Gemma 3 with images: of its two halves the text is run.
fn gemma3(config: &Config, has: HasTensor<'_>) -> Result<Program> {
    config.ignore(&[
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
        "model_type",
    ]);
    let is_tied = config.flag("tie_word_embeddings")?.unwrap_or(true);
    let text = config.object("text_config")?;
    let text = text.ok_or_else(|| Error::invalid("gemma3 has no text_config"))?;
    keys::ignore_what_changes_nothing(&text);
    text.ignore(&["model_type", "tie_word_embeddings"]);
    let program = of_text("gemma3_text", &text, has, Some(is_tied))?;
    if program.logits_soft_cap.is_some() {
        return Err(text.refuse("final_logit_softcapping"));
    }
    text.finish()?;
    Ok(program)
}

fn of_text(
    name: &str,
    config: &Config,
    has: HasTensor<'_>,
    is_tied: Option<bool>,
) -> Result<Program> {
    if name == "phi3" {
        // of Phi-4-mini: at one they say what is so without them
        for key in ["full_attn_mod", "interpolate_factor"] {
            if config.number(key)?.is_some_and(|number| !is_one(number)) {
                return Err(config.refuse(key));
            }
        }
    }
    let shape = Shape::new(name, config, has)?;
    let (ropes, rope_of) = shape.ropes()?;
    let windows = shape.windows()?;
    let layers = (0..shape.layers).map(|number| {
        shape.layer(
            number,
            rope_of.get(number).copied().flatten(),
            windows[number],
        )
    });
    let layers = layers.collect::<Result<Vec<_>>>()?;
    let embedding = format!("{}embed_tokens.weight", shape.prefix);
    let head = shape.head(&embedding, is_tied, has)?;
    let scale = match name {
        "gemma2" | "gemma3_text" => (shape.hidden as f64).sqrt(),
        "granite" => config.number("embedding_multiplier")?.unwrap_or(1.0),
        _ => 1.0,
    };
    Ok(Program {
        family: name.to_owned(),
        hidden: shape.hidden,
        vocabulary: head.rows,
        embedding,
        embedding_scale: scale as f32,
        positions: None,
        ropes,
        layers,
        residual_scale: match name {
            "granite" => config.number("residual_multiplier")?.unwrap_or(1.0) as f32,
            _ => 1.0,
        },
        norm: shape.norm(&format!("{}norm", shape.prefix), shape.hidden),
        head,
        logits_divisor: match name {
            "granite" => config.number("logits_scaling")?.unwrap_or(1.0) as f32,
            _ => 1.0,
        },
        logits_soft_cap: match name {
            "gemma2" | "gemma3_text" => config.number("final_logit_softcapping")?,
            _ => None,
        }
        .map(|cap| cap as f32),
        context_max: config.size("max_position_embeddings")?,
    })
}

impl<'c> Shape<'c> {
    fn new(name: &'c str, config: &'c Config, has: HasTensor<'_>) -> Result<Self> {
        let family = family(name);
        let hidden = config.needed_size("hidden_size")?;
        let heads = match (name, config.size("num_attention_heads")?) {
            (_, Some(heads)) if heads > 0 => heads,
            ("gemma3_text", None) => 8,
            _ => config.needed_size("num_attention_heads")?,
        };
        let kv_heads = config.size("num_key_value_heads")?;
        let is_null = config.has("num_key_value_heads");
        let default = family.kv_heads.filter(|_| !is_null).unwrap_or(heads);
        let kv_heads = kv_heads.unwrap_or(default);
        let default = family.head_dim.filter(|_| !config.has("head_dim"));
        let head_dim = config
            .size("head_dim")?
            .or(default)
            .unwrap_or(hidden / heads);
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || head_dim == 0 {
            let what =
                "num_key_value_heads does not divide num_attention_heads, or a head is empty";
            return Err(Error::invalid(what));
        }
        let prefixes = [
            "model.",
            "language_model.model.",
            "model.language_model.",
            "",
        ];
        let prefix = prefixes
            .into_iter()
            .find(|prefix| has(&format!("{prefix}embed_tokens.weight")));
        let prefix =
            prefix.ok_or_else(|| Error::invalid("the model has no table of embeddings"))?;
        let layers = config.needed_size("num_hidden_layers")?;
        let of_layer = |number: usize| format!("{prefix}layers.{number}.mlp.down_proj.weight");
        keys::check_sizes((layers, head_dim), has, of_layer)?;
        let has_bias = match family.bias {
            Bias::None => false,
            Bias::Inputs => true,
            Bias::Asked => config.flag("attention_bias")?.unwrap_or(false),
            Bias::AskedInputs => config.flag("attention_bias")?.unwrap_or(true),
        };
        if config.flag("use_bidirectional_attention")? == Some(true) {
            return Err(config.refuse("use_bidirectional_attention"));
        }
        Ok(Self {
            name,
            family,
            config,
            prefix: prefix.to_owned(),
            hidden,
            heads,
            kv_heads,
            head_dim,
            inner: config.needed_size("intermediate_size")?,
            epsilon: config.number("rms_norm_eps")?.unwrap_or(family.epsilon) as f32,
            has_bias,
            layers,
        })
    }

    fn norm(&self, name: &str, len: usize) -> Norm {
        rms_norm(name, len, self.epsilon, self.family.offset)
    }

    /// The head: a matrix of its own, or the table of embeddings.
    fn head(&self, embedding: &str, is_tied: Option<bool>, has: HasTensor<'_>) -> Result<Linear> {
        let asked = self.config.flag("tie_word_embeddings")?;
        let is_tied = is_tied.or(asked).unwrap_or(self.family.is_tied);
        let beside = self.prefix.strip_suffix("model.").unwrap_or_default();
        let names = [
            format!("{beside}lm_head.weight"),
            "lm_head.weight".to_owned(),
        ];
        let vocabulary = self.config.needed_size("vocab_size")?;
        let mut head = linear("", vocabulary, self.hidden, false);
        head.tensor = match names.into_iter().find(|name| has(name)) {
            // two tensors that are there are both used, whatever is said of them
            Some(name) => name,
            None if is_tied => embedding.to_owned(),
            None => {
                let what = "the model has no `lm_head.weight`, and is not tied";
                return Err(Error::invalid(what));
            }
        };
        Ok(head)
    }

    /// What each layer is: `full_attention` or `sliding_attention`; none where nothing says it.
    fn layer_types(&self) -> Result<Option<Vec<bool>>> {
        let Some(types) = self.config.list("layer_types")? else {
            return Ok(None);
        };
        let is_sliding = types.iter().map(|kind| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => Err(self.config.refuse("layer_types")),
        });
        let is_sliding = is_sliding.collect::<Result<Vec<_>>>()?;
        if is_sliding.len() < self.layers {
            return Err(Error::invalid(
                "layer_types has fewer entries than there are layers",
            ));
        }
        Ok(Some(is_sliding))
    }

    /// Whether each layer sees a window only.
    fn is_sliding(&self) -> Result<Vec<bool>> {
        let config = self.config;
        let types = self.layer_types()?;
        let from = config.size("max_window_layers")?.unwrap_or(28);
        let named = [
            config.size("sliding_window_pattern")?,
            config.size("_sliding_window_pattern")?,
        ];
        let pattern = named.into_iter().flatten().next().unwrap_or(6).max(1);
        let uses_window = config.flag("use_sliding_window")?.unwrap_or(false);
        let no_rope = self.no_rope()?;
        let by_rule = |number: usize| match self.name {
            "gemma2" => number.is_multiple_of(2),
            "gemma3_text" => !(number + 1).is_multiple_of(pattern),
            "olmo3" => !(number + 1).is_multiple_of(4),
            "qwen2" | "qwen3" => uses_window && number >= from,
            "smollm3" => uses_window && no_rope[number],
            _ => true,
        };
        Ok(types.unwrap_or_else(|| (0..self.layers).map(by_rule).collect()))
    }

    /// How many positions each layer sees.
    fn windows(&self) -> Result<Vec<Option<usize>>> {
        let config = self.config;
        let default = match self.name {
            "mistral" | "gemma2" | "gemma3_text" | "olmo3" => Some(4096),
            _ => None,
        };
        let default = default.filter(|_| !config.has("sliding_window"));
        let knows_window = !matches!(self.name, "llama" | "granite" | "olmo2" | "glm4");
        if !knows_window {
            return Ok(vec![None; self.layers]);
        }
        let asked = config.size("sliding_window")?.or(default);
        let asked = match self.name {
            "qwen2" | "qwen3" if config.flag("use_sliding_window")? != Some(true) => None,
            _ => asked,
        };
        let sliding = self.is_sliding()?;
        Ok(sliding
            .into_iter()
            .map(|sliding| asked.filter(|_| sliding))
            .collect())
    }

    /// The layers without rope, which `smollm3` has.
    fn no_rope(&self) -> Result<Vec<bool>> {
        if self.name != "smollm3" {
            return Ok(vec![false; self.layers]);
        }
        let interval = self
            .config
            .size("no_rope_layer_interval")?
            .unwrap_or(4)
            .max(1);
        let has_rope = self
            .config
            .numbers("no_rope_layers")?
            .filter(|list| !list.is_empty());
        match has_rope {
            Some(list) if list.len() < self.layers => Err(Error::invalid(
                "no_rope_layers has fewer entries than there are layers",
            )),
            Some(list) => Ok(list.iter().map(|&rope| rope == 0.0).collect()),
            None => Ok((0..self.layers)
                .map(|at| (at + 1).is_multiple_of(interval))
                .collect()),
        }
    }

    /// All ropes, and which of them each layer has.
    fn ropes(&self) -> Result<(Vec<Rope>, Vec<Option<usize>>)> {
        let config = self.config;
        let context = RopeContext {
            head_dim: self.head_dim,
            theta: config.number("rope_theta")?.unwrap_or(self.family.theta),
            partial: config
                .number("partial_rotary_factor")?
                .unwrap_or(self.family.partial),
            context_max: config.size("max_position_embeddings")?,
            original_context: match self.name {
                "phi3" => config
                    .size("original_max_position_embeddings")?
                    .or(Some(4096)),
                _ => None,
            },
            pairs: self.family.pairs,
        };
        let parameters = self.rope_parameters()?;
        let is_nested = matches!(self.name, "gemma3_text" | "olmo3");
        if !is_nested {
            self.check_stretching(parameters.as_ref())?;
            self.temperature(parameters.as_ref())?;
            let rope = rope::rope(parameters.as_ref(), &context)?;
            let no_rope = self.no_rope()?;
            let of = no_rope.into_iter().map(|none| (!none).then_some(0));
            return Ok((vec![rope], of.collect()));
        }
        let (full, sliding) = self.nested(parameters.as_ref(), &context)?;
        let of = self
            .is_sliding()?
            .into_iter()
            .map(|sliding| Some(usize::from(sliding)));
        Ok((vec![full, sliding], of.collect()))
    }

    /// What is said of the rope; what older files say of it stands in place of all else.
    fn rope_parameters(&self) -> Result<Option<Config>> {
        let old = self.config.object("rope_scaling")?;
        let new = self.config.object("rope_parameters")?;
        Ok(old.or(new))
    }

    /// Two ropes, for layers that see everything and for those that see a window.
    fn nested(&self, parameters: Option<&Config>, context: &RopeContext) -> Result<(Rope, Rope)> {
        let theta = if self.name == "olmo3" {
            context.theta
        } else {
            1_000_000.0
        };
        let full_context = RopeContext {
            theta: self.config.number("rope_theta")?.unwrap_or(theta),
            ..context.clone()
        };
        let local = self.config.number("rope_local_base_freq")?;
        let sliding_context = RopeContext {
            theta: match self.name {
                "olmo3" => context.theta,
                _ => local.unwrap_or(10_000.0),
            },
            ..context.clone()
        };
        let Some(parameters) = parameters else {
            let full = rope::rope(None, &full_context)?;
            return Ok((full, rope::rope(None, &sliding_context)?));
        };
        let of_full = parameters.object("full_attention")?;
        let of_sliding = parameters.object("sliding_attention")?;
        if of_full.is_none() && of_sliding.is_none() {
            if self.config.get("rope_scaling").is_some() {
                // the old form, which stretches layers that see everything only
                let full = rope::rope(Some(parameters), &full_context)?;
                return Ok((full, rope::rope(None, &sliding_context)?));
            }
            return Err(self.config.refuse("rope_parameters"));
        }
        parameters.finish()?;
        let full = rope::rope(of_full.as_ref(), &full_context)?;
        Ok((full, rope::rope(of_sliding.as_ref(), &sliding_context)?))
    }

    /// Refuses ropes that a family does not have.
    fn check_stretching(&self, parameters: Option<&Config>) -> Result<()> {
        let kind = match parameters {
            Some(parameters) => parameters.text("rope_type")?.or(parameters.text("type")?),
            None => None,
        };
        match (self.name, kind) {
            ("phi3", Some("default" | "longrope") | None) => Ok(()),
            ("phi3", Some(_)) => match parameters {
                Some(parameters) => Err(parameters.refuse("rope_type")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Of Ministral 3: by what queries grow.
    fn temperature(&self, parameters: Option<&Config>) -> Result<Option<QueryTemperature>> {
        let Some(parameters) = parameters.filter(|_| self.name == "ministral3") else {
            return Ok(None);
        };
        let step = parameters.size("original_max_position_embeddings")?;
        let beta = parameters.number("llama_4_scaling_beta")?;
        Ok(match (beta, step.filter(|&step| step > 0)) {
            (Some(beta), Some(step)) => Some(QueryTemperature {
                beta: beta as f32,
                step,
            }),
            _ => None,
        })
    }

    fn layer(&self, number: usize, rope: Option<usize>, window: Option<usize>) -> Result<Layer> {
        let at = |name: &str| format!("{}layers.{number}.{name}", self.prefix);
        let norm = |name: &str| Some(self.norm(&at(name), self.hidden));
        let [input, output, mlp_input, mlp_output] = match self.family.norms {
            Norms::Before => [
                norm("input_layernorm"),
                None,
                norm("post_attention_layernorm"),
                None,
            ],
            Norms::After => [
                None,
                norm("post_attention_layernorm"),
                None,
                norm("post_feedforward_layernorm"),
            ],
            Norms::AroundGemma => [
                norm("input_layernorm"),
                norm("post_attention_layernorm"),
                norm("pre_feedforward_layernorm"),
                norm("post_feedforward_layernorm"),
            ],
            Norms::AroundGlm => [
                norm("input_layernorm"),
                norm("post_self_attn_layernorm"),
                norm("post_attention_layernorm"),
                norm("post_mlp_layernorm"),
            ],
        };
        let mut attention = self.attention(&at("self_attn."), rope, window)?;
        (attention.input_norm, attention.output_norm) = (input, output);
        let mlp = self.mlp(&at("mlp."))?;
        Ok(Layer {
            attention,
            mlp: Mlp {
                input_norm: mlp_input,
                output_norm: mlp_output,
                ..mlp
            },
        })
    }

    fn attention(&self, at: &str, rope: Option<usize>, window: Option<usize>) -> Result<Attention> {
        let config = self.config;
        let (wide, narrow) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let matrix =
            |name: &str, rows| linear(&format!("{at}{name}"), rows, self.hidden, self.has_bias);
        let projections = if self.family.is_fused {
            vec![matrix("qkv_proj", wide + 2 * narrow)]
        } else {
            vec![
                matrix("q_proj", wide),
                matrix("k_proj", narrow),
                matrix("v_proj", narrow),
            ]
        };
        let has_output_bias = self.has_bias && self.family.bias == Bias::Asked;
        let norms = |query_len: usize, key_len: usize| {
            let query = self.norm(&format!("{at}q_norm"), query_len);
            (query, self.norm(&format!("{at}k_norm"), key_len))
        };
        let query_key_norm = match self.name {
            "qwen3" | "gemma3_text" => {
                let (query, key) = norms(self.head_dim, self.head_dim);
                Some(QueryKeyNorm::PerHead { query, key })
            }
            "olmo2" | "olmo3" => {
                let (query, key) = norms(wide, narrow);
                Some(QueryKeyNorm::Whole { query, key })
            }
            _ => None,
        };
        let scalar = match self.name {
            "gemma2" | "gemma3_text" => {
                Some(config.number("query_pre_attn_scalar")?.unwrap_or(256.0))
            }
            _ => None,
        };
        let scale = 1.0 / scalar.unwrap_or(self.head_dim as f64).sqrt();
        let scale = match self.name {
            "granite" => config.number("attention_multiplier")?.unwrap_or(1.0),
            _ => scale,
        };
        // Gemma 3's attention knows the key, and does not use it
        let cap = match self.name {
            "gemma2" | "gemma3_text" => config.number("attn_logit_softcapping")?,
            _ => None,
        };
        let parameters = self.rope_parameters()?;
        Ok(Attention {
            input_norm: None,
            projections,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            query_key_norm,
            rope,
            temperature: self.temperature(parameters.as_ref())?,
            scale: scale as f32,
            soft_cap: cap.filter(|_| self.name == "gemma2").map(|cap| cap as f32),
            window,
            output: linear(&format!("{at}o_proj"), self.hidden, wide, has_output_bias),
            output_norm: None,
        })
    }

    fn mlp(&self, at: &str) -> Result<Mlp> {
        let config = self.config;
        let has_bias = match self.name {
            "llama" | "granite" | "smollm3" => config.flag("mlp_bias")?.unwrap_or(false),
            _ => false,
        };
        let matrix = |name: &str, rows: usize, columns: usize| -> Linear {
            linear(&format!("{at}{name}"), rows, columns, has_bias)
        };
        let (hidden, inner) = (self.hidden, self.inner);
        let inputs = if self.family.is_gate_fused {
            vec![matrix("gate_up_proj", 2 * inner, hidden)]
        } else {
            vec![
                matrix("gate_proj", inner, hidden),
                matrix("up_proj", inner, hidden),
            ]
        };
        let activation = match self.name {
            "gemma2" | "gemma3_text" => {
                config.ignore(&["hidden_act"]);
                keys::activation(config, "hidden_activation", "gelu_pytorch_tanh")?
            }
            _ => keys::activation(config, "hidden_act", "silu")?,
        };
        Ok(Mlp {
            input_norm: None,
            inputs,
            is_gated: true,
            len: inner,
            activation,
            output: matrix("down_proj", hidden, inner),
            output_norm: None,
        })
    }
}
