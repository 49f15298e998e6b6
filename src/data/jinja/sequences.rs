//! Filters on sequences and mappings.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::arguments::Given;
use super::ast::Binary;
use super::operators::{binary, equal, order};
use super::paths::{attribute, folded};
use super::problem::{Out, Res, fail, room};
use super::text::write;
use super::value::Value;

pub(super) fn apply(name: &str, value: &Value, args: Given) -> Res<Value> {
    match name {
        "join" => join(value, args),
        "first" | "last" => ends(name, value, args),
        "list" => {
            args.none("list")?;
            Value::list(value.items()?)
        }
        "items" => {
            args.none("items")?;
            match value {
                Value::Undefined(_) => Ok(Value::iter(Vec::new())),
                Value::Dict(dict) => {
                    let pair = |(key, value): &(Value, Value)| Value::tuple(vec![key.clone(), value.clone()]);
                    Ok(Value::iter(dict.entries().iter().map(pair).collect::<Res<_>>()?))
                }
                _ => fail("Can only get item pairs from a mapping."),
            }
        }
        "reverse" => {
            args.none("reverse")?;
            if let Some(text) = value.as_str() {
                return Ok(Value::text(text.chars().rev().collect::<String>()));
            }
            let mut items = value.items()?;
            items.reverse();
            // reversed() gives a list if the value has no order, and an iterator otherwise.
            if matches!(value, Value::Iter(_)) { Value::list(items) } else { Ok(Value::iter(items)) }
        }
        "sort" => sort(value, args),
        "dictsort" => dictsort(value, args),
        "unique" => unique(value, args),
        "min" | "max" => extreme(name == "min", value, args),
        "sum" => sum(value, args),
        "batch" => batch(value, args),
        "slice" => slice(value, args),
        "groupby" => groupby(value, args),
        other => fail(format!("no filter named {other:?}")),
    }
}

fn join(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("join", &["d", "attribute"])?;
    let between = args.get("d").map_or_else(|| Ok(String::new()), super::text::display)?;
    let mut out = Out::default();
    for (index, item) in value.items()?.iter().enumerate() {
        if index > 0 {
            out.push(&between)?;
        }
        match args.given("attribute") {
            Some(path) => write(&attribute(item, path, None)?, &mut out)?,
            None => write(item, &mut out)?,
        }
        room(out.text.len())?;
    }
    Ok(Value::text(out.text))
}

fn ends(name: &str, value: &Value, args: Given) -> Res<Value> {
    args.none("first and last")?;
    let found = match (name, value) {
        ("first", Value::Iter(items)) => items.borrow_mut().pop_front(),
        ("last", Value::Iter(_)) => return fail("'generator' object is not reversible"),
        ("last", Value::Undefined(_)) => return fail("'Undefined' object is not reversible"),
        ("first", Value::Str(text)) => text.inner.chars().next().map(|ch| Value::text(ch.to_string())),
        ("last", Value::Str(text)) => text.inner.chars().next_back().map(|ch| Value::text(ch.to_string())),
        ("first", Value::List(items) | Value::Tuple(items)) => items.first().cloned(),
        (_, Value::List(items) | Value::Tuple(items)) => items.last().cloned(),
        ("first", other) => other.items()?.into_iter().next(),
        (_, other) => other.items()?.pop(),
    };
    Ok(found.unwrap_or_else(|| Value::undefined(format!("No {name} item, sequence was empty."))))
}

/// Sorts stably by keys; fails if two keys cannot be compared.
fn sorted(keyed: Vec<(Vec<Value>, Value)>, reverse: bool) -> Res<Vec<Value>> {
    let before = |(a, _): &(Vec<Value>, Value), (b, _): &(Vec<Value>, Value)| {
        let found = compare_keys(a, b)?;
        Ok(if reverse { found.is_gt() } else { found.is_lt() })
    };
    Ok(merge_sort(keyed, &before)?.into_iter().map(|(_, item)| item).collect())
}

