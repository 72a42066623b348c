//! The order of tensors by their names.

use std::cmp::Ordering;

/// Names part by part between dots, numbers by their value.
pub fn natural(a: &str, b: &str) -> Ordering {
    let number = |part: &str| part.parse::<u64>().ok();
    for (a, b) in a.split('.').zip(b.split('.')) {
        let order = match (number(a), number(b)) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.cmp(b),
        };
        if order.is_ne() {
            return order;
        }
    }
    let parts = |name: &str| name.split('.').count();
    // `01` and `1` are the same number in different names
    parts(a).cmp(&parts(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_ten_comes_behind_layer_two() {
        let mut names = ["l.10.w", "l.2.w", "l.2", "a", "l.02.w", "l.x.w"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "l.2", "l.02.w", "l.2.w", "l.10.w", "l.x.w"]);
    }
}
