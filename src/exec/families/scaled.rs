//! Weights of eight bits with scales for blocks: `quantization_config` of `DeepSeek` and Qwen3.

use serde_json::Value;

use crate::base::Result;
use crate::exec::config::Config;
use crate::exec::families::keys::HasTensor;
use crate::exec::program::Program;
use crate::exec::program::Scales;
use crate::kernels::LANES;

/// Notes the scales of all matrices that have some.
pub(super) fn find_scales(
    config: &Config,
    has: HasTensor<'_>,
    program: &mut Program,
) -> Result<()> {
    let Some(quantization) = config.object("quantization_config")? else {
        return Ok(());
    };
    if quantization.text("quant_method")? != Some("fp8") {
        return Err(quantization.refuse("quant_method"));
    }
    if quantization.text("fmt")?.is_some_and(|fmt| fmt != "e4m3") {
        return Err(quantization.refuse("fmt"));
    }
    // activations stay f32; which matrices are left as they are is seen by their tensors
    quantization.ignore(&[
        "activation_scheme",
        "modules_to_not_convert",
        "ignored_layers",
    ]);
    let block = quantization.list("weight_block_size")?.unwrap_or_default();
    let len = |value: &Value| value.as_u64().and_then(|len| usize::try_from(len).ok());
    let block: Option<Vec<usize>> = block.iter().map(len).collect();
    let Some(&[rows, columns]) = block.as_deref() else {
        return Err(quantization.refuse("weight_block_size"));
    };
    if rows == 0 || columns == 0 || !columns.is_multiple_of(LANES) {
        return Err(quantization.refuse("weight_block_size"));
    }
    quantization.finish()?;
    for linear in program.matrices_mut() {
        let tensor = format!("{}_scale_inv", linear.tensor);
        linear.scales = has(&tensor).then_some(Scales {
            tensor,
            block: (rows, columns),
        });
    }
    Ok(())
}
