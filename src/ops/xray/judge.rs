//! What the counts of a tensor say of where it comes from.

use serde::Serialize;

use crate::ops::xray::control;
use crate::ops::xray::control::Control;
use crate::ops::xray::control::Shape;
use crate::ops::xray::measure::Measure;

/// Fewer elements say nothing.
pub(crate) const ELEMENTS_MIN: u64 = 4096;
/// Rows and columns that differ by less than this, in deviations of chance, have nothing in common.
const STRUCTURE_MAX: f64 = 3.0;
/// A distribution is that of the control if it is nearer than this, in bits, besides what chance
/// does.
const NEAR_MAX: f64 = 0.002;
/// Where the last bit of what is counted says less than a bit by this, the numbers lie on a coarser
/// grid.
const CARVED_MIN: f64 = 0.02;
/// Signs of less than this are not in balance.
const SIGN_MIN: f64 = 0.999;
/// Of the numbers of a wide dtype so many are of a narrow one: all but a few were.
const RESIDUE_MIN: f64 = 0.9;
/// No more different numbers than this come from a table.
const FEW_MAX: u64 = 256;

/// Something worth knowing of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flag {
    /// Every number of it would fit into BF16.
    Bf16Lineage,
    /// Every number of it would fit into F16.
    F16Lineage,
    /// Most of its numbers would fit into BF16.
    Bf16Residue,
    /// Its mantissas use fewer bits than they have.
    UnusedMantissaBits,
    /// Of two neighbouring numbers one is there and the other is not: it went through a coarser
    /// grid.
    CarvedMantissas,
    /// It has no more different numbers than a table of eight bits.
    FewValues,
    /// One number throughout.
    Constant,
    /// Much more of one sign.
    SignImbalance,
    /// More zeros than numbers.
    Sparse,
    /// Some are not a number.
    Nan,
    /// Some are infinite.
    Infinite,
    /// Rows of zeros.
    DeadRows,
    /// Rows and columns as alike as those of fresh random numbers, and their distribution, too.
    Unstructured,
}

impl Flag {
    /// Its name, as in JSON.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bf16Lineage => "bf16-lineage",
            Self::F16Lineage => "f16-lineage",
            Self::Bf16Residue => "bf16-residue",
            Self::UnusedMantissaBits => "unused-mantissa-bits",
            Self::CarvedMantissas => "carved-mantissas",
            Self::FewValues => "few-values",
            Self::Constant => "constant",
            Self::SignImbalance => "sign-imbalance",
            Self::Sparse => "sparse",
            Self::Nan => "nan",
            Self::Infinite => "infinite",
            Self::DeadRows => "dead-rows",
            Self::Unstructured => "unstructured",
        }
    }
}

/// Bits for each element.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Entropies {
    /// Of the sign; zeros have none.
    pub sign: f64,
    /// Of the exponent.
    pub exponent: f64,
    /// Of the mantissa; of F32 its upper seven bits. Zeros have none.
    pub mantissa: f64,
}

/// What was found of one tensor.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Findings {
    /// Entropies of its elements.
    pub entropy: Entropies,
    /// And of normal numbers of the same root mean square; none for zeros, and for fewer than 4,096
    /// elements.
    pub control: Option<Entropies>,
    /// How far its exponents are from those numbers', in bits (Kullback and Leibler).
    pub divergence: Option<f64>,
    /// The least share of its size that a code for signs and exponents together and for the
    /// mantissas of what is not zero needs, in percent; lower halves of F32 count whole where they
    /// are not zero.
    pub floor_percent: f64,
    /// Mean of the finite elements.
    pub mean: f64,
    /// Their root mean square.
    pub rms: f64,
    /// The least of them.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Elements that are zero.
    pub zeros: u64,
    /// Not a number.
    pub nans: u64,
    /// Infinite.
    pub infinities: u64,
    /// Rows of zeros.
    pub dead_rows: u64,
    /// Different numbers; none for F32 whose lower halves are not all zero, of which only upper
    /// halves are counted.
    pub distinct: Option<u64>,
    /// Low bits of the mantissa that are never set.
    pub unused_mantissa_bits: u32,
    /// How far its rows and its columns differ from each other, in deviations of what chance does.
    pub structure: Option<[f64; 2]>,
    /// What is worth knowing.
    pub flags: Vec<Flag>,
}

