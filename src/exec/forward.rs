//! One pass over the weights: rows of activations, each a token of a text, from embeddings to
//! logits.
//!
//! ```text
//! x = embedding(token)
//! each layer:   h = norm(x);  q, k, v = W h;  norms, rope;  k, v -> cache
//!               x += norm(W attention(q, cache))
//!               h = norm(x);  x += norm(W act(gate) up)
//! logits = W norm(x)      of the rows that want them
//! ```

#![expect(
    clippy::cast_precision_loss,
    reason = "numbers of values, layers and positions are small"
)]

use std::slice::from_ref;

use crate::archive::Model;
use crate::base::Error;
use crate::base::Result;
use crate::base::math;
use crate::exec::matmul::Vectors;
use crate::exec::matmul::Workers;
use crate::exec::matrix::Matrix;
use crate::exec::matrix::Store;
use crate::exec::program::Attention;
use crate::exec::program::Linear;
use crate::exec::program::Mlp;
use crate::exec::program::Norm;
use crate::exec::program::Program;
use crate::exec::program::QueryKeyNorm;
use crate::exec::program::Rope;
use crate::exec::state::LayerCache;
use crate::exec::state::Sequence;
use crate::exec::stream::Stream;
use crate::exec::weights::Weights;
use crate::kernels::Element;
use crate::kernels::Kernels;
use crate::kernels::attention;

/// A token, and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Number of its text.
    pub sequence: usize,
    /// Its position there.
    pub position: usize,
    /// What it is.
    pub token: u32,
}

/// Cosines and sines of some rows, for each rope: `[row][pair]`.
type Angles = Vec<(Vec<f32>, Vec<f32>)>;

/// What a pass works in.
#[derive(Debug, Default)]
struct Activations {
    x: Vec<f32>,
    vectors: Vectors,
    /// `[output][row]`.
    products: Vec<f32>,
    /// `[row][output]`.
    rows: Vec<f32>,
}

/// What a pass needs.
pub(super) struct Pass<'a> {
    pub(super) program: &'a Program,
    pub(super) weights: &'a Weights,
    pub(super) workers: &'a Workers,
    pub(super) model: &'a Model,
    pub(super) stream: &'a Stream,
    /// What the stream calls the first tile of this pass.
    pub(super) first_tile: u64,
}

/// Bytes that a pass of so many rows works in.
pub(super) fn activation_bytes(program: &Program, rows: usize, logits: usize) -> usize {
    let columns = program
        .matrices()
        .map(|linear| linear.columns)
        .max()
        .unwrap_or(0);
    let widest = program.layers.iter().map(|layer| {
        let outputs = |linears: &[Linear]| linears.iter().map(|linear| linear.rows).sum::<usize>();
        let attention = outputs(&layer.attention.projections);
        attention.max(outputs(&layer.mlp.inputs))
    });
    let outputs = rows * widest.max().unwrap_or(0);
    let outputs = outputs.max(logits * program.vocabulary);
    let turned = if rows > 1 { 2 } else { 1 };
    Vectors::bytes(rows, columns)
        + (rows * program.hidden + turned * outputs) * size_of::<f32>()
        + logits * program.vocabulary * size_of::<f32>()
}

