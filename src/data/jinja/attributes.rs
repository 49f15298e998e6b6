//! Attributes of values, including methods.

use super::problem::{Res, fail};
use super::value::Value;

const DICT: &str = "get keys values items copy";
const DICT_CHANGES: &str = "clear pop popitem setdefault update fromkeys";
const LIST: &str = "count index copy";
const LIST_CHANGES: &str = "append clear pop reverse insert sort extend remove";
const STR: &str = "capitalize casefold center count endswith expandtabs find format index isalnum isalpha isascii isdecimal \
    isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip partition \
    removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip \
    swapcase title upper zfill";
const STR_OTHERS: &str = "encode format_map maketrans translate";
const NUMBER_OTHERS: &str = "as_integer_ratio bit_count bit_length conjugate denominator fromhex from_bytes hex imag is_integer \
    numerator real to_bytes";

fn among(words: &str, word: &str) -> bool {
    words.split(' ').any(|known| known == word)
}

/// Returns Python's attribute `name` of `value`, or `None` if there is none.
///
/// # Errors
/// Fails if Python has the attribute but it is not supported here.
pub(super) fn attribute(value: &Value, name: &str) -> Res<Option<Value>> {
    let method = || Ok(Some(Value::Method(std::rc::Rc::new((value.clone(), name.into())))));
    let unsafe_ = || {
        let message = format!("access to attribute '{name}' of '{}' object is unsafe.", value.type_name());
        Ok(Some(Value::undefined(message)))
    };
    if name.starts_with('_') {
        return match value {
            Value::Namespace(_) | Value::Undefined(_) => Ok(None),
            _ if name.starts_with("__") => unsafe_(),
            _ => Ok(None),
        };
    }
    match value {
        Value::Dict(_) if among(DICT, name) => method(),
        Value::Dict(_) if among(DICT_CHANGES, name) => unsafe_(),
        Value::List(_) if among(LIST, name) => method(),
        Value::List(_) if among(LIST_CHANGES, name) => unsafe_(),
        Value::Tuple(_) if among("count index", name) => method(),
        Value::Group(items) => Ok(match name {
            "grouper" => items.first().cloned(),
            "list" => items.last().cloned(),
            _ => None,
        }),
        Value::Str(_) if among(STR, name) => method(),
        Value::Markup(_) if among(STR, name) => {
            fail(format!("the method {name} of escaped text is not supported"))
        }
        Value::Str(_) | Value::Markup(_) if among(STR_OTHERS, name) => {
            fail(format!("the method {name} of strings is not supported"))
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_) if among(NUMBER_OTHERS, name) => {
            fail(format!("the attribute {name} of numbers is not supported"))
        }
        Value::Namespace(names) => {
            Ok(names.borrow().iter().find(|(own, _)| &**own == name).map(|(_, value)| value.clone()))
        }
        Value::Loop(state) => Ok(super::loops::attribute(state, name, value)),
        Value::Cycler(_) if among("next reset", name) => method(),
        Value::Cycler(state) if name == "current" => Ok(state.0.get(state.1.get()).cloned()),
        Value::Range(range) => Ok(match name {
            "start" => Some(Value::Int(range.start)),
            "step" => Some(Value::Int(range.step)),
            "stop" | "count" | "index" => {
                return fail(format!("the attribute {name} of ranges is not supported"));
            }
            _ => None,
        }),
        Value::Macro(closure) => Ok(match name {
            "name" => Some(Value::text(&*closure.code.name)),
            "arguments" => {
                Some(Value::tuple(closure.code.parameters.iter().map(|name| Value::text(&**name)).collect())?)
            }
            "catch_kwargs" => Some(Value::Bool(closure.code.uses_kwargs)),
            "catch_varargs" => Some(Value::Bool(closure.code.uses_varargs)),
            "caller" => Some(Value::Bool(closure.code.uses_caller)),
            _ => None,
        }),
        _ => Ok(None),
    }
}
