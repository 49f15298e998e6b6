//! The variable `loop`.

use std::rc::Rc;

use super::arguments::Given;
use super::operators::equal;
use super::problem::{Res, fail};
use super::value::{Loop, Value};

/// Returns an attribute of `loop`.
pub(super) fn attribute(state: &Rc<Loop>, name: &str, value: &Value) -> Option<Value> {
    let index = state.index0.get();
    let length = state.items.len();
    let number = |value: usize| Some(Value::Int(value as i128));
    match name {
        "index" => number(index + 1),
        "index0" => number(index),
        "revindex" => number(length - index),
        "revindex0" => number(length - index - 1),
        "first" => Some(Value::Bool(index == 0)),
        "last" => Some(Value::Bool(index + 1 == length)),
        "length" => number(length),
        "depth" => number(state.depth0 + 1),
        "depth0" => number(state.depth0),
        "previtem" => Some(match index.checked_sub(1).and_then(|index| state.items.get(index)) {
            Some(item) => item.clone(),
            None => Value::undefined("there is no previous item"),
        }),
        "nextitem" => Some(
            state.items.get(index + 1).cloned().unwrap_or_else(|| Value::undefined("there is no next item")),
        ),
        "cycle" | "changed" => Some(Value::Method(Rc::new((value.clone(), name.into())))),
        _ => None,
    }
}

/// Calls `loop.cycle(...)` or `loop.changed(...)`.
pub(super) fn call(state: &Rc<Loop>, name: &str, args: Given) -> Res<Value> {
    if !args.named.is_empty() {
        return fail(format!("loop.{name} takes no keyword arguments"));
    }
    if name == "cycle" {
        let count = args.positional.len();
        if count == 0 {
            return fail("no items for cycling given");
        }
        return Ok(args.positional[state.index0.get() % count].clone());
    }
    let now = Value::tuple(args.positional)?;
    let before = state.changed.borrow().clone();
    let changed = match before {
        Some(before) => !equal(&before, &now)?,
        None => true,
    };
    *state.changed.borrow_mut() = Some(now);
    Ok(Value::Bool(changed))
}
