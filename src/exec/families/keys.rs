//! What configurations and tensors of all families have in common.

use crate::base::Error;
use crate::base::Result;
use crate::exec::config::Config;
use crate::exec::program::Linear;
use crate::exec::program::Norm;
use crate::kernels::elementwise::Activation;

/// Which tensors a model has, by name.
pub(in crate::exec) type HasTensor<'a> = &'a dyn Fn(&str) -> bool;

/// Keys without influence on what is computed.
pub(super) fn ignore_what_changes_nothing(config: &Config) {
    config.ignore(&[
        "attention_dropout",
        "attn_pdrop",
        "bos_token_id",
        "cache_implementation",
        "dtype",
        "embd_pdrop",
        "eos_token_id",
        "hidden_dropout",
        "initializer_range",
        "is_encoder_decoder",
        "name_or_path",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "resid_pdrop",
        "return_dict",
        "rope_interleaved",
        "task_specific_params",
        "tokenizer_class",
        "torch_dtype",
        "transformers_version",
        "unk_token_id",
        "use_cache",
    ]);
}

/// What stands between the halves of the perceptron.
pub(super) fn activation(config: &Config, key: &str, default: &str) -> Result<Activation> {
    match config.text(key)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        _ => Err(config.refuse(key)),
    }
}

/// Values of a head that may be claimed before tensors are looked at.
const HEAD_DIM_MAX: usize = 1 << 16;

/// Refuses more layers than the model has, and heads that no model has, before either takes memory.
/// `last` names a tensor of a layer.
pub(super) fn check_sizes(
    (layers, head_dim): (usize, usize),
    has: HasTensor<'_>,
    last: impl Fn(usize) -> String,
) -> Result<()> {
    let name = last(layers - 1);
    if !has(&name) {
        let what =
            format!("there are {layers} layers by the configuration, and no tensor `{name}`");
        return Err(Error::invalid(what));
    }
    if head_dim > HEAD_DIM_MAX {
        return Err(Error::over_limit(format!("heads of {head_dim} values")));
    }
    Ok(())
}

/// A matrix `[rows, columns]` named `name.weight`, with a bias if `has_bias`.
pub(super) fn linear(name: &str, rows: usize, columns: usize, has_bias: bool) -> Linear {
    Linear {
        tensor: format!("{name}.weight"),
        rows,
        columns,
        bias: has_bias.then(|| format!("{name}.bias")),
        is_transposed: false,
        scales: None,
    }
}

/// A norm of root mean squares.
pub(super) fn rms_norm(name: &str, len: usize, epsilon: f32, offset: f32) -> Norm {
    Norm {
        weight: format!("{name}.weight"),
        bias: None,
        len,
        epsilon,
        offset,
    }
}
