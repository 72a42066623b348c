//! The bases that an image needs: where they are looked for, and what was found.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::archive::bases::Bases;
use crate::archive::bases::Hope;
use crate::archive::image::Image;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::error;
use crate::base::parallel;
use crate::format::BaseRecord;

/// A base of an image.
#[derive(Debug, Clone)]
pub struct Need {
    /// What it is, with its name.
    pub record: BaseRecord,
    /// Its bytes, and those of the tensors that are differences from it.
    pub len: u64,
    /// The first of these.
    pub tensor: String,
    found: OnceLock<Arc<dyn ReadAt>>,
}

/// All bases of an image.
#[derive(Debug, Clone, Default)]
pub(super) struct Needs {
    /// By their number; none for one that no tensor has.
    all: Vec<Option<Need>>,
    /// Where they are looked for.
    pub(super) bases: Option<Arc<Bases>>,
}

impl Needs {
    /// Those records, with name and length of the first tensor that has each.
    pub(super) fn new(records: &[BaseRecord], mut users: BTreeMap<usize, (String, u64)>) -> Self {
        let need = |(number, record): (usize, &BaseRecord)| {
            let (tensor, len) = users.remove(&number)?;
            Some(Need {
                record: record.named(&tensor),
                len,
                tensor,
                found: OnceLock::new(),
            })
        };
        let all = records.iter().enumerate().map(need).collect();
        Self { all, bases: None }
    }

    /// Bytes that they take, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let needs = self.all.iter().flatten();
        let names = needs.map(|need| need.record.name.len() + need.tensor.len());
        size_of_val(&*self.all) + names.sum::<usize>()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.iter().all(Option::is_none)
    }
}

impl Image {
    /// The bases that it needs.
    pub fn needs(&self) -> impl Iterator<Item = &Need> {
        self.needs.all.iter().flatten()
    }

    /// The base with this number, which a tensor has.
    pub(super) fn need(&self, number: usize) -> &Need {
        let need = self.needs.all.get(number).and_then(Option::as_ref);
        need.unwrap_or_else(|| unreachable!("a tensor's base is listed"))
    }

    /// Says what the bytes of base `number` are, which was identified.
    pub(super) fn settle_base(&self, number: usize, bytes: &Arc<dyn ReadAt>) {
        self.need(number).found.get_or_init(|| Arc::clone(bytes));
    }

    /// Looks for all its bases; the error of the first that is not there.
    pub fn find_bases(&self, threads: usize, progress: &dyn Progress) -> Result<()> {
        let needs: Vec<&Need> = self.needs().collect();
        // the first shows in which files to look for the others
        let (first, others) = needs.split_at(needs.len().min(1));
        for needs in [first, others] {
            let find = |(): &mut (), number: usize| {
                progress.check()?;
                let found = self.find(needs[number]);
                found.map(|_| ()).map_err(|e| e.file(self.path()))
            };
            parallel::ordered(threads, needs.len(), || (), find, |_, ()| Ok(()))?;
        }
        Ok(())
    }

    /// An error if one of its bases cannot be at hand, as far as names, lengths and what is known
    /// of digests tell. The content of the shortest is compared: where that is right, so are mostly
    /// the others, and each is compared before it is used.
    pub fn expect_bases(&self) -> Result<()> {
        for need in self.needs() {
            let hope = self.needs.bases.as_ref();
            let hope = hope.map_or(Hope::None, |bases| bases.hope(&need.record, need.len));
            if hope == Hope::None {
                return Err(self.no_base(&need.record.name).tensor(&need.tensor));
            }
        }
        let shortest = self.needs().min_by_key(|need| need.len);
        let found = shortest.map(|need| self.find(need));
        found
            .transpose()
            .map(|_| ())
            .map_err(|e| e.file(self.path()))
    }

    /// The bytes of the base with this number.
    pub(super) fn base(&self, number: usize) -> Result<&dyn ReadAt> {
        self.find(self.need(number))
    }

    fn find<'a>(&self, need: &'a Need) -> Result<&'a dyn ReadAt> {
        if let Some(bytes) = need.found.get() {
            return Ok(&**bytes);
        }
        let bases = self.needs.bases.as_ref();
        let bases = bases.ok_or_else(|| self.no_base(&need.record.name))?;
        let bytes = bases
            .find(&need.record, need.len)
            .map_err(|e| match e.kind() {
                ErrorKind::MissingBase => e.hint(self.base_hint()),
                _ => e,
            })?;
        Ok(&**need.found.get_or_init(|| bytes))
    }

    fn no_base(&self, name: &str) -> Error {
        let places = self.needs.bases.as_ref().map(|bases| bases.places());
        let places = places.unwrap_or_default().iter();
        let places: Vec<String> = places.map(|p| format!("`{}`", p.display())).collect();
        let what = if places.is_empty() {
            format!("its base tensor `{name}` is in another model, which is not named")
        } else {
            format!("its base tensor `{name}` is not in {}", places.join(", "))
        };
        Error::new(ErrorKind::MissingBase, what)
            .hint(self.base_hint())
            .file(self.path())
    }

    fn base_hint(&self) -> String {
        let hint = "it needs the model that it was made from";
        match self.base_place() {
            "" => hint.to_owned(),
            place => format!("{hint}: it was `{}` then", error::escaped(place)),
        }
    }
}
