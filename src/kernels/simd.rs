//! What a set of instructions gives to the products: 64 lanes at once for one row, or one register
//! of some of them for many rows.

use crate::kernels::Element;
use crate::kernels::LANES;
use crate::kernels::group;
use crate::kernels::group::GROUP_LEN;

/// 64 weights of the widest element: what a group is padded to.
pub(super) const GROUP_LEN_MAX: usize = LANES * 4;

/// A set of instructions. A value of it is the proof that the processor has them, so that whoever
/// has one may call everything.
pub(super) trait Simd: Copy {
    /// The sums of 64 lanes, in registers.
    type Sums: Copy + AsMut<[Self::Register]>;
    /// A register.
    type Register: Copy;
    /// Lanes of a register: divides [`LANES`].
    const WIDTH: usize;

    /// 64 lanes of zero.
    fn zeros(self) -> Self::Sums;
    /// The tree over 64 lanes.
    fn sum(self, sums: Self::Sums) -> f32;

    /// A register of zeros.
    fn zero(self) -> Self::Register;
    /// A register from the first values of a slice.
    fn load(self, from: &[f32]) -> Self::Register;
    /// `sum + a * b`, rounded once.
    fn fma(self, a: Self::Register, b: Self::Register, sum: Self::Register) -> Self::Register;
    /// Writes a register to the first values of a slice.
    fn store(self, register: Self::Register, to: &mut [f32]);
    /// Register `number` of a group of 64 weights, widened.
    fn widen<const E: u8>(self, weights: &[u8], number: usize) -> Self::Register;

    /// `sums + weights * x`, lane by lane, each rounded once. `weights` has 64 elements.
    #[inline(always)]
    fn fma_group<const E: u8>(
        self,
        mut sums: Self::Sums,
        weights: &[u8],
        x: &[f32; LANES],
    ) -> Self::Sums {
        for (number, sum) in sums.as_mut().iter_mut().enumerate() {
            let x = self.load(&x[number * Self::WIDTH..]);
            *sum = self.fma(self.widen::<E>(weights, number), x, *sum);
        }
        sums
    }

    /// The same of weights that are in registers already.
    #[inline(always)]
    fn fma_widened(
        self,
        mut sums: Self::Sums,
        mut weights: Self::Sums,
        x: &[f32; LANES],
    ) -> Self::Sums {
        let pairs = sums.as_mut().iter_mut().zip(weights.as_mut());
        for (number, (sum, weights)) in pairs.enumerate() {
            *sum = self.fma(*weights, self.load(&x[number * Self::WIDTH..]), *sum);
        }
        sums
    }

    /// The same of weights that are f32 already.
    #[inline(always)]
    fn fma_values(self, mut sums: Self::Sums, a: &[f32; LANES], b: &[f32; LANES]) -> Self::Sums {
        for (number, sum) in sums.as_mut().iter_mut().enumerate() {
            let at = number * Self::WIDTH;
            *sum = self.fma(self.load(&a[at..]), self.load(&b[at..]), *sum);
        }
        sums
    }

    /// 64 lanes from memory.
    #[inline(always)]
    fn sums_at(self, lanes: &[f32; LANES]) -> Self::Sums {
        let mut sums = self.zeros();
        for (number, sum) in sums.as_mut().iter_mut().enumerate() {
            *sum = self.load(&lanes[number * Self::WIDTH..]);
        }
        sums
    }

    /// 64 lanes to memory.
    #[inline(always)]
    fn store_all(self, mut sums: Self::Sums, to: &mut [f32; LANES]) {
        for (number, sum) in sums.as_mut().iter().enumerate() {
            self.store(*sum, &mut to[number * Self::WIDTH..]);
        }
    }

    /// Rows of weights that [`Simd::multiply`] takes at a time.
    const ROWS: usize;
    /// Vectors that [`Simd::multiply`] takes at a time.
    const VECTORS: usize;
    /// A register's lanes, from `lane` on, of [`Simd::ROWS`] rows times [`Simd::VECTORS`] vectors,
    /// or one; see [`gemm`](crate::kernels::gemm).
    fn multiply(self, operands: Operands<'_>, lane: usize, lanes: &mut [[f32; LANES]]);

    /// 64 weights of a packed group, widened: those that are listed have a wrong upper byte.
    #[inline(always)]
    fn widen_packed(self, group: &[u8; GROUP_LEN], table: &[u8; 16]) -> Self::Sums {
        self.sums_at(&group::widen(group, table))
    }

    /// `sums + weights * x` of a packed group without listed weights.
    #[inline(always)]
    fn fma_packed(
        self,
        sums: Self::Sums,
        group: &[u8; GROUP_LEN],
        table: &[u8; 16],
        x: &[f32; LANES],
    ) -> Self::Sums {
        self.fma_widened(sums, self.widen_packed(group, table), x)
    }

    /// Runs a kernel, compiled for these instructions.
    fn run<K: Kernel>(self, kernel: K);
}

/// A kernel with its operands, compiled once for each set of instructions.
pub(super) trait Kernel {
    /// Does it.
    fn run<S: Simd>(self, simd: S);
}

/// What is multiplied at a time: the columns of one register.
#[derive(Debug, Clone, Copy)]
pub(super) struct Operands<'a> {
    /// [`Simd::ROWS`] rows, widened: `[group][row][lane]`.
    pub(super) rows: &'a [f32],
    /// [`Simd::VECTORS`] vectors, or one: `[group][vector][lane]`.
    pub(super) vectors: &'a [f32],
}

/// [`Element`] as the number that kernels are compiled for.
pub(super) const BF16: u8 = Element::Bf16 as u8;
pub(super) const F16: u8 = Element::F16 as u8;
pub(super) const F32: u8 = Element::F32 as u8;
pub(super) const F8: u8 = Element::F8 as u8;

/// Bytes of an element.
pub(super) const fn size_of_element(element: u8) -> usize {
    match element {
        F32 => 4,
        F8 => 1,
        _ => 2,
    }
}

/// Calls `each` with every group of a row, the last one padded with zeros.
#[inline(always)]
pub(super) fn for_each_group<const E: u8>(row: &[u8], mut each: impl FnMut(usize, &[u8])) {
    let group_len = LANES * size_of_element(E);
    let whole = row.len() / group_len;
    for (number, group) in row.chunks_exact(group_len).enumerate() {
        each(number, group);
    }
    let rest = &row[whole * group_len..];
    if !rest.is_empty() {
        let mut padded = [0; GROUP_LEN_MAX];
        padded[..rest.len()].copy_from_slice(rest);
        each(whole, &padded[..group_len]);
    }
}
