//! What is counted of one tensor while its bytes pass by, piece by piece.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use crate::tensor::values;

/// Longer rows have no sums of their own for each column.
const COLUMNS_MAX: usize = 1 << 20;
/// Fewer rows or columns say nothing of each other.
pub(super) const SIDE_MIN: u64 = 16;

/// How a float of at most sixteen bits is laid out; of wider ones that is their upper half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bytes of an element.
    pub width: usize,
    /// Bits of the symbols that are counted.
    pub symbol_bits: u32,
    /// Bits of the mantissa among them.
    pub mantissa_bits: u32,
    /// The dtype whose numbers the symbols are.
    pub dtype: &'static str,
}

impl Layout {
    /// Of a dtype; none for what is no float of one, two or four bytes.
    pub(crate) fn of(dtype: &str) -> Option<Self> {
        let new = |width, symbol_bits, mantissa_bits, dtype| {
            Some(Self {
                width,
                symbol_bits,
                mantissa_bits,
                dtype,
            })
        };
        match dtype {
            "BF16" => new(2, 16, 7, "BF16"),
            "F32" => new(4, 16, 7, "BF16"),
            "F16" => new(2, 16, 10, "F16"),
            "F8_E4M3" => new(1, 8, 3, "F8_E4M3"),
            "F8_E5M2" => new(1, 8, 2, "F8_E5M2"),
            "F8_E4M3FNUZ" => new(1, 8, 3, "F8_E4M3FNUZ"),
            "F8_E5M2FNUZ" => new(1, 8, 2, "F8_E5M2FNUZ"),
            _ => None,
        }
    }

    /// How many symbols there are.
    pub(crate) fn symbols(self) -> usize {
        1 << self.symbol_bits
    }

    /// How many exponents there are.
    pub(crate) fn exponents(self) -> usize {
        1 << (self.symbol_bits - 1 - self.mantissa_bits)
    }

    /// Sign, exponent and mantissa of a symbol.
    pub(crate) fn split(self, symbol: usize) -> (usize, usize, usize) {
        let mantissa = symbol & ((1 << self.mantissa_bits) - 1);
        let exponent = symbol >> self.mantissa_bits & (self.exponents() - 1);
        (symbol >> (self.symbol_bits - 1), exponent, mantissa)
    }

    /// The number that each symbol stands for. Made once for each dtype: a model may have very many
    /// small tensors.
    pub(crate) fn values(self) -> &'static [f64] {
        static ALL: Mutex<BTreeMap<&str, &[f64]>> = Mutex::new(BTreeMap::new());
        let mut all = ALL.lock();
        all.entry(self.dtype).or_insert_with(|| {
            let Some(values) = values::of(self.dtype) else {
                unreachable!("a dtype with a layout has numbers");
            };
            let value =
                |symbol: usize| (values.value)(&(symbol as u16).to_le_bytes()[..values.width]);
            (0..self.symbols()).map(value).collect::<Vec<_>>().leak()
        })
    }
}

/// Rows and columns of a tensor as a matrix: the last dimension, or all but the first if that is
/// short.
pub(crate) fn sides(shape: &[u64]) -> (u64, u64) {
    let elements: u64 = shape.iter().product();
    let last = shape.last().copied().unwrap_or(1);
    let columns = match shape.first() {
        Some(&first) if last < SIDE_MIN && first > 0 => elements / first,
        _ => last,
    };
    (elements.checked_div(columns).unwrap_or(0), columns)
}

/// Sums and counts of one tensor.
#[derive(Debug)]
pub(crate) struct Measure {
    /// How its elements are laid out.
    pub layout: Layout,
    values: &'static [f64],
    /// How often each symbol occurs.
    pub counts: Vec<u64>,
    /// Of the lower half of wide elements: all bits that occur, and how many are zero.
    pub low_bits: u16,
    /// All bits of lower halves that are set in every one.
    low_common: u16,
    /// Elements whose lower half is zero.
    pub low_zero: u64,
    /// Elements that are not a number, and not finite.
    pub nans: u64,
    /// Elements that are infinite.
    pub infinities: u64,
    /// Sum of the finite elements.
    pub sum: f64,
    /// Of their squares.
    pub sum_2: f64,
    /// The least element.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// Of rows of finite numbers that are not all zero: how many, the sum of their mean squares,
    /// and of the squares of those.
    pub rows: [f64; 3],
    /// The squares and the fourth powers of those rows.
    powers: [f64; 2],
    /// Rows that are all zero.
    pub dead_rows: u64,
    /// Length of a row.
    pub columns: u64,
    column: usize,
    /// Squares and fourth powers of the row so far, and whether all of it is finite.
    row: ([f64; 2], bool),
    column_sums: Vec<f64>,
    rest: Vec<u8>,
}

