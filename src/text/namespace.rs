//! The `namespace` of templates, whose attributes are set in loops. The library's own takes any
//! value: itself, too, or a list around what it had before, a hundred thousand times. Whoever
//! prints, compares or drops such a value uses up the stack, and the process ends.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::Error;
use minijinja::ErrorKind;
use minijinja::State;
use minijinja::Value;
use minijinja::value::Enumerator;
use minijinja::value::Object;
use minijinja::value::ValueKind;
use parking_lot::Mutex;

/// The function that sets an attribute; the name is none that anybody gives.
pub(crate) const SET: &str = "__set_attribute";
/// Lists within lists that an attribute may hold.
const DEPTH_MAX: usize = 32;

#[derive(Debug, Default)]
struct Namespace(Mutex<BTreeMap<String, Value>>);

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.lock().get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let keys = self
            .0
            .lock()
            .keys()
            .map(|key| Value::from(key.as_str()))
            .collect();
        Enumerator::Values(keys)
    }
}

/// `namespace(name=value, ...)`.
pub(crate) fn namespace(
    state: &mut State<'_, '_>,
    defaults: Option<Value>,
) -> Result<Value, Error> {
    let namespace = Value::from_object(Namespace::default());
    if let Some(defaults) = defaults {
        for key in defaults.try_iter()? {
            let value = defaults.get_item(&key)?;
            set(state, &namespace, &key.to_string(), value)?;
        }
    }
    Ok(namespace)
}

/// Sets an attribute, if it can be walked through to its ends.
pub(crate) fn set(
    state: &mut State<'_, '_>,
    namespace: &Value,
    name: &str,
    value: Value,
) -> Result<(), Error> {
    let Some(attributes) = namespace.downcast_object_ref::<Namespace>() else {
        let what = format!("`{name}` is set on what is no namespace");
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    };
    // what is computed item by item may hold anything until it is
    let value = match value.kind() {
        ValueKind::Iterable => value.try_iter()?.collect(),
        _ => value,
    };
    judge(state, &value, 0)?;
    attributes.0.lock().insert(name.to_owned(), value);
    Ok(())
}

fn judge(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    state.consume_fuel(1)?;
    let is_namespace = value.downcast_object_ref::<Namespace>().is_some();
    if is_namespace || depth > DEPTH_MAX {
        let what = "a namespace within a namespace, or lists in too many lists";
        return Err(Error::new(ErrorKind::InvalidOperation, what));
    }
    match value.kind() {
        ValueKind::Seq => {
            let mut items = value.try_iter()?;
            items.try_for_each(|item| judge(state, &item, depth + 1))
        }
        ValueKind::Map => {
            let mut keys = value.try_iter()?;
            keys.try_for_each(|key| judge(state, &value.get_item(&key)?, depth + 1))
        }
        ValueKind::Iterable if depth > 0 => {
            let what = "a list that is not computed yet, within a namespace";
            Err(Error::new(ErrorKind::InvalidOperation, what))
        }
        _ => Ok(()),
    }
}
