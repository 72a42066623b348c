//! Angles of rotary positions, from what a configuration says of them.
//!
//! Formulas as in transformers' `modeling_rope_utils.py`; powers and logarithms are our own, and
//! what is f32 there is f32 here.

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use crate::base::Error;
use crate::base::Result;
use crate::base::math;
use crate::exec::config::Config;
use crate::exec::program::Rope;
use crate::kernels::rope::Pairs;

/// What of a rope stands outside of its parameters.
#[derive(Debug, Clone)]
pub(super) struct RopeContext {
    /// Values of a head.
    pub(super) head_dim: usize,
    /// Theta, if the parameters name none.
    pub(super) theta: f64,
    /// The share of a head that is turned, if the parameters name none.
    pub(super) partial: f64,
    /// Positions that the model was made for.
    pub(super) context_max: Option<usize>,
    /// Positions before it was stretched; wins over that of the parameters.
    pub(super) original_context: Option<usize>,
    /// Which values are a pair.
    pub(super) pairs: Pairs,
}

/// The rope that `parameters` say; with none, the one without any stretching.
pub(super) fn rope(parameters: Option<&Config>, context: &RopeContext) -> Result<Rope> {
    let number = |key: &str| parameters.map_or(Ok(None), |found| found.number(key));
    let theta = number("rope_theta")?.unwrap_or(context.theta);
    let partial = number("partial_rotary_factor")?.unwrap_or(context.partial);
    if !(theta.is_normal() && theta > 0.0 && partial > 0.0 && partial <= 1.0) {
        return Err(Error::invalid(
            "rope_theta or partial_rotary_factor is out of range",
        ));
    }
    let turned = turned(context.head_dim, partial);
    if turned == 0 {
        return Err(Error::invalid("no value of a head would be turned"));
    }
    let mut rope = Rope {
        frequencies: frequencies(theta, turned),
        long_frequencies: None,
        long_from: usize::MAX,
        factor: 1.0,
        pairs: context.pairs,
    };
    let Some(parameters) = parameters else {
        return Ok(rope);
    };
    let kind = match parameters.text("rope_type")? {
        Some(kind) => kind,
        None => parameters.text("type")?.unwrap_or("default"),
    };
    parameters.ignore(&["type", "rope_type", "max_position_embeddings"]);
    match kind {
        "default" => parameters.ignore(&["factor", "original_max_position_embeddings"]),
        "linear" => {
            let factor = needed(parameters, "factor")? as f32;
            rope.frequencies
                .iter_mut()
                .for_each(|inverse| *inverse /= factor);
        }
        "llama3" => llama3(parameters, context, &mut rope.frequencies)?,
        "yarn" => rope.factor = yarn(parameters, context, theta, &mut rope.frequencies)?,
        "longrope" => longrope(parameters, context, theta, &mut rope)?,
        _ => return Err(parameters.refuse("rope_type")),
    }
    parameters.finish()?;
    Ok(rope)
}

/// How many values of a head are turned: an even number.
#[expect(clippy::cast_sign_loss, reason = "a share of a head is not negative")]
fn turned(head_dim: usize, partial: f64) -> usize {
    (head_dim as f64 * partial) as usize / 2 * 2
}

fn needed(parameters: &Config, key: &str) -> Result<f64> {
    let number = parameters.number(key)?.filter(|&number| number != 0.0);
    number.ok_or_else(|| Error::invalid(format!("the rope parameters have no `{key}`")))
}

/// `1 / theta^(2i / turned)`.
fn frequencies(theta: f64, turned: usize) -> Vec<f32> {
    let power = |pair: usize| {
        let exponent = (2 * pair) as f32 / turned as f32;
        math::pow(theta, f64::from(exponent)) as f32
    };
    (0..turned / 2).map(|pair| 1.0 / power(pair)).collect()
}

fn original_context(parameters: &Config, context: &RopeContext) -> Result<Option<usize>> {
    let named = parameters.size("original_max_position_embeddings")?;
    Ok(context.original_context.or(named).filter(|&len| len > 0))
}

