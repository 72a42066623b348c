//! Which tensor of one model is compared with which of the other: those of one name, and where that
//! stands several times, those in the same folder of the model, in the order of their files.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use crate::archive::Model;
use crate::archive::Tensor;

/// Two tensors to be compared, or one that has no counterpart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) a: Option<&'a Tensor>,
    pub(super) b: Option<&'a Tensor>,
    /// Whether there are others of this name.
    pub(super) is_one_of_several: bool,
}

/// The tensors of one name, by their folder within the model.
type ByFolder<'a> = BTreeMap<PathBuf, Vec<&'a Tensor>>;

/// All pairs, by name.
pub(super) fn pairs<'a>(
    (model_a, root_a): (&'a Model, &Path),
    (model_b, root_b): (&'a Model, &Path),
) -> Vec<Pair<'a>> {
    let (in_a, in_b) = (by_name(model_a, root_a), by_name(model_b, root_b));
    let names: BTreeSet<&str> = in_a.keys().chain(in_b.keys()).copied().collect();
    let none = ByFolder::new();
    let mut pairs = Vec::new();
    for name in names {
        let (a, b) = (in_a.get(name), in_b.get(name));
        pair_folders(a.unwrap_or(&none), b.unwrap_or(&none), &mut pairs);
    }
    pairs
}

fn by_name<'a>(model: &'a Model, root: &Path) -> BTreeMap<&'a str, ByFolder<'a>> {
    let mut tensors: BTreeMap<&str, ByFolder<'_>> = BTreeMap::new();
    for tensor in model.tensors() {
        let folder = model.folders_of(tensor).next().unwrap_or(root);
        let folder = folder.strip_prefix(root).unwrap_or(Path::new(""));
        let folders = tensors.entry(&tensor.span().name).or_default();
        folders.entry(folder.to_owned()).or_default().push(tensor);
    }
    tensors
}

fn pair_folders<'a>(a: &ByFolder<'a>, b: &ByFolder<'a>, pairs: &mut Vec<Pair<'a>>) {
    let count = |folders: &ByFolder<'_>| folders.values().map(Vec::len).sum::<usize>();
    let is_one_of_several = count(a) > 1 || count(b) > 1;
    let mut put = |a: &[&'a Tensor], b: &[&'a Tensor]| {
        // where one side has more, each of them is compared, the last of the other with the rest
        let of = |side: &[&'a Tensor], number: usize| side.get(number).or(side.last()).copied();
        pairs.extend((0..a.len().max(b.len())).map(|number| Pair {
            a: of(a, number),
            b: of(b, number),
            is_one_of_several,
        }));
    };
    if let ([a], [b]) = (values(a).as_slice(), values(b).as_slice()) {
        return put(a, b);
    }
    let (mut rest_a, mut rest_b) = (Vec::new(), Vec::new());
    for (folder, tensors) in a {
        match b.get(folder) {
            Some(others) => put(tensors, others),
            None => rest_a.push(tensors),
        }
    }
    rest_b.extend(b.iter().filter(|(folder, _)| !a.contains_key(*folder)));
    for number in 0..rest_a.len().max(rest_b.len()) {
        let of_a = rest_a.get(number).map_or(&[][..], |tensors| tensors);
        let of_b = rest_b.get(number).map_or(&[][..], |(_, tensors)| tensors);
        put(of_a, of_b);
    }
}

fn values<'a, 'b>(folders: &'b ByFolder<'a>) -> Vec<&'b [&'a Tensor]> {
    folders.values().map(Vec::as_slice).collect()
}
