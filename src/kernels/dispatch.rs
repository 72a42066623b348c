//! The kernels of one set of instructions, chosen in one place.

use std::sync::LazyLock;

use crate::base::level;
use crate::base::level::Level;
use crate::kernels::Element;
use crate::kernels::attention::Attention;
use crate::kernels::elementwise::Activate;
use crate::kernels::elementwise::Activation;
use crate::kernels::elementwise::Gated;
use crate::kernels::elementwise::LayerNorm;
use crate::kernels::elementwise::RmsNorm;
use crate::kernels::elementwise::SoftCap;
use crate::kernels::gemm::Elements;
use crate::kernels::gemm::Gemm;
use crate::kernels::gemm::Pack;
use crate::kernels::gemm::ROWS_MAX;
use crate::kernels::gemv::Gemv;
use crate::kernels::packed;
use crate::kernels::rope::Pairs;
use crate::kernels::rope::Rotate;
use crate::kernels::scalar;
use crate::kernels::scalar::Scalar;
use crate::kernels::scaled;
use crate::kernels::simd::BF16;
use crate::kernels::simd::F8;
use crate::kernels::simd::F16;
use crate::kernels::simd::F32;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;

#[cfg(target_arch = "x86_64")]
use crate::kernels::avx2::Avx2;
#[cfg(target_arch = "x86_64")]
use crate::kernels::avx512::Avx512;
#[cfg(target_arch = "aarch64")]
use crate::kernels::neon::Neon;

/// A set of instructions that is there.
#[derive(Debug, Clone, Copy)]
enum Set {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
}

/// All kernels, for one set of instructions. Every set gives the same bits.
#[derive(Debug, Clone, Copy)]
pub struct Kernels(Set);

/// Those of every set that this processor has, the definition first and the widest last.
pub fn available() -> Vec<Kernels> {
    let scalar = Some(Set::Scalar(Scalar));
    #[cfg(target_arch = "x86_64")]
    let faster = [
        Avx2::detect().map(Set::Avx2),
        Avx512::detect().map(Set::Avx512),
    ];
    #[cfg(target_arch = "aarch64")]
    let faster = [Neon::detect().map(Set::Neon)];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let faster: [Option<Set>; 0] = [];
    let sets = scalar.into_iter().chain(faster.into_iter().flatten());
    sets.map(Kernels).collect()
}

/// Those of the level that is asked for, or of the widest that is there.
pub fn kernels() -> Kernels {
    static CHOSEN: LazyLock<Kernels> = LazyLock::new(|| {
        let wanted = level::chosen();
        let fit = available().into_iter().rfind(|set| set.level() <= wanted);
        fit.unwrap_or(Kernels(Set::Scalar(Scalar)))
    });
    *CHOSEN
}

impl Kernels {
    /// Whose instructions they use.
    pub fn level(self) -> Level {
        match self.0 {
            Set::Scalar(_) => Level::Scalar,
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(_) => Level::Avx2,
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(_) => Level::Avx512,
            #[cfg(target_arch = "aarch64")]
            Set::Neon(_) => Level::Neon,
        }
    }

    fn run(self, kernel: impl Kernel) {
        match self.0 {
            Set::Scalar(set) => set.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx2(set) => set.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Set::Avx512(set) => set.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Set::Neon(set) => set.run(kernel),
        }
    }

    /// Elements as f32, exactly.
    pub fn widen(element: Element, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(
            bytes.len(),
            out.len() * element.size(),
            "as many as there is room for"
        );
        for (at, out) in out.iter_mut().enumerate() {
            *out = match element {
                Element::Bf16 => scalar::element::<BF16>(bytes, at),
                Element::F16 => scalar::element::<F16>(bytes, at),
                Element::F32 => scalar::element::<F32>(bytes, at),
                Element::F8 => scalar::element::<F8>(bytes, at),
            };
        }
    }

    /// `out[r] = rows[r] . x`: as many rows as `out` has values, one behind another, of as many
    /// columns as `x` has without its padding.
    pub fn gemv(self, element: Element, rows: &[u8], x: &[f32], out: &mut [f32]) {
        if out.is_empty() {
            return;
        }
        match element {
            Element::Bf16 => self.run(Gemv::<BF16> { rows, x, out }),
            Element::F16 => self.run(Gemv::<F16> { rows, x, out }),
            Element::F32 => self.run(Gemv::<F32> { rows, x, out }),
            Element::F8 => self.run(Gemv::<F8> { rows, x, out }),
        }
    }

    /// The same of a tile of rows that [`Kernels::pack_rows`] gave.
    pub fn packed_gemv(self, tile: &[u8], x: &[f32], out: &mut [f32]) {
        self.run(packed::Gemv { tile, x, out });
    }