fn llama3(parameters: &Config, context: &RopeContext, frequencies: &mut [f32]) -> Result<()> {
    let factor = needed(parameters, "factor")? as f32;
    let low = needed(parameters, "low_freq_factor")? as f32;
    let high = needed(parameters, "high_freq_factor")? as f32;
    let original = original_context(parameters, context)?.or(context.context_max);
    let original =
        original.ok_or_else(|| Error::invalid("llama3's rope has no original length"))?;
    let original = original as f32;
    for inverse in frequencies {
        let wavelength = 2.0 * std::f32::consts::PI / *inverse;
        if wavelength > original / low {
            *inverse /= factor;
        } else if wavelength >= original / high {
            let smooth = (original / wavelength - low) / (high - low);
            *inverse = (1.0 - smooth) * *inverse / factor + smooth * *inverse;
        }
    }
    Ok(())
}

/// Changes the frequencies and gives the factor of cosines and sines (Peng et al. 2023).
fn yarn(
    parameters: &Config,
    context: &RopeContext,
    theta: f64,
    frequencies: &mut [f32],
) -> Result<f32> {
    let original = original_context(parameters, context)?.or(context.context_max);
    let original = original.ok_or_else(|| Error::invalid("yarn has no original length"))? as f64;
    let stretched = context.context_max.map(|max| max as f64 / original);
    let factor = parameters.number("factor")?.or(stretched).unwrap_or(1.0);
    let turned = 2 * frequencies.len();
    let dimension = |rotations: f64| {
        let ratio = original / (rotations * 2.0 * std::f64::consts::PI);
        turned as f64 * math::ln(ratio) / (2.0 * math::ln(theta))
    };
    let fast = parameters.number("beta_fast")?.unwrap_or(32.0);
    let slow = parameters.number("beta_slow")?.unwrap_or(1.0);
    let (mut low, mut high) = (dimension(fast), dimension(slow));
    if parameters.flag("truncate")?.unwrap_or(true) {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(turned as f64 - 1.0));
    if high <= low {
        high = low + 0.001;
    }
    for (pair, inverse) in frequencies.iter_mut().enumerate() {
        let ramp = ((pair as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let stretched = *inverse / factor as f32;
        *inverse = stretched * ramp + *inverse * (1.0 - ramp);
    }
    let growth = |scale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * scale * math::ln(factor) + 1.0
        }
    };
    let scale = parameters.number("mscale")?.filter(|&scale| scale != 0.0);
    let scale_all = parameters
        .number("mscale_all_dim")?
        .filter(|&scale| scale != 0.0);
    let computed = match (scale, scale_all) {
        (Some(scale), Some(all)) => growth(scale) / growth(all),
        _ => growth(1.0),
    };
    Ok(parameters.number("attention_factor")?.unwrap_or(computed) as f32)
}

/// Frequencies for short and for long texts (Ding et al. 2024).
fn longrope(parameters: &Config, context: &RopeContext, theta: f64, rope: &mut Rope) -> Result<()> {
    let turned = 2 * rope.frequencies.len();
    let original = original_context(parameters, context)?;
    let original = original.ok_or_else(|| Error::invalid("longrope has no original length"))?;
    let stretched = context.context_max.map(|max| max as f64 / original as f64);
    let factor = parameters.number("factor")?.or(stretched).unwrap_or(1.0);
    let scaled = |key: &str| {
        let factors = parameters
            .numbers(key)?
            .filter(|list| list.len() == turned / 2);
        let factors = factors.ok_or_else(|| {
            Error::invalid(format!(
                "longrope's `{key}` is no list of {} numbers",
                turned / 2
            ))
        })?;
        let pairs = factors.iter().enumerate();
        Ok(pairs
            .map(|(pair, &factor)| {
                let exponent = f64::from((2 * pair) as f32 / turned as f32);
                1.0 / (factor as f32 * math::pow(theta, exponent) as f32)
            })
            .collect::<Vec<f32>>())
    };
    rope.frequencies = scaled("short_factor")?;
    rope.long_frequencies = Some(scaled("long_factor")?);
    rope.long_from = original;
    let computed = if factor <= 1.0 {
        1.0
    } else {
        (1.0 + math::ln(factor) / math::ln(original as f64)).sqrt()
    };
    rope.factor = parameters.number("attention_factor")?.unwrap_or(computed) as f32;
    Ok(())
}
