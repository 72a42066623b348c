//! A configuration file, read key by key: what nobody asked for is refused, as it may change what
//! is computed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Map;
use serde_json::Value;

use crate::base::Error;
use crate::base::Remedy;
use crate::base::Result;

/// The longest file that is read.
const CONFIG_LEN_MAX: u64 = 16 << 20;
/// The largest whole number that a size may be.
const SIZE_MAX: u64 = 1 << 31;

/// An object of a configuration, and which of its keys were asked for.
#[derive(Debug)]
pub struct Config {
    map: Map<String, Value>,
    asked: RefCell<BTreeSet<String>>,
    /// What it is called in messages.
    name: String,
}

impl Config {
    /// Reads `bytes`, the content of `path`.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Self> {
        if bytes.len() as u64 > CONFIG_LEN_MAX {
            return Err(Error::over_limit("a configuration this long is none").file(path));
        }
        let value = serde_json::from_slice(bytes)
            .map_err(|e| Error::invalid(format!("no valid JSON: {e}")).file(path))?;
        let Value::Object(map) = value else {
            return Err(Error::invalid("the configuration is no JSON object").file(path));
        };
        Ok(Self::new(map, "config.json"))
    }

    fn new(map: Map<String, Value>, name: &str) -> Self {
        Self {
            map,
            asked: RefCell::default(),
            name: name.to_owned(),
        }
    }

    /// Notes that `keys` change nothing here.
    pub fn ignore(&self, keys: &[&str]) {
        let mut asked = self.asked.borrow_mut();
        asked.extend(keys.iter().map(|&key| key.to_owned()));
    }

    /// The value of `key`; none where it is null or not there.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.ignore(&[key]);
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// Whether `key` is there, even as null.
    pub fn has(&self, key: &str) -> bool {
        self.ignore(&[key]);
        self.map.contains_key(key)
    }

    /// A size: a whole number that a size may be.
    pub fn size(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_u64() {
            Some(size) if size <= SIZE_MAX => Ok(Some(size as usize)),
            _ => Err(self.fault(key, value, "a size")),
        }
    }

    /// A size that is not 0 and must be there.
    pub fn needed_size(&self, key: &str) -> Result<usize> {
        match self.size(key)? {
            Some(0) | None => {
                let what = format!("{} has no size `{key}`, or it is 0", self.name);
                Err(Error::invalid(what))
            }
            Some(size) => Ok(size),
        }
    }

    /// A number.
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let number = value.as_f64().filter(|number| number.is_finite());
        number
            .map(Some)
            .ok_or_else(|| self.fault(key, value, "a number"))
    }

    /// A yes or no.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let flag = value.as_bool();
        flag.map(Some)
            .ok_or_else(|| self.fault(key, value, "true or false"))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let text = value.as_str();
        text.map(Some)
            .ok_or_else(|| self.fault(key, value, "a text"))
    }

    /// A list.
    pub fn list(&self, key: &str) -> Result<Option<&[Value]>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value.as_array().map(Vec::as_slice);
        list.map(Some)
            .ok_or_else(|| self.fault(key, value, "a list"))
    }

    /// A list of numbers.
    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let Some(list) = self.list(key)? else {
            return Ok(None);
        };
        let number = |value: &Value| {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.ok_or_else(|| self.fault(key, value, "a number"))
        };
        list.iter().map(number).collect::<Result<_>>().map(Some)
    }

    /// An object within.
    pub fn object(&self, key: &str) -> Result<Option<Self>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let Value::Object(map) = value else {
            return Err(self.fault(key, value, "an object"));
        };
        Ok(Some(Self::new(map.clone(), key)))
    }

    /// Refuses what nobody asked for.
    pub fn finish(&self) -> Result<()> {
        let asked = self.asked.borrow();
        let unknown = self.map.iter().find(|(key, value)| {
            let changes_nothing = value.is_null() || value == &&Value::Bool(false);
            !asked.contains(*key) && !key.starts_with('_') && !changes_nothing
        });
        match unknown {
            None => Ok(()),
            Some((key, _)) => Err(self.unknown(key)),
        }
    }

    /// The error of a key that may change what is computed.
    pub fn unknown(&self, key: &str) -> Error {
        let what = format!(
            "{} has the key `{key}`, which may change what is computed and is not known",
            self.name
        );
        Error::unsupported(what).remedy(Remedy::Mount)
    }

    /// The error of a value that is not known.
    pub fn refuse(&self, key: &str) -> Error {
        let value = self.map.get(key).unwrap_or(&Value::Null);
        let what = format!("{} has `{key}` {value}, which is not known", self.name);
        Error::unsupported(what).remedy(Remedy::Mount)
    }

    fn fault(&self, key: &str, value: &Value, wanted: &str) -> Error {
        let shown: String = value.to_string().chars().take(60).collect();
        Error::invalid(format!(
            "{}: `{key}` is {shown} and not {wanted}",
            self.name
        ))
    }
}
