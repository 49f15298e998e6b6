//! Tests: `value is name`.

use std::rc::Rc;

use super::arguments::Given;
use super::ast::Comparison;
use super::filter_names;
use super::operators::{binary, compare, equal};
use super::problem::{Res, fail};
use super::strings;
use super::text::display;
use super::value::Value;

const NAMES: &str = "odd even divisibleby defined undefined filter test none boolean false true integer float lower upper string \
    mapping number sequence iterable callable sameas escaped in == eq equalto != ne > gt greaterthan ge >= < lt lessthan <= le";

/// Whether there is a test of this name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.split(' ').any(|known| known == name)
}

/// Computes `value is name(...)`.
pub(super) fn check(name: &str, value: &Value, args: Given) -> Res<bool> {
    let comparison = match name {
        "==" | "eq" | "equalto" => Some(Comparison::Eq),
        "!=" | "ne" => Some(Comparison::Ne),
        ">" | "gt" | "greaterthan" => Some(Comparison::Gt),
        ">=" | "ge" => Some(Comparison::Ge),
        "<" | "lt" | "lessthan" => Some(Comparison::Lt),
        "<=" | "le" => Some(Comparison::Le),
        "in" => Some(Comparison::In),
        _ => None,
    };
    if let Some(comparison) = comparison {
        let args = args.bind("the test", &["other"])?;
        return compare(comparison, value, args.required("other")?);
    }
    match name {
        "divisibleby" => {
            let args = args.bind("divisibleby", &["num"])?;
            return equal(&binary(super::ast::Binary::Mod, value, args.required("num")?)?, &Value::Int(0));
        }
        "sameas" => {
            let args = args.bind("sameas", &["other"])?;
            return same(value, args.required("other")?);
        }
        _ if !exists(name) => return fail(format!("no test named {name:?}")),
        _ => args.none("the test")?,
    }
    Ok(match name {
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.as_float().is_some(),
        "string" => value.as_str().is_some(),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Group(_)
                | Value::Dict(_)
                | Value::Range(_)
        ),
        "iterable" => matches!(
            value,
            Value::Undefined(_)
                | Value::Str(_)
                | Value::Markup(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Group(_)
                | Value::Dict(_)
                | Value::Range(_)
                | Value::View(..)
                | Value::Iter(_)
                | Value::Loop(_)
        ),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Function(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
        ),
        "escaped" => matches!(value, Value::Markup(_)),
        "lower" => strings::is_lower(&display(value)?),
        "upper" => strings::is_upper(&display(value)?),
        "odd" | "even" => {
            let rest = binary(super::ast::Binary::Mod, value, &Value::Int(2))?;
            equal(&rest, &Value::Int(i128::from(name == "odd")))?
        }
        "filter" => value.as_str().is_some_and(filter_names::exists),
        "test" => value.as_str().is_some_and(exists),
        other => return fail(format!("no test named {other:?}")),
    })
}

/// Python's `is`, in cases that do not depend on how CPython stores a value.
fn same(left: &Value, right: &Value) -> Res<bool> {
    Ok(match (left, right) {
        (Value::None, Value::None) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) if a == b && (-5..=256).contains(a) => true,
        (Value::Int(a), Value::Int(b)) if a != b => false,
        (Value::Str(a), Value::Str(b)) if a.inner != b.inner => false,
        (Value::Str(a), Value::Str(b)) if Rc::ptr_eq(a, b) => true,
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        (a, b) if a.type_name() != b.type_name() => false,
        (a, _) => {
            return fail(format!("`sameas` of two values of the type {} is not supported", a.type_name()));
        }
    })
}
