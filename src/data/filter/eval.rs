//! The value of a condition for a row.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::super::columns::find;
use super::super::fields::{Fields, described, named};
use super::ast::{Arithmetic, Comparison, Expr, Function};

/// Evaluates an expression. The recursion is as deep as the tree, which its parser bounds.
pub(super) fn value(expr: &Expr, row: &Fields) -> Result<Json, String> {
    match expr {
        Expr::Value(value) => Ok(value.clone()),
        Expr::Path(path) => column(path, row),
        Expr::Call(Function::Has, argument) => match argument.as_ref() {
            Expr::Path(path) => Ok(column(path, row).is_ok_and(|value| !value.is_null()).into()),
            _ => Err("data.filter: has needs the name of a column".into()),
        },
        Expr::Call(function, argument) => call(*function, &value(argument, row)?),
        Expr::Minus(inner) => {
            let inner = value(inner, row)?;
            let number = inner
                .as_f64()
                .ok_or_else(|| format!("data.filter: - needs a number, found {}", described(&inner)))?;
            Ok((-number).into())
        }
        Expr::Not(inner) => Ok((!condition("not needs a condition", inner, row)?).into()),
        Expr::Chain(first, rest) => rest.iter().try_fold(value(first, row)?, |left, (operator, right)| {
            joined(*operator, &left, &value(right, row)?)
        }),
        Expr::Compare(comparison, sides) => {
            compared(*comparison, &value(&sides[0], row)?, &value(&sides[1], row)?).map(Json::Bool)
        }
        Expr::All(list) => {
            for inner in list {
                if !condition("and needs conditions", inner, row)? {
                    return Ok(false.into());
                }
            }
            Ok(true.into())
        }
        Expr::Any(list) => {
            for inner in list {
                if condition("or needs conditions", inner, row)? {
                    return Ok(true.into());
                }
            }
            Ok(false.into())
        }
    }
}

/// Returns a column, a field of one, or the list of that field in all entries of a list.
fn column(path: &str, row: &Fields) -> Result<Json, String> {
    if let Some(value) = find(row, path) {
        return Ok(value.clone());
    }
    let entries = path.rsplit_once('.').and_then(|(list, field)| {
        find(row, list)?.as_array()?.iter().map(|entry| entry.get(field).cloned()).collect::<Option<Vec<_>>>()
    });
    entries
        .map(Json::Array)
        .ok_or_else(|| format!("data.filter: no column `{path}`; the row has {}", named(row)))
}

fn condition(what: &str, expr: &Expr, row: &Fields) -> Result<bool, String> {
    let found = value(expr, row)?;
    found.as_bool().ok_or_else(|| format!("data.filter: {what}, found {}", described(&found)))
}

fn joined(operator: Arithmetic, left: &Json, right: &Json) -> Result<Json, String> {
    let sign = operator.sign();
    if let (Arithmetic::Add, Json::String(left), Json::String(right)) = (operator, left, right) {
        return Ok(format!("{left}{right}").into());
    }
    let (Some(x), Some(y)) = (left.as_f64(), right.as_f64()) else {
        let what = if operator == Arithmetic::Add { "two numbers or two texts" } else { "numbers" };
        return Err(format!(
            "data.filter: {sign} needs {what}, found {} and {}",
            described(left),
            described(right)
        ));
    };
    let result = match operator {
        Arithmetic::Add => x + y,
        Arithmetic::Subtract => x - y,
        Arithmetic::Multiply => x * y,
        Arithmetic::Divide => x / y,
    };
    if !result.is_finite() {
        return Err(format!("data.filter: {x} {sign} {y} is a number that is not finite"));
    }
    Ok(result.into())
}

fn compared(comparison: Comparison, left: &Json, right: &Json) -> Result<bool, String> {
    let found = || format!("found {} and {}", described(left), described(right));
    let order = match (left, right) {
        (Json::Number(x), Json::Number(y)) => x.as_f64().partial_cmp(&y.as_f64()),
        (Json::String(x), Json::String(y)) => Some(x.cmp(y)),
        _ => None,
    };
    match (comparison, order) {
        (Comparison::Equal, Some(order)) => Ok(order.is_eq()),
        (Comparison::NotEqual, Some(order)) => Ok(order.is_ne()),
        (Comparison::Less, Some(order)) => Ok(order == Ordering::Less),
        (Comparison::LessOrEqual, Some(order)) => Ok(order.is_le()),
        (Comparison::Greater, Some(order)) => Ok(order == Ordering::Greater),
        (Comparison::GreaterOrEqual, Some(order)) => Ok(order.is_ge()),
        (Comparison::Equal | Comparison::NotEqual, None) => {
            let comparable = left.is_null() || right.is_null() || left.is_boolean() && right.is_boolean();
            if !comparable {
                return Err(format!(
                    "data.filter: {} compares values of one type, {}",
                    comparison.sign(),
                    found()
                ));
            }
            Ok((left == right) == (comparison == Comparison::Equal))
        }
        (_, None) => {
            Err(format!("data.filter: {} compares two numbers or two texts, {}", comparison.sign(), found()))
        }
    }
}

fn call(function: Function, argument: &Json) -> Result<Json, String> {
    let wrong = |what: &str| format!("data.filter: {what}, found {}", described(argument));
    let numbers = || {
        let list = argument.as_array().filter(|list| !list.is_empty())?;
        list.iter().map(Json::as_f64).collect::<Option<Vec<_>>>()
    };
    match function {
        Function::Len => match argument {
            Json::String(text) => Ok(text.chars().count().into()),
            Json::Array(list) => Ok(list.len().into()),
            _ => Err(wrong("len needs a text or a list")),
        },
        Function::Abs => Ok(argument.as_f64().ok_or_else(|| wrong("abs needs a number"))?.abs().into()),
        Function::Max => {
            let numbers = numbers().ok_or_else(|| wrong("max needs a list of numbers"))?;
            Ok(numbers.into_iter().fold(f64::NEG_INFINITY, f64::max).into())
        }
        Function::Min => {
            let numbers = numbers().ok_or_else(|| wrong("min needs a list of numbers"))?;
            Ok(numbers.into_iter().fold(f64::INFINITY, f64::min).into())
        }
        Function::Has => Ok((!argument.is_null()).into()),
    }
}