impl Measure {
    /// Nothing yet, of a tensor of this dtype and shape; none if it holds no floats.
    pub(crate) fn new(dtype: &str, shape: &[u64]) -> Option<Self> {
        let layout = Layout::of(dtype)?;
        let (_, columns) = sides(shape);
        let sums = usize::try_from(columns).unwrap_or(usize::MAX);
        Some(Self {
            layout,
            values: layout.values(),
            counts: vec![0; layout.symbols()],
            low_bits: 0,
            low_common: u16::MAX,
            low_zero: 0,
            nans: 0,
            infinities: 0,
            sum: 0.0,
            sum_2: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            rows: [0.0; 3],
            powers: [0.0; 2],
            dead_rows: 0,
            columns,
            column: 0,
            row: ([0.0; 2], true),
            column_sums: vec![0.0; if sums <= COLUMNS_MAX { sums } else { 0 }],
            rest: Vec::new(),
        })
    }

    /// Takes the next bytes.
    pub(crate) fn take(&mut self, bytes: &[u8]) {
        let width = self.layout.width;
        let mut bytes = bytes;
        if !self.rest.is_empty() {
            let wanted = (width - self.rest.len()).min(bytes.len());
            self.rest.extend_from_slice(&bytes[..wanted]);
            bytes = &bytes[wanted..];
            if self.rest.len() < width {
                return;
            }
            let whole = std::mem::take(&mut self.rest);
            self.take_elements(&whole);
        }
        let whole = bytes.len() / width * width;
        self.take_elements(&bytes[..whole]);
        self.rest.extend_from_slice(&bytes[whole..]);
    }

    fn take_elements(&mut self, bytes: &[u8]) {
        match self.layout.width {
            1 => bytes.iter().for_each(|&byte| self.symbol(byte.into())),
            2 => {
                for element in bytes.as_chunks().0 {
                    self.symbol(u16::from_le_bytes(*element).into());
                }
            }
            _ => {
                for element in bytes.as_chunks().0 {
                    self.wide(u32::from_le_bytes(*element));
                }
            }
        }
    }

    fn symbol(&mut self, symbol: usize) {
        self.counts[symbol] += 1;
        self.element(self.values[symbol]);
    }

    fn wide(&mut self, bits: u32) {
        self.counts[(bits >> 16) as usize] += 1;
        let low = bits as u16;
        self.low_bits |= low;
        self.low_common &= low;
        self.low_zero += u64::from(low == 0);
        self.element(f32::from_bits(bits).into());
    }

    fn element(&mut self, value: f64) {
        let square = value * value;
        if square.is_finite() {
            self.sum += value;
            self.sum_2 += square;
            self.row.0[0] += square;
            self.row.0[1] += square * square;
            self.min = self.min.min(value);
            self.max = self.max.max(value);
            if let Some(sum) = self.column_sums.get_mut(self.column) {
                *sum += square;
            }
        } else {
            self.row.1 = false;
            self.nans += u64::from(value.is_nan());
            self.infinities += u64::from(value.is_infinite());
        }
        self.column += 1;
        if self.column as u64 == self.columns {
            self.end_row();
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "statistics")]
    fn end_row(&mut self) {
        let ([squares, fourths], is_finite) = self.row;
        if is_finite && squares > 0.0 {
            let mean = squares / self.columns as f64;
            self.rows[0] += 1.0;
            self.rows[1] += mean;
            self.rows[2] += mean * mean;
            self.powers[0] += squares;
            self.powers[1] += fourths;
        }
        self.dead_rows += u64::from(is_finite && squares <= 0.0);
        (self.column, self.row) = (0, ([0.0; 2], true));
    }

    /// Elements that are finite and not zero, but for those of F32 of which only the lower half is
    /// not.
    pub(crate) fn numbers(&self) -> u64 {
        let half = self.layout.symbols() / 2;
        let zeros = [0, half].map(|zero| {
            if self.values[zero] == 0.0 {
                self.counts[zero]
            } else {
                0
            }
        });
        self.elements() - self.nans - self.infinities - zeros[0] - zeros[1]
    }

    /// Whether all elements have the same bits.
    pub(crate) fn is_constant(&self) -> bool {
        let used = self.counts.iter().filter(|&&count| count > 0).count();
        used == 1 && (self.layout.width < 4 || self.low_bits == self.low_common)
    }

