//! Global functions that every template can call.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::rc::Rc;

use chrono::NaiveDateTime;

use super::arguments::Given;
use super::ast::Name;
use super::problem::{Res, fail};
use super::text::display;
use super::value::{Names, Range, Value, counted};

const NAMES: [&str; 7] =
    ["range", "dict", "namespace", "cycler", "joiner", "raise_exception", "strftime_now"];

/// The state that functions use in addition to their arguments.
pub(super) struct Surroundings {
    /// The time that `strftime_now` returns.
    now: NaiveDateTime,
    /// The namespaces. They may contain themselves.
    spaces: RefCell<Vec<Names>>,
}

impl Surroundings {
    pub fn new(now: NaiveDateTime) -> Self {
        Self { now, spaces: RefCell::default() }
    }

    /// Creates a namespace that is emptied when the rendering ends.
    fn namespace(&self, names: Vec<(Name, Value)>) -> Value {
        let space = Rc::new(RefCell::new(names));
        self.spaces.borrow_mut().push(space.clone());
        Value::Namespace(space)
    }

    /// Empties all namespaces.
    pub fn clear(&self) {
        for space in self.spaces.take() {
            let names = std::mem::take(&mut *space.borrow_mut());
            drop(names);
        }
    }
}

/// Returns the function of this name.
pub(super) fn global(name: &str) -> Option<Value> {
    NAMES.into_iter().chain(["lipsum"]).find(|known| *known == name).map(Value::Function)
}

/// Calls the function of this name.
pub(super) fn call(surroundings: &Surroundings, name: &str, args: Given) -> Res<Value> {
    match name {
        "range" => range(args),
        "dict" => pairs(args).and_then(Value::dict),
        "namespace" => {
            let mut names: Vec<(Name, Value)> = Vec::new();
            for (name, value) in pairs(args)? {
                let Some(name) = name.as_str() else { return fail("names of a namespace must be strings") };
                if name.starts_with('_') {
                    return fail(format!(
                        "a namespace cannot have the attribute {name}, which begins with _"
                    ));
                }
                match names.iter_mut().find(|(own, _)| &**own == name) {
                    Some((_, own)) => *own = value,
                    None => names.push((name.into(), value)),
                }
            }
            Ok(surroundings.namespace(names))
        }
        "cycler" => {
            if args.positional.is_empty() || !args.named.is_empty() {
                return fail("a cycler needs at least one item");
            }
            Ok(Value::Cycler(Rc::new((args.positional, Cell::new(0)))))
        }
        "joiner" => {
            let args = args.bind("joiner", &["sep"])?;
            let sep = args.get("sep").map_or_else(|| Ok(", ".to_owned()), display)?;
            Ok(Value::Joiner(Rc::new((counted(sep), Cell::new(false)))))
        }
        "raise_exception" => {
            let args = args.bind("raise_exception", &["message"])?;
            fail(args.shown("message")?)
        }
        "strftime_now" => {
            let args = args.bind("strftime_now", &["format"])?;
            let Some(format) = args.text("format")? else { return fail("strftime_now needs a format") };
            strftime(surroundings.now, format).map(Value::text)
        }
        other => fail(format!("{other}() returns something different each time and is not supported")),
    }
}

fn range(args: Given) -> Res<Value> {
    let args = args.bind("range", &["start", "stop", "step"])?;
    let number = |name: &str| match args.get(name) {
        None => Ok(None),
        Some(value) => match value.as_int() {
            Some(value) if value.unsigned_abs() < 1 << 100 => Ok(Some(value)),
            Some(_) => fail("a range of such large numbers is not supported"),
            None => fail(format!("'{}' object cannot be interpreted as an integer", value.type_name())),
        },
    };
    let (start, stop) = match (number("start")?, number("stop")?) {
        (Some(start), Some(stop)) => (start, stop),
        (Some(stop), None) => (0, stop),
        _ => return fail("range expected at least 1 argument, got 0"),
    };
    let step = number("step")?.unwrap_or(1);
    if step == 0 {
        return fail("range() arg 3 must not be zero");
    }
    let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
    let size = step.saturating_abs();
    let length = if distance <= 0 { 0 } else { (distance - 1) / size + 1 };
    match usize::try_from(length) {
        Ok(length) if length <= 100_000 => Ok(Value::Range(Range { start, step, length })),
        _ => fail("range too big: the sandbox blocks ranges larger than 100000"),
    }
}

/// Returns the keys and values of `dict(...)`.
fn pairs(args: Given) -> Res<Vec<(Value, Value)>> {
    let mut pairs = Vec::new();
    if args.positional.len() > 1 {
        return fail(format!("dict expected at most 1 argument, got {}", args.positional.len()));
    }
    match args.positional.first() {
        None => {}
        Some(Value::Dict(dict)) => pairs.extend(dict.entries().iter().cloned()),
        Some(Value::Undefined(message)) => return fail(&**message),
        Some(list) => {
            for pair in list.items()? {
                match &pair.items()?[..] {
                    [key, value] => pairs.push((key.clone(), value.clone())),
                    other => {
                        return fail(format!("an element of dict() has {} items, expected 2", other.len()));
                    }
                }
            }
        }
    }
    pairs.extend(args.named.into_iter().map(|(name, value)| (Value::text(&*name), value)));
    Ok(pairs)
}

/// `datetime.strftime`. chrono uses the same format letters, except for microseconds and time zones.
fn strftime(now: NaiveDateTime, format: &str) -> Res<String> {
    let mut adapted = String::new();
    let mut chars = format.chars();
    while let Some(ch) = chars.next() {
        if ch != '%' {
            adapted.push(ch);
            continue;
        }
        match chars.next() {
            Some('f') => adapted.push_str("%6f"),
            Some('Z' | 'z') => {}
            Some('-') => {
                adapted.push_str("%-");
                adapted.extend(chars.next());
            }
            Some(letter) if "aAbBcCdDeFgGhHIjklmMnpPrRStTuUVwWxXyY%".contains(letter) => {
                adapted.extend(['%', letter])
            }
            other => {
                let letter = other.map(String::from).unwrap_or_default();
                return fail(format!("strftime_now does not know %{letter}"));
            }
        }
    }
    let mut text = String::new();
    match write!(text, "{}", now.format(&adapted)) {
        Ok(()) => Ok(text),
        Err(_) => fail(format!("strftime_now does not know the format {format:?}")),
    }
}