/// A stable sort with a fallible comparison. The standard library's sort may panic if the comparison is not a total
/// order.
pub(super) fn merge_sort<T>(mut items: Vec<T>, before: &impl Fn(&T, &T) -> Res<bool>) -> Res<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = merge_sort(items.split_off(items.len() / 2), before)?;
    let left = merge_sort(items, before)?;
    let mut merged = Vec::with_capacity(left.len() + right.len());
    let (mut left, mut right) = (left.into_iter().peekable(), right.into_iter().peekable());
    while let (Some(first), Some(second)) = (left.peek(), right.peek()) {
        let next = if before(second, first)? { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

fn compare_keys(a: &[Value], b: &[Value]) -> Res<Ordering> {
    for (a, b) in a.iter().zip(b) {
        if !equal(a, b)? {
            return match order(a, b, "<")? {
                Some(order) => Ok(order),
                None => fail("NaN cannot be sorted"),
            };
        }
    }
    Ok(Ordering::Equal)
}

fn sort(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("sort", &["reverse", "case_sensitive", "attribute"])?;
    let case = args.flag("case_sensitive");
    let paths: Vec<Value> = match args.given("attribute") {
        None => vec![Value::None],
        Some(path) => match path.as_str() {
            Some(text) => text.split(',').map(Value::text).collect(),
            None => vec![path.clone()],
        },
    };
    let keyed = |item: Value| {
        let key = |path| folded(attribute(&item, path, None)?, case);
        Ok((paths.iter().map(key).collect::<Res<_>>()?, item))
    };
    let keyed = value.items()?.into_iter().map(keyed).collect::<Res<_>>()?;
    Value::list(sorted(keyed, args.flag("reverse"))?)
}

fn dictsort(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("dictsort", &["case_sensitive", "by", "reverse"])?;
    let by_value = match args.text("by")?.unwrap_or("key") {
        "key" => false,
        "value" => true,
        other => return fail(format!("dictsort: by must be key or value, not {other:?}")),
    };
    let dict = match value {
        Value::Dict(dict) => dict,
        Value::Undefined(message) => return fail(&**message),
        other => return fail(format!("dictsort: a {} is not a mapping", other.type_name())),
    };
    let case = args.flag("case_sensitive");
    let keyed = |(key, value): &(Value, Value)| {
        let by = folded(if by_value { value.clone() } else { key.clone() }, case)?;
        Ok((vec![by], Value::tuple(vec![key.clone(), value.clone()])?))
    };
    Value::list(sorted(dict.entries().iter().map(keyed).collect::<Res<_>>()?, args.flag("reverse"))?)
}

fn unique(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("unique", &["case_sensitive", "attribute"])?;
    let path = args.get("attribute").cloned().unwrap_or(Value::None);
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    for item in value.items()? {
        let key = folded(attribute(&item, &path, None)?, args.flag("case_sensitive"))?;
        if seen.insert(key.key()?) {
            kept.push(item);
        }
    }
    Ok(Value::iter(kept))
}

fn extreme(smallest: bool, value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("min and max", &["case_sensitive", "attribute"])?;
    let path = args.get("attribute").cloned().unwrap_or(Value::None);
    let key = |item: &Value| folded(attribute(item, &path, None)?, args.flag("case_sensitive"));
    let mut best: Option<(Value, Value)> = None;
    for item in value.items()? {
        let own = key(&item)?;
        let better = match &best {
            None => true,
            Some((kept, _)) => {
                let wanted = if smallest { Ordering::Less } else { Ordering::Greater };
                order(&own, kept, "<")? == Some(wanted)
            }
        };
        if better {
            best = Some((own, item));
        }
    }
    Ok(best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item))
}

fn sum(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("sum", &["attribute", "start"])?;
    let mut total = args.get("start").cloned().unwrap_or(Value::Int(0));
    if total.as_str().is_some() {
        return fail("sum() can't sum strings");
    }
    for item in value.items()? {
        let item =
            args.given("attribute").map_or_else(|| Ok(item.clone()), |path| attribute(&item, path, None))?;
        total = binary(Binary::Add, &total, &item)?;
    }
    Ok(total)
}

fn count(args: &super::arguments::Bound, name: &str) -> Res<usize> {
    let value = args.required(name)?;
    match value
        .as_int()
        .and_then(|value| usize::try_from(value).ok())
        .filter(|value| (1..=1 << 20).contains(value))
    {
        Some(value) => Ok(value),
        None => args.wrong(name, value),
    }
}

fn batch(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("batch", &["linecount", "fill_with"])?;
    let size = count(&args, "linecount")?;
    let mut batches = Vec::new();
    for chunk in value.items()?.chunks(size) {
        let mut chunk = chunk.to_vec();
        if let Some(fill) = args.given("fill_with") {
            room(size * size_of::<Value>())?;
            chunk.resize(size, fill.clone());
        }
        batches.push(Value::list(chunk)?);
    }
    Ok(Value::iter(batches))
}

fn slice(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("slice", &["slices", "fill_with"])?;
    let slices = count(&args, "slices")?;
    let items = value.items()?;
    room(slices * size_of::<Value>())?;
    let (each, extra) = (items.len() / slices, items.len() % slices);
    let mut from = 0;
    let mut found = Vec::new();
    for number in 0..slices {
        let to = from + each + usize::from(number < extra);
        let mut part = items[from..to].to_vec();
        if let (Some(fill), true) = (args.given("fill_with"), number >= extra) {
            part.push(fill.clone());
        }
        found.push(Value::list(part)?);
        from = to;
    }
    Ok(Value::iter(found))
}

fn groupby(value: &Value, args: Given) -> Res<Value> {
    let args = args.bind("groupby", &["attribute", "default", "case_sensitive"])?;
    let path = args.required("attribute")?;
    let default = args.given("default");
    let case = args.flag("case_sensitive");
    let key = |item: &Value| folded(attribute(item, path, default)?, case);
    let keyed = value.items()?.into_iter().map(|item| Ok((vec![key(&item)?], item)));
    let items = sorted(keyed.collect::<Res<_>>()?, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in items {
        let own = key(&item)?;
        match groups.last_mut() {
            Some((last, group)) if equal(last, &own)? => group.push(item),
            _ => groups.push((own, vec![item])),
        }
    }
    let pair = |(_, group): (Value, Vec<Value>)| {
        let first = group.first().cloned().unwrap_or(Value::None);
        let name = attribute(&first, path, default)?;
        Value::group(vec![name, Value::list(group)?])
    };
    Value::list(groups.into_iter().map(pair).collect::<Res<_>>()?)
}