impl Flag {
    /// What it says, in a few words.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Bf16Lineage => "every number would fit into BF16: it was BF16 once, most likely",
            Self::F16Lineage => "every number would fit into F16: it was F16 once, most likely",
            Self::Bf16Residue => "90 % of the numbers would fit into BF16",
            Self::UnusedMantissaBits => "low bits of the mantissa are never set",
            Self::CarvedMantissas => {
                "of two neighbouring numbers one is there and the other is not, as after quantising"
            }
            Self::FewValues => "at most 256 different numbers",
            Self::Constant => "one number throughout",
            Self::SignImbalance => "much more of one sign than of the other",
            Self::Sparse => "more than half are zero",
            Self::Nan => "some are not a number",
            Self::Infinite => "some are infinite",
            Self::DeadRows => "rows of zeros only",
            Self::Unstructured => "cannot be told from fresh random numbers",
        }
    }
}

impl Findings {
    /// Whether it could be told from fresh random numbers.
    pub(crate) fn is_judged(&self) -> bool {
        self.structure.is_some() && !self.flags.contains(&Flag::Constant)
    }
}

/// Judges what was counted.
#[expect(clippy::cast_precision_loss, reason = "statistics")]
pub(crate) fn judge(measure: &Measure, dtype: &str) -> Findings {
    let layout = measure.layout;
    let elements = measure.elements();
    let finite = (elements - measure.nans - measure.infinities).max(1) as f64;
    let half = layout.symbols() / 2;
    let sum = |counts: &[u64]| counts.iter().sum::<u64>();
    // zeros have no sign that says anything
    let signs = [&measure.counts[1..half], &measure.counts[half + 1..]].map(sum);
    let (exponents, mantissas) = measure.marginals();
    let entropy = Entropies {
        sign: control::entropy_of(&signs),
        exponent: control::entropy_of(&exponents),
        mantissa: control::entropy_of(&mantissas),
    };
    let normal = Control::matched(measure, Shape::Normal).filter(|_| elements >= ELEMENTS_MIN);
    let masses = |masses: &[f64]| control::entropy(masses.iter().copied());
    // what would be negative zero is none in some formats
    let negative = if layout.values()[half] == 0.0 {
        measure.counts[half]
    } else {
        0
    };
    let zeros = measure.counts[0] + negative;
    let is_wide = layout.width == 4;
    let distinct = measure.counts.iter().filter(|&&count| count > 0).count() as u64;
    let mut findings = Findings {
        entropy,
        control: normal.as_ref().map(|control| Entropies {
            sign: 1.0,
            exponent: masses(&control.exponents),
            mantissa: masses(&control.mantissas),
        }),
        divergence: normal
            .as_ref()
            .map(|control| control::divergence(&exponents, &control.exponents)),
        floor_percent: floor_percent(measure, zeros, entropy.mantissa),
        mean: measure.sum / finite,
        rms: (measure.sum_2 / finite).sqrt(),
        min: measure.min,
        max: measure.max,
        // the zero of a wide float has a lower half, too
        zeros: if is_wide {
            zeros.min(measure.low_zero)
        } else {
            zeros
        },
        nans: measure.nans,
        infinities: measure.infinities,
        dead_rows: measure.dead_rows,
        distinct: (measure.low_bits == 0).then_some(distinct),
        unused_mantissa_bits: unused_mantissa_bits(measure),
        structure: measure.structure().filter(|_| elements >= ELEMENTS_MIN),
        flags: Vec::new(),
    };
    findings.flags = flags(measure, dtype, &findings, &exponents);
    findings
}

/// Of signs and exponents together, and of mantissas apart, as the codecs code them.
#[expect(clippy::cast_precision_loss, reason = "statistics")]
fn floor_percent(measure: &Measure, zeros: u64, mantissa: f64) -> f64 {
    let layout = measure.layout;
    let elements = measure.elements().max(1) as f64;
    let mut together = vec![0; layout.symbols() >> layout.mantissa_bits];
    for (symbol, &count) in measure.counts.iter().enumerate() {
        together[symbol >> layout.mantissa_bits] += count;
    }
    let low = if layout.width == 4 {
        16.0 * (1.0 - measure.low_zero as f64 / elements)
    } else {
        0.0
    };
    let with_mantissa = 1.0 - zeros as f64 / elements;
    let bits = control::entropy_of(&together) + with_mantissa * mantissa + low;
    bits * 100.0 / (8 * layout.width) as f64
}

/// Low bits of the mantissa that no element sets; all of it counts for a wide float.
fn unused_mantissa_bits(measure: &Measure) -> u32 {
    let layout = measure.layout;
    let used = measure.counts.iter().enumerate();
    let used = used.filter(|(_, count)| **count > 0);
    let bits = used.fold(0, |bits, (symbol, _)| bits | layout.split(symbol).2);
    let upper = (bits | 1 << layout.mantissa_bits).trailing_zeros();
    match (layout.width, measure.low_bits) {
        (4, 0) => 16 + upper,
        (4, low) => low.trailing_zeros(),
        _ => upper,
    }
}