    /// Elements counted.
    pub(crate) fn elements(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// How often each exponent, and each mantissa, occurs among the elements that are finite and
    /// not zero.
    pub(crate) fn marginals(&self) -> (Vec<u64>, Vec<u64>) {
        let mut exponents = vec![0; self.layout.exponents()];
        let mut mantissas = vec![0; 1 << self.layout.mantissa_bits];
        for (symbol, &count) in self.counts.iter().enumerate() {
            let (_, exponent, mantissa) = self.layout.split(symbol);
            let is_number = self.values[symbol].is_finite() && (exponent > 0 || mantissa > 0);
            if is_number {
                exponents[exponent] += count;
                mantissas[mantissa] += count;
            }
        }
        (exponents, mantissas)
    }

    /// How far the mean squares of the rows, and of the columns, differ more from each other than
    /// those of independent numbers of this distribution would: in standard deviations of what
    /// chance does. None where there are too few of them.
    #[expect(clippy::cast_precision_loss, reason = "statistics")]
    pub(crate) fn structure(&self) -> Option<[f64; 2]> {
        let [rows, sum, sum_2] = self.rows;
        let elements = rows * self.columns as f64;
        let mean_2 = self.powers[0] / elements;
        // of the squares: their variance over the square of their mean
        let spread = self.powers[1] / elements / (mean_2 * mean_2) - 1.0;
        let columns = &self.column_sums;
        let is_even = spread.is_nan() || spread <= 0.0;
        if rows < SIDE_MIN as f64 || columns.len() < SIDE_MIN as usize || is_even {
            return None;
        }
        let deviations = |count: f64, [sum, sum_2]: [f64; 2], other: f64| {
            let mean = sum / count;
            let variance = sum_2 / count / (mean * mean) - 1.0;
            (variance * other / spread - 1.0) / (2.0 / count).sqrt()
        };
        let of_rows = deviations(rows, [sum, sum_2], columns.len() as f64);
        let sums = columns.iter().fold([0.0; 2], |[sum, sum_2], column| {
            [sum + column, sum_2 + column * column]
        });
        let of_columns = deviations(columns.len() as f64, sums, rows);
        Some([of_rows, of_columns])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_count_the_same() {
        let bytes: Vec<u8> = (0..4000_u16)
            .flat_map(|n| f32::from(n).sin().to_le_bytes())
            .collect();
        let mut whole = Measure::new("F32", &[40, 100]).unwrap();
        whole.take(&bytes);
        for step in [1, 3, 7, 1000] {
            let mut pieces = Measure::new("F32", &[40, 100]).unwrap();
            bytes.chunks(step).for_each(|piece| pieces.take(piece));
            assert_eq!(pieces.counts, whole.counts);
            assert_eq!(pieces.structure(), whole.structure());
        }
        assert_eq!(whole.elements(), 4000);
        assert!(whole.max <= 1.0 && whole.min >= -1.0);
    }

    #[test]
    fn what_is_no_number_is_counted_and_summed_up_nowhere() {
        let values = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            2.0,
            0.0,
            0.0,
            0.0,
            0.0,
        ];
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let mut measure = Measure::new("F32", &[2, 4]).unwrap();
        measure.take(&bytes);
        assert_eq!(
            (measure.nans, measure.infinities, measure.dead_rows),
            (1, 2, 1)
        );
        assert_eq!((measure.sum, measure.max), (2.0, 2.0));
        assert!(Measure::new("I64", &[2]).is_none());
    }

    #[test]
    fn constant_is_what_has_one_pattern_of_bits() {
        let of = |values: &[f32]| {
            let mut measure = Measure::new("F32", &[values.len() as u64]).unwrap();
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            measure.take(&bytes);
            measure.is_constant()
        };
        assert!(of(&[0.0; 9]) && of(&[1.1; 9]) && of(&[f32::NEG_INFINITY; 3]));
        // a mask of zeros and -inf, one NaN, another sign, a last bit
        assert!(!of(&[0.0, f32::NEG_INFINITY]) && !of(&[1.0, 1.0, f32::NAN]));
        assert!(!of(&[0.0, -0.0]) && !of(&[1.0, 1.000_000_1]) && !of(&[]));
    }

    #[test]
    fn a_kernel_of_a_convolution_is_a_matrix_too() {
        assert_eq!(sides(&[64, 32, 3, 3]), (64, 288));
        assert_eq!(sides(&[4, 100, 200]), (400, 200));
        assert_eq!(sides(&[]), (1, 1));
        assert_eq!(sides(&[0, 5]), (0, 5));
    }
}
