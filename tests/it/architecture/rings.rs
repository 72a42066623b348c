//! Files of one room use each other in one direction: no ring of imports.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Source;
use super::report;
use super::sources;

/// A file by its path as a module: `archive::cache`, without `mod`.
type Module = String;

/// All files of one package.
struct Package {
    files: BTreeMap<Module, Source>,
    /// What a door hands on under its own name, and where that is: `archive` and `Image`.
    handed_on: BTreeMap<(Module, String), Module>,
}

fn module_of(path: &str, root: &str) -> Module {
    let path = path.trim_start_matches(root).trim_start_matches('/');
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.replace('/', "::")
}

/// The names of a path that begins at `text`: `a::b::C` gives three.
fn parts(text: &str) -> Vec<&str> {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
    let path = &text[..end.unwrap_or(text.len())];
    path.split("::").filter(|part| !part.is_empty()).collect()
}

impl Package {
    fn read(root: &str) -> Self {
        let all = sources(root).into_iter();
        let files: BTreeMap<_, _> = all.map(|s| (module_of(&s.path, root), s)).collect();
        let mut package = Self {
            files,
            handed_on: BTreeMap::new(),
        };
        for (module, source) in &package.files {
            for (_, line) in source.code() {
                let Some((_, path)) = line.trim().split_once("use ") else {
                    continue;
                };
                let path = parts(path);
                let child = format!("{module}::{}", path.first().unwrap_or(&""));
                if line.trim().starts_with("pub") && package.files.contains_key(&child) {
                    let name = path.last().unwrap_or(&"").to_string();
                    package.handed_on.insert((module.clone(), name), child);
                }
            }
        }
        package
    }

    /// The file that a path leads to.
    fn target(&self, path: &[&str]) -> Option<Module> {
        let len = (1..=path.len())
            .rev()
            .find(|len| self.files.contains_key(&path[..*len].join("::")))?;
        let module = path[..len].join("::");
        let handed_on = path.get(len).and_then(|name| {
            let key = (module.clone(), (*name).to_owned());
            self.handed_on.get(&key).cloned()
        });
        Some(handed_on.unwrap_or(module))
    }

    /// The files that a file uses.
    fn used_by(&self, module: &Module, source: &Source) -> BTreeSet<Module> {
        let own: Vec<&str> = module.split("::").collect();
        let mut used = BTreeSet::new();
        for (_, line) in source.code() {
            let line = line.trim();
            for path in line.split("crate::").skip(1) {
                used.extend(self.target(&parts(path)));
            }
            for path in line.split("super::").skip(1) {
                let above = &own[..own.len() - 1];
                used.extend(self.target(&[above, &parts(path)].concat()));
            }
            // a door that only hands on uses nothing of it
            if !line.starts_with("pub") {
                let words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
                let children = words
                    .filter_map(|word| word.split_once("::"))
                    .map(|(child, _)| child);
                let children = children.map(|child| format!("{module}::{child}"));
                used.extend(children.filter(|child| self.files.contains_key(child)));
            }
        }
        used.remove(module);
        used
    }

    /// The rooms with rings, and the files in them that are in one.
    fn rings(&self) -> BTreeMap<String, BTreeSet<Module>> {
        let uses: BTreeMap<_, _> = self
            .files
            .iter()
            .map(|(module, source)| (module, self.used_by(module, source)))
            .collect();
        let mut rings: BTreeMap<String, BTreeSet<Module>> = BTreeMap::new();
        for module in self.files.keys() {
            let room = module.split("::").next().unwrap_or_default();
            // whatever can be reached from here, within the room
            let mut reached = BTreeSet::new();
            let mut rest = vec![module];
            while let Some(next) = rest.pop() {
                let used = uses[next].iter();
                let inside = used.filter(|used| used.split("::").next() == Some(room));
                rest.extend(inside.filter(|used| reached.insert((*used).clone())));
            }
            if reached.contains(module) {
                rings
                    .entry(room.to_owned())
                    .or_default()
                    .insert(module.clone());
            }
        }
        rings
    }
}

#[test]
fn no_files_use_each_other_in_a_ring() {
    let mut faults = Vec::new();
    for (root, name) in [("src", ""), ("mountd/src", "mountd ")] {
        for (room, files) in Package::read(root).rings() {
            faults.push(format!("a ring in {name}{room}: {files:?}"));
        }
    }
    report(&faults);
}

#[test]
fn a_ring_is_seen() {
    let file = |path: &str, text: &str| {
        let (path, text) = (path.to_owned(), text.to_owned());
        (module_of(&path, "src"), Source { path, text })
    };
    let package = |b: &str| {
        let files = [
            file("src/room/a.rs", "use crate::room::b::B;\n"),
            file("src/room/b.rs", b),
            file("src/other/mod.rs", "use crate::room::a::A;\n"),
        ];
        Package {
            files: files.into_iter().collect(),
            handed_on: BTreeMap::new(),
        }
    };
    assert!(package("use crate::other::X;\n").rings().is_empty());
    let rings = package("fn f() { crate::room::a::f() }\n").rings();
    assert_eq!(rings["room"].len(), 2);
}