impl Pass<'_> {
    /// The logits of the rows in `wanted`, one behind another.
    pub(super) fn run(
        &self,
        rows: &[Row],
        wanted: &[usize],
        sequences: &mut [&mut Sequence],
        tell: &(dyn Fn(u64) -> Result<()> + Sync),
    ) -> Result<Vec<f32>> {
        let mut buffers = Activations::default();
        self.embed(rows, &mut buffers.x)?;
        let angles = self.angles(rows, sequences);
        let mut matrices = self.weights.matrices.iter();
        let mut next = |linears: &[Linear]| -> Vec<&Matrix> {
            matrices.by_ref().take(linears.len()).collect()
        };
        for (number, layer) in self.program.layers.iter().enumerate() {
            let attention = &layer.attention;
            let (inputs, output) = (
                next(&attention.projections),
                next(from_ref(&attention.output)),
            );
            let caches = sequences
                .iter_mut()
                .map(|sequence| &mut sequence.layers[number]);
            let mut caches: Vec<&mut LayerCache> = caches.collect();
            self.attend(
                attention,
                (&inputs, &output),
                rows,
                &angles,
                &mut caches,
                &mut buffers,
            )?;
            let of_attention = inputs.iter().chain(&output).map(|matrix| matrix.len());
            tell(of_attention.sum())?;
            let (inputs, output) = (next(&layer.mlp.inputs), next(from_ref(&layer.mlp.output)));
            self.perceive(&layer.mlp, (&inputs, &output), rows.len(), &mut buffers)?;
            tell(
                inputs
                    .iter()
                    .chain(&output)
                    .map(|matrix| matrix.len())
                    .sum(),
            )?;
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        self.logits(wanted, &mut buffers)
    }

    fn kernels(&self) -> Kernels {
        self.workers.kernels()
    }

    fn embed(&self, rows: &[Row], x: &mut Vec<f32>) -> Result<()> {
        let hidden = self.program.hidden;
        x.resize(rows.len() * hidden, 0.0);
        let mut positions = vec![0.0; hidden];
        for (row, x) in rows.iter().zip(x.chunks_exact_mut(hidden)) {
            self.table_row(&self.program.embedding, row.token as usize, x)?;
            multiply_all(x, self.program.embedding_scale);
            if let Some((table, count)) = &self.program.positions {
                if row.position >= *count {
                    let what = format!("the model has {count} positions, and the text is longer");
                    return Err(Error::over_limit(what));
                }
                self.table_row(table, row.position, &mut positions)?;
                add_all(x, &positions);
            }
        }
        Ok(())
    }

    /// A row of a table, which may be in memory as the head.
    fn table_row(&self, table: &str, row: usize, out: &mut [f32]) -> Result<()> {
        let kept = self.weights.matrices.iter().rev().take(1);
        let kept = kept.filter(|matrix| matrix.tensor == table);
        for matrix in kept {
            if let Store::Plain(bytes) = &matrix.store {
                let len = matrix.row_len();
                Kernels::widen(matrix.element, &bytes[row * len..][..len], out);
                return Ok(());
            }
        }
        let tensor = self.model.tensor(table)?;
        let element = Element::from_dtype(&tensor.info().dtype);
        let len = tensor.row_len()? as usize;
        let element = element.filter(|element| len == out.len() * element.size());
        let element = element.ok_or_else(|| {
            let what = "a table that is not as wide as the residual stream";
            Error::invalid(what).tensor(table).file(tensor.path())
        })?;
        let mut bytes = vec![0; len];
        tensor.rows(row as u64..row as u64 + 1, &mut bytes)?;
        Kernels::widen(element, &bytes, out);
        Ok(())
    }

    fn angles(&self, rows: &[Row], sequences: &[&mut Sequence]) -> Angles {
        let of_rope = |rope: &Rope| {
            let mut tables = (Vec::new(), Vec::new());
            for row in rows {
                let long = rope.long_frequencies.as_ref();
                let long = long.filter(|_| sequences[row.sequence].is_long);
                for frequency in long.unwrap_or(&rope.frequencies) {
                    let angle = row.position as f32 * frequency;
                    let (sin, cos) = math::sin_cos(f64::from(angle));
                    tables.0.push(cos as f32 * rope.factor);
                    tables.1.push(sin as f32 * rope.factor);
                }
            }
            tables
        };
        self.program.ropes.iter().map(of_rope).collect()
    }

    /// `norm(x)`, or `x`, as what the next matrices are multiplied with.
    fn input(&self, norm: Option<&Norm>, rows: usize, buffers: &mut Activations) {
        let hidden = self.program.hidden;
        let Activations { x, vectors, .. } = buffers;
        vectors.reset(rows, hidden);
        let pairs = x.chunks_exact(hidden).zip(vectors.rows_mut());
        self.workers.each(pairs.collect(), |(x, out)| match norm {
            Some(norm) => self.norm(norm, x, out),
            None => out.copy_from_slice(x),
        });
    }

    fn norm(&self, norm: &Norm, x: &[f32], out: &mut [f32]) {
        let weight = self.weights.small(&norm.weight);
        if let Some(bias) = &norm.bias {
            let bias = self.weights.small(bias);
            self.kernels()
                .layer_norm(x, (weight, bias), norm.epsilon, out);
        } else {
            let numbers = (norm.offset, norm.epsilon);
            self.kernels().rms_norm(x, Some(weight), numbers, out);
        }
    }

    fn norm_in_place(&self, norm: &Norm, x: &mut [f32]) {
        let copy = x.to_vec();
        self.norm(norm, &copy, x);
    }

    /// `rows[row][output]` of some matrices, with their biases.
    fn multiply(
        &self,
        matrices: &[&Matrix],
        linears: &[Linear],
        rows: usize,
        buffers: &mut Activations,
    ) -> Result<()> {
        let Activations {
            vectors,
            products,
            rows: turned,
            ..
        } = buffers;
        let outputs: usize = matrices.iter().map(|matrix| matrix.rows).sum();
        let stream = (self.stream, self.first_tile);
        if rows == 1 {
            turned.resize(outputs, 0.0);
            self.workers.multiply(matrices, vectors, stream, turned)?;
        } else {
            products.resize(outputs * rows, 0.0);
            turned.resize(outputs * rows, 0.0);
            self.workers.multiply(matrices, vectors, stream, products)?;
            let targets: Vec<_> = turned.chunks_exact_mut(outputs).enumerate().collect();
            self.workers.each(targets, |(row, out)| {
                for (value, of_output) in out.iter_mut().zip(products.chunks_exact(rows)) {
                    *value = of_output[row];
                }
            });
        }
        let mut first = 0;
        for linear in linears {
            if let Some(bias) = &linear.bias {
                let bias = self.weights.small(bias);
                for row in turned.chunks_exact_mut(outputs) {
                    add_all(&mut row[first..first + linear.rows], bias);
                }
            }
            first += linear.rows;
        }
        Ok(())
    }

    /// `x += norm(rows) * scale`.
    fn add(&self, norm: Option<&Norm>, buffers: &mut Activations) {
        let (hidden, scale) = (self.program.hidden, self.program.residual_scale);
        let Activations { x, rows, .. } = buffers;
        let pairs = x
            .chunks_exact_mut(hidden)
            .zip(rows.chunks_exact_mut(hidden));
        self.workers.each(pairs.collect(), |(x, row)| {
            if let Some(norm) = norm {
                self.norm_in_place(norm, row);
            }
            multiply_all(row, scale);
            add_all(x, row);
        });
    }

    fn attend(
        &self,
        attention: &Attention,
        (inputs, output): (&[&Matrix], &[&Matrix]),
        rows: &[Row],
        angles: &Angles,
        caches: &mut [&mut LayerCache],
        buffers: &mut Activations,
    ) -> Result<()> {
        self.input(attention.input_norm.as_ref(), rows.len(), buffers);
        self.multiply(inputs, &attention.projections, rows.len(), buffers)?;
        let (heads, kv_heads) = (attention.heads, attention.kv_heads);
        let len = attention.head_dim;
        let outputs = (heads + 2 * kv_heads) * len;
        let numbered: Vec<_> = buffers.rows.chunks_exact_mut(outputs).enumerate().collect();
        self.workers.each(numbered, |(number, row)| {
            let (queries, keys_values) = row.split_at_mut(heads * len);
            let keys = &mut keys_values[..kv_heads * len];
            self.turn(attention, (number, rows[number]), angles, queries, keys);
        });
        for (row, values) in rows.iter().zip(buffers.rows.chunks_exact(outputs)) {
            let cache = &mut *caches[row.sequence];
            let capacity = cache.keys.len() / (kv_heads * len);
            let (_, keys_values) = values.split_at(heads * len);
            let (keys, values) = keys_values.split_at(kv_heads * len);
            for head in 0..kv_heads {
                let from = head * len..(head + 1) * len;
                let to = (head * capacity + row.position) * len;
                cache.keys[to..to + len].copy_from_slice(&keys[from.clone()]);
                cache.values[to..to + len].copy_from_slice(&values[from]);
            }
        }
        let Activations {
            vectors,
            rows: projected,
            ..
        } = &mut *buffers;
        vectors.reset(rows.len(), heads * len);
        let mut work = Vec::new();
        for (number, out) in vectors.rows_mut().enumerate() {
            for (head, out) in out.chunks_exact_mut(len).enumerate() {
                work.push((number, head, out));
            }
        }
        let caches: Vec<&LayerCache> = caches.iter().map(|cache| &**cache).collect();
        self.workers.each(work, |(number, head, out)| {
            let row = rows[number];
            let query = &projected[number * outputs + head * len..][..len];
            self.head(attention, (row, head), query, caches[row.sequence], out);
        });
        self.multiply(output, from_ref(&attention.output), rows.len(), buffers)?;
        self.add(attention.output_norm.as_ref(), buffers);
        Ok(())
    }

    /// Norms, rope and temperature of the queries and keys of one row.
    fn turn(
        &self,
        attention: &Attention,
        (number, row): (usize, Row),
        angles: &Angles,
        queries: &mut [f32],
        keys: &mut [f32],
    ) {
        let len = attention.head_dim;
        match &attention.query_key_norm {
            Some(QueryKeyNorm::PerHead { query, key }) => {
                queries
                    .chunks_exact_mut(len)
                    .for_each(|head| self.norm_in_place(query, head));
                keys.chunks_exact_mut(len)
                    .for_each(|head| self.norm_in_place(key, head));
            }
            Some(QueryKeyNorm::Whole { query, key }) => {
                self.norm_in_place(query, queries);
                self.norm_in_place(key, keys);
            }
            None => {}
        }
        if let Some(at) = attention.rope {
            let rope = &self.program.ropes[at];
            let (cos, sin) = &angles[at];
            let pairs = rope.frequencies.len();
            let of_row = number * pairs..(number + 1) * pairs;
            let angles = (&cos[of_row.clone()], &sin[of_row]);
            for head in queries
                .chunks_exact_mut(len)
                .chain(keys.chunks_exact_mut(len))
            {
                self.kernels().rotate(head, angles, rope.pairs);
            }
        }
        if let Some(temperature) = attention.temperature {
            let steps = (row.position / temperature.step) as f64;
            let factor = 1.0 + f64::from(temperature.beta) * math::ln(1.0 + steps);
            multiply_all(queries, factor as f32);
        }
    }

    /// One head of one row.
    fn head(
        &self,
        attention: &Attention,
        (row, head): (Row, usize),
        query: &[f32],
        cache: &LayerCache,
        out: &mut [f32],
    ) {
        let len = attention.head_dim;
        let kv_head = head / (attention.heads / attention.kv_heads);
        let of_head = cache.keys.len() / attention.kv_heads;
        let of_head = kv_head * of_head..(kv_head + 1) * of_head;
        let end = row.position + 1;
        let start = attention
            .window
            .map_or(0, |window| end.saturating_sub(window));
        let mut scores = vec![0.0; end - start];
        self.kernels().attention(attention::Attention {
            query: &query[..len],
            keys: &cache.keys[of_head.clone()],
            values: &cache.values[of_head],
            seen: start..end,
            scale: attention.scale,
            soft_cap: attention.soft_cap,
            scores: &mut scores,
            out,
        });
    }

    fn perceive(
        &self,
        mlp: &Mlp,
        (inputs, output): (&[&Matrix], &[&Matrix]),
        rows: usize,
        buffers: &mut Activations,
    ) -> Result<()> {
        self.input(mlp.input_norm.as_ref(), rows, buffers);
        self.multiply(inputs, &mlp.inputs, rows, buffers)?;
        let Activations {
            vectors,
            rows: between,
            ..
        } = &mut *buffers;
        vectors.reset(rows, mlp.len);
        let wide = if mlp.is_gated { 2 * mlp.len } else { mlp.len };
        let pairs = between.chunks_exact_mut(wide).zip(vectors.rows_mut());
        self.workers.each(pairs.collect(), |(row, out)| {
            if mlp.is_gated {
                let (gate, up) = row.split_at_mut(mlp.len);
                self.kernels().gate(mlp.activation, gate, up);
                out.copy_from_slice(gate);
            } else {
                self.kernels().activate(mlp.activation, row);
                out.copy_from_slice(row);
            }
        });
        self.multiply(output, from_ref(&mlp.output), rows, buffers)?;
        self.add(mlp.output_norm.as_ref(), buffers);
        Ok(())
    }

    fn logits(&self, wanted: &[usize], buffers: &mut Activations) -> Result<Vec<f32>> {
        let hidden = self.program.hidden;
        let Activations { x, vectors, .. } = &mut *buffers;
        vectors.reset(wanted.len(), hidden);
        for (&row, out) in wanted.iter().zip(vectors.rows_mut()) {
            self.norm(&self.program.norm, &x[row * hidden..][..hidden], out);
        }
        let head = &self.weights.matrices[self.weights.matrices.len() - 1];
        let linear = from_ref(&self.program.head);
        self.multiply(&[head], linear, wanted.len(), buffers)?;
        let mut logits = std::mem::take(&mut buffers.rows);
        for logit in &mut logits {
            *logit /= self.program.logits_divisor;
        }
        if let Some(cap) = self.program.logits_soft_cap {
            self.kernels().soft_cap(&mut logits, cap);
        }
        Ok(logits)
    }
}

/// `x *= factor`.
fn multiply_all(x: &mut [f32], factor: f32) {
    for x in x {
        *x *= factor;
    }
}

/// `x += other`.
fn add_all(x: &mut [f32], other: &[f32]) {
    for (x, other) in x.iter_mut().zip(other) {
        *x += other;
    }
}