    /// Rows of BF16 of a tile that [`Kernels::pack_rows`] gave, as they were; all of them.
    pub fn unpack_rows(self, tile: &[u8], row_len: usize, out: &mut [u8]) {
        self.run(packed::Unpack { tile, row_len, out });
    }

    /// Packs rows of BF16, each of `row_len` bytes, as a tile of [`packed`], into `out`, which has
    /// [`packed::packed_len`] bytes. Gives how many are used, or none where packing does not pay.
    pub fn pack_rows(self, rows: &[u8], row_len: usize, out: &mut [u8]) -> Option<usize> {
        let mut len = None;
        self.run(packed::Pack {
            rows,
            row_len,
            out,
            len: &mut len,
        });
        len
    }

    /// Packs vectors of `padded_columns` values for [`Kernels::gemm`]; `packed` is as long.
    pub fn pack(self, vectors: &[f32], padded_columns: usize, packed: &mut [f32]) {
        assert_eq!(vectors.len(), packed.len(), "as long as what is packed");
        self.run(Pack {
            vectors,
            padded_columns,
            packed,
        });
    }

    /// Values of the panel that [`Kernels::gemm`] wants.
    pub fn panel_len(self, padded_columns: usize) -> usize {
        ROWS_MAX * padded_columns
    }

    /// `out[r * vectors + v] = rows[r] . vector v`: the same bits as [`Kernels::gemv`] with each of
    /// the vectors.
    pub fn gemm(
        self,
        element: Element,
        (rows, row_len): (&[u8], usize),
        (packed, padded_columns): (&[f32], usize),
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        if out.is_empty() {
            return;
        }
        macro_rules! gemm {
            ($element:ident) => {
                self.run(Gemm {
                    rows: Elements::<$element> { rows, row_len },
                    packed,
                    padded_columns,
                    panel,
                    out,
                })
            };
        }
        match element {
            Element::Bf16 => gemm!(BF16),
            Element::F16 => gemm!(F16),
            Element::F32 => gemm!(F32),
            Element::F8 => gemm!(F8),
        }
    }

    /// [`Kernels::gemm`] of a tile that [`Kernels::pack_rows`] gave.
    pub fn packed_gemm(
        self,
        tile: &[u8],
        (packed, padded_columns): (&[f32], usize),
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        let rows = out.len() / (packed.len() / padded_columns);
        self.run(Gemm {
            rows: packed::Tile::new(tile, rows, padded_columns),
            packed,
            padded_columns,
            panel,
            out,
        });
    }

    /// [`Kernels::gemv`] of rows with scales.
    pub fn scaled_gemv(self, rows: scaled::Rows<'_>, x: &[f32], out: &mut [f32]) {
        self.run(scaled::Gemv { rows, x, out });
    }

    /// [`Kernels::gemm`] of rows with scales.
    pub fn scaled_gemm(
        self,
        rows: scaled::Rows<'_>,
        (packed, padded_columns): (&[f32], usize),
        panel: &mut [f32],
        out: &mut [f32],
    ) {
        self.run(Gemm {
            rows,
            packed,
            padded_columns,
            panel,
            out,
        });
    }

    /// A query head against its cache.
    pub fn attention(self, attention: Attention<'_>) {
        self.run(attention);
    }

    /// `out = x / sqrt(mean(x^2) + epsilon) * (weight + offset)`; no weight is one.
    pub fn rms_norm(
        self,
        x: &[f32],
        weight: Option<&[f32]>,
        (offset, epsilon): (f32, f32),
        out: &mut [f32],
    ) {
        self.run(RmsNorm {
            x,
            weight,
            offset,
            epsilon,
            out,
        });
    }

    /// `out = (x - mean) / sqrt(variance + epsilon) * weight + bias`.
    pub fn layer_norm(
        self,
        x: &[f32],
        (weight, bias): (&[f32], &[f32]),
        epsilon: f32,
        out: &mut [f32],
    ) {
        self.run(LayerNorm {
            x,
            weight,
            bias,
            epsilon,
            out,
        });
    }

    /// `x = act(x)`.
    pub fn activate(self, activation: Activation, x: &mut [f32]) {
        self.run(Activate { activation, x });
    }

    /// `gate = act(gate) * up`.
    pub fn gate(self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        self.run(Gated {
            activation,
            x: gate,
            up,
        });
    }

    /// Turns the first `2 * cos.len()` values of a head.
    pub fn rotate(self, head: &mut [f32], (cos, sin): (&[f32], &[f32]), pairs: Pairs) {
        self.run(Rotate {
            head,
            cos,
            sin,
            pairs,
        });
    }

    /// `x = cap * tanh(x / cap)`.
    pub fn soft_cap(self, x: &mut [f32], cap: f32) {
        self.run(SoftCap { x, cap });
    }
}
