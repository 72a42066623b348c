//! Which tensor goes into which shard.

use crate::base::Error;
use crate::base::Result;
use crate::base::units::counted;
use crate::tensor::natural;

/// How to cut a model.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    /// As many tensors to a shard as have at most so many bytes.
    Size(u64),
    /// So many shards of about the same size.
    Shards(u64),
    /// A shard for each layer, and one before them for all the rest.
    ByLayer,
    /// One file.
    Join,
}

/// Cuts tensors, given by name and bytes: their numbers, shard by shard. Neighbours by name,
/// numbers read as such, stay neighbours, and so layers together.
pub(crate) fn cut(tensors: &[(&str, u64)], how: Cut) -> Result<Vec<Vec<usize>>> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|&a, &b| natural(tensors[a].0, tensors[b].0));
    let shards = match how {
        Cut::Join => vec![order],
        Cut::Size(0) => return Err(Error::invalid("files of no bytes hold no tensors")),
        Cut::Size(size) => by_size(tensors, &order, size),
        Cut::Shards(count) => by_count(tensors, &order, count)?,
        Cut::ByLayer => by_layer(tensors, &order),
    };
    // a model without tensors is one file all the same
    Ok(if shards.is_empty() {
        vec![Vec::new()]
    } else {
        shards
    })
}

fn by_size(tensors: &[(&str, u64)], order: &[usize], size: u64) -> Vec<Vec<usize>> {
    let mut shards: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for &number in order {
        let len = tensors[number].1;
        match shards.last_mut() {
            Some(shard) if len <= room => shard.push(number),
            // a tensor that is longer than that has a shard of its own
            _ => {
                shards.push(vec![number]);
                room = size;
            }
        }
        room = room.saturating_sub(len);
    }
    shards
}

fn by_count(tensors: &[(&str, u64)], order: &[usize], count: u64) -> Result<Vec<Vec<usize>>> {
    if count == 0 || count > order.len() as u64 {
        let tensors = counted(order.len() as u64, "tensor");
        let why = format!("cannot be cut into {count} shards: it has {tensors}");
        return Err(Error::invalid(why));
    }
    let total: u128 = order.iter().map(|&n| u128::from(tensors[n].1)).sum();
    let mut shards = vec![Vec::new()];
    let mut before = 0_u128;
    for (index, &number) in order.iter().enumerate() {
        let len = u128::from(tensors[number].1);
        let begun = shards.len() as u64;
        // a tensor belongs where its middle lies, and each shard that is still to come needs one
        let is_full = (before + len / 2) * u128::from(count) >= total * u128::from(begun);
        let left = (order.len() - index) as u64;
        let must = left <= count - begun;
        let Some(shard) = shards.last_mut() else {
            continue;
        };
        if !shard.is_empty() && begun < count && (is_full || must) {
            shards.push(vec![number]);
        } else {
            shard.push(number);
        }
        before += len;
    }
    Ok(shards)
}

fn by_layer(tensors: &[(&str, u64)], order: &[usize]) -> Vec<Vec<usize>> {
    let mut rest = Vec::new();
    let mut layers: Vec<(&str, Vec<usize>)> = Vec::new();
    for &number in order {
        match (layer(tensors[number].0), layers.last_mut()) {
            (None, _) => rest.push(number),
            (Some(layer), Some((last, shard))) if *last == layer => shard.push(number),
            (Some(layer), _) => layers.push((layer, vec![number])),
        }
    }
    let layers = layers.into_iter().map(|(_, shard)| shard);
    let rest = (!rest.is_empty()).then_some(rest);
    rest.into_iter().chain(layers).collect()
}

/// What all tensors of a layer begin with: their names up to the first number. Every family counts
/// its layers, under whatever word.
fn layer(name: &str) -> Option<&str> {
    let mut end = 0;
    for part in name.split('.') {
        end += part.len();
        if !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return name.get(..end);
        }
        end += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(tensors: &[(&'static str, u64)], how: Cut) -> Vec<Vec<&'static str>> {
        let shards = cut(tensors, how).unwrap();
        let named = |shard: Vec<usize>| shard.into_iter().map(|n| tensors[n].0).collect();
        shards.into_iter().map(named).collect()
    }

    const MODEL: [(&str, u64); 6] = [
        ("model.layers.10.w", 30),
        ("model.layers.2.w", 30),
        ("model.layers.2.experts.1.w", 10),
        ("model.norm", 5),
        ("lm_head", 40),
        ("model.layers.10.b", 0),
    ];

    #[test]
    fn a_shard_holds_no_more_than_its_size_but_for_one_tensor() {
        let shards = names(&MODEL, Cut::Size(40));
        let expected: [&[&str]; 3] = [
            &["lm_head"],
            &[
                "model.layers.2.experts.1.w",
                "model.layers.2.w",
                "model.layers.10.b",
            ],
            &["model.layers.10.w", "model.norm"],
        ];
        assert_eq!(shards, expected);
        assert_eq!(names(&MODEL, Cut::Size(1)).len(), 5);
    }

    #[test]
    fn as_many_shards_as_wanted_none_empty() {
        for count in 1..=6 {
            let shards = names(&MODEL, Cut::Shards(count));
            assert_eq!(shards.len() as u64, count);
            assert!(shards.iter().all(|shard| !shard.is_empty()));
            assert_eq!(shards.concat().len(), MODEL.len());
        }
        assert!(cut(&[("a", 1)], Cut::Shards(2)).is_err());
        assert!(cut(&[("a", 1)], Cut::Shards(0)).is_err());
        let halves = names(
            &[("a", 10), ("b", 10), ("c", 10), ("d", 10)],
            Cut::Shards(2),
        );
        assert_eq!(halves, [["a", "b"], ["c", "d"]]);
        let empty = names(&[("a", 0), ("b", 0)], Cut::Shards(2));
        assert_eq!(empty, [["a"], ["b"]]);
    }

    #[test]
    fn a_layer_is_whatever_is_counted_first() {
        let shards = names(&MODEL, Cut::ByLayer);
        let expected: [&[&str]; 3] = [
            &["lm_head", "model.norm"],
            &["model.layers.2.experts.1.w", "model.layers.2.w"],
            &["model.layers.10.b", "model.layers.10.w"],
        ];
        assert_eq!(shards, expected);
        assert_eq!(layer("encoder.block.3.layer.0.w"), Some("encoder.block.3"));
        assert_eq!(layer("h.0"), Some("h.0"));
        assert_eq!(layer("0.weight"), Some("0"));
        assert_eq!(layer("a..b1"), None);
    }
}