/// How much the last bit of the mantissa says when all other bits are known: one bit for numbers
/// that were computed, whatever their distribution, as that hardly changes from one number to the
/// next. What chance takes from it is added.
#[expect(clippy::cast_precision_loss, reason = "statistics")]
fn last_bit(measure: &Measure) -> f64 {
    /// Pairs that occur less often say nothing, and so do few of them: an edge of the distribution
    /// goes through some.
    const COUNT_MIN: u64 = 16;
    const PAIRS_MIN: f64 = 32.0;
    let (mut bits, mut total, mut used) = (0.0, 0.0, 0.0);
    let values = measure.layout.values().chunks_exact(2);
    for (pair, values) in measure.counts.chunks_exact(2).zip(values) {
        let is_number = values
            .iter()
            .all(|value| value.is_finite() && *value != 0.0);
        let count = pair[0] + pair[1];
        if is_number && count >= COUNT_MIN {
            let count = count as f64;
            bits += count * control::entropy_of(pair);
            total += count;
            used += 1.0;
        }
    }
    if used < PAIRS_MIN {
        return 1.0;
    }
    // of few numbers the entropy of a pair comes out lower, by this for each
    (bits + used / (2.0 * std::f64::consts::LN_2)) / total
}

#[expect(clippy::cast_precision_loss, reason = "statistics")]
fn flags(measure: &Measure, dtype: &str, found: &Findings, exponents: &[u64]) -> Vec<Flag> {
    let elements = measure.elements();
    let mut flags = Vec::new();
    let mut flag_if = |is_so: bool, flag: Flag| {
        if is_so {
            flags.push(flag);
        }
    };
    flag_if(found.nans > 0, Flag::Nan);
    flag_if(found.infinities > 0, Flag::Infinite);
    let is_constant = measure.is_constant() && elements > 1;
    flag_if(is_constant, Flag::Constant);
    if elements < ELEMENTS_MIN || is_constant {
        return flags;
    }
    let unused = found.unused_mantissa_bits;
    let is_bf16 = dtype == "F32" && unused >= 16 || dtype == "F16" && unused >= 3;
    let is_f16 = dtype == "F32"
        && (13..16).contains(&unused)
        && found.max.abs().max(found.min.abs()) <= 65504.0;
    let of_bf16 = measure.low_zero as f64 / elements as f64;
    flag_if(is_bf16, Flag::Bf16Lineage);
    flag_if(is_f16, Flag::F16Lineage);
    flag_if(
        dtype == "F32" && !is_bf16 && of_bf16 >= RESIDUE_MIN,
        Flag::Bf16Residue,
    );
    flag_if(unused > 0 && !is_bf16 && !is_f16, Flag::UnusedMantissaBits);
    let few = found.distinct.is_some_and(|distinct| distinct <= FEW_MAX)
        && measure.layout.symbol_bits == 16;
    flag_if(few, Flag::FewValues);
    // of as many numbers the divergence comes out larger by this
    let bias =
        |counts: &[u64]| counts.len() as f64 / (elements as f64 * 2.0 * std::f64::consts::LN_2);
    let is_carved = unused == 0 && !few && last_bit(measure) < 1.0 - CARVED_MIN;
    flag_if(is_carved, Flag::CarvedMantissas);
    // scales and shifts of a normalisation have one sign by nature
    let is_matrix = found.structure.is_some();
    flag_if(
        is_matrix && found.entropy.sign < SIGN_MIN,
        Flag::SignImbalance,
    );
    flag_if(found.zeros > elements / 2, Flag::Sparse);
    flag_if(found.dead_rows > 0, Flag::DeadRows);
    let is_near = |shape: Shape| {
        let control = Control::matched(measure, shape);
        let used = exponents.iter().filter(|&&count| count > 0).count();
        let chance = 4.0 * bias(&exponents[..used]);
        control.is_some_and(|control| {
            control::divergence(exponents, &control.exponents) < NEAR_MAX + chance
        })
    };
    let is_even = found
        .structure
        .is_some_and(|sides| sides.iter().all(|side| side.abs() < STRUCTURE_MAX));
    let is_fresh = is_even
        && [Shape::Normal, Shape::Truncated, Shape::Uniform]
            .into_iter()
            .any(is_near);
    flag_if(is_fresh, Flag::Unstructured);
    flags
}
