//! The texts of a configuration, wherever they stand.

use serde_json::{Map, Value};

use crate::text::one_line;

/// A text in a configuration, and where it stands.
#[derive(Clone, Debug)]
pub struct Text<'a> {
    /// The outermost key: `b_info`, `disks` and so on.
    pub section: &'a str,
    /// The innermost key; the list's for an element of a list.
    pub key: &'a str,
    /// Where it stands among the section's devices.
    pub index: Option<usize>,
    pub value: &'a str,
    place: String,
}

impl Text<'_> {
    /// All keys on the way to it, for people: `disks[0].script`.
    pub fn field(&self) -> String {
        one_line(&self.place)
    }
}

/// Shows each text of a configuration, until one is refused.
pub(super) fn each<E>(
    json: &Map<String, Value>,
    look: &mut impl FnMut(&Text<'_>) -> Result<(), E>,
) -> Result<(), E> {
    json.iter().try_for_each(|(key, value)| {
        let at = Text { section: key, key, place: key.clone(), index: None, value: "" };
        texts(value, &at, look)
    })
}

/// A value's texts. serde_json has bounded how deep they are.
fn texts<'a, E>(
    value: &'a Value,
    at: &Text<'a>,
    look: &mut impl FnMut(&Text<'_>) -> Result<(), E>,
) -> Result<(), E> {
    match value {
        Value::String(value) => look(&Text { value, ..at.clone() }),
        Value::Array(all) => all.iter().enumerate().try_for_each(|(index, value)| {
            let place = format!("{}[{index}]", at.place);
            texts(value, &Text { place, index: at.index.or(Some(index)), ..at.clone() }, look)
        }),
        // What a map in c_info holds are texts of one kind.
        Value::Object(all) => all.iter().try_for_each(|(key, value)| {
            let place = format!("{}.{key}", at.place);
            let key = if ["xsdata", "platformdata"].contains(&at.key) { at.key } else { key };
            texts(value, &Text { place, key, ..at.clone() }, look)
        }),
        _ => Ok(()),
    }
}
