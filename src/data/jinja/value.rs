//! The values of a rendering, with the Python semantics that templates can observe.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Macro, Name};
use super::problem::{Counted, Res, fail, room};
use super::scope;

/// Names and their values.
pub(super) type Scope = scope::Scope<Value>;

/// A shared text.
pub(super) type Text = Rc<Counted<String>>;

/// The attributes of a namespace, shared and mutable.
pub(super) type Names = Rc<RefCell<Vec<(Name, Value)>>>;

/// Maximum nesting of lists.
const DEEPEST: usize = 200;

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// An undefined value, with the error message for its use.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    /// Text that is already escaped for HTML.
    Markup(Text),
    List(Items),
    Tuple(Items),
    /// The result of `groupby`: a tuple whose items are also available as `grouper` and `list`.
    Group(Items),
    Dict(Rc<Dict>),
    View(View, Rc<Dict>),
    Range(Range),
    /// A generator, which can be read once.
    Iter(Rc<RefCell<VecDeque<Value>>>),
    Namespace(Names),
    Cycler(Rc<(Vec<Value>, Cell<usize>)>),
    Joiner(Rc<(Text, Cell<bool>)>),
    Loop(Rc<Loop>),
    Macro(Rc<Closure>),
    /// A function of the environment.
    Function(&'static str),
    /// A method of a value.
    Method(Rc<(Value, Name)>),
}

/// The items of a list or a tuple, and their nesting depth.
#[derive(Clone, Debug)]
pub(super) struct Items {
    items: Rc<Counted<Vec<Value>>>,
    depth: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// Python's `range`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub start: i128,
    pub step: i128,
    pub length: usize,
}

impl Range {
    pub fn at(&self, index: usize) -> Value {
        Value::Int(self.start + self.step * index as i128)
    }
}

/// A macro and the scope in which it was defined.
#[derive(Debug)]
pub(super) struct Closure {
    pub code: Arc<Macro>,
    pub scope: Rc<Scope>,
}

/// The state of a loop.
#[derive(Debug)]
pub(super) struct Loop {
    pub index0: Cell<usize>,
    pub items: Rc<Vec<Value>>,
    pub depth0: usize,
    pub changed: RefCell<Option<Value>>,
    /// The loop and its scope, if it is recursive.
    pub recursive: Option<(Arc<super::ast::For>, Rc<Scope>)>,
}

fn deeper(depth: usize) -> Res<usize> {
    if depth >= DEEPEST {
        return fail(format!("more than {DEEPEST} nested lists or mappings"));
    }
    Ok(depth + 1)
}

impl std::ops::Deref for Items {
    type Target = [Value];

    fn deref(&self) -> &[Value] {
        &self.items.inner
    }
}

impl Items {
    pub fn new(items: Vec<Value>) -> Res<Self> {
        let bytes = items.len() * size_of::<Value>();
        room(bytes)?;
        let depth = deeper(items.iter().map(Value::depth).max().unwrap_or(0))?;
        Ok(Self { items: Rc::new(Counted::new(items, bytes)), depth })
    }
}

/// The key of a value in a mapping: equal values have equal keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(String),
    Tuple(Vec<Key>),
}

/// A mapping in insertion order.
#[derive(Debug)]
pub(super) struct Dict {
    entries: Counted<Vec<(Value, Value)>>,
    /// The index, present only for large mappings.
    index: Option<HashMap<Key, usize>>,
    depth: usize,
}

impl Dict {
    /// Builds a mapping from entries whose keys may repeat: the last value wins, at the position of the first.
    pub fn new(given: Vec<(Value, Value)>) -> Res<Self> {
        let mut entries: Vec<(Value, Value)> = Vec::with_capacity(given.len());
        let mut index: HashMap<Key, usize> = HashMap::new();
        let mut depth = 0;
        for (key, value) in given {
            depth = depth.max(value.depth());
            match index.entry(key.key()?) {
                std::collections::hash_map::Entry::Occupied(place) => entries[*place.get()].1 = value,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        Self::with(entries, Some(index), depth)
    }

    pub fn with(entries: Vec<(Value, Value)>, index: Option<HashMap<Key, usize>>, depth: usize) -> Res<Self> {
        let bytes = entries.len() * 2 * size_of::<Value>();
        room(bytes)?;
        let index = index.filter(|index| index.len() > 12);
        Ok(Self { entries: Counted::new(entries, bytes), index, depth: deeper(depth)? })
    }

    pub fn depth(&self) -> usize {
        self.depth
    }

    pub fn entries(&self) -> &[(Value, Value)] {
        &self.entries.inner
    }

    pub fn get(&self, key: &Key) -> Option<&Value> {
        match &self.index {
            Some(index) => index.get(key).map(|place| &self.entries()[*place].1),
            None => {
                let found = self.entries().iter().find(|(own, _)| match (own, key) {
                    (Value::Str(own), Key::Str(key)) => own.inner == *key,
                    (Value::Str(_), _) => false,
                    (own, key) => own.key().is_ok_and(|own| own == *key),
                });
                found.map(|(_, value)| value)
            }
        }
    }

    pub fn get_str(&self, key: &str) -> Option<&Value> {
        match &self.index {
            Some(_) => self.get(&Key::Str(key.to_owned())),
            None => {
                let same = |own: &Value| matches!(own, Value::Str(own) if own.inner == key);
                self.entries().iter().find(|(own, _)| same(own)).map(|(_, value)| value)
            }
        }
    }
}

impl Value {
    pub fn undefined(message: impl Into<Rc<str>>) -> Self {
        Self::Undefined(message.into())
    }

    pub fn text(text: impl Into<String>) -> Self {
        Self::Str(counted(text.into()))
    }

    pub fn markup(text: String) -> Self {
        Self::Markup(counted(text))
    }

    pub fn list(items: Vec<Self>) -> Res<Self> {
        Items::new(items).map(Self::List)
    }

    pub fn tuple(items: Vec<Self>) -> Res<Self> {
        Items::new(items).map(Self::Tuple)
    }

    pub fn group(items: Vec<Self>) -> Res<Self> {
        Items::new(items).map(Self::Group)
    }

    pub fn iter(items: Vec<Self>) -> Self {
        Self::Iter(Rc::new(RefCell::new(items.into())))
    }

    pub fn dict(entries: Vec<(Self, Self)>) -> Res<Self> {
        Ok(Self::Dict(Rc::new(Dict::new(entries)?)))
    }

    pub fn depth(&self) -> usize {
        match self {
            Self::List(items) | Self::Tuple(items) | Self::Group(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth(),
            Self::Method(method) => method.0.depth() + 1,
            Self::Iter(items) => 1 + items.borrow().iter().map(Self::depth).max().unwrap_or(0),
            Self::Namespace(_) | Self::Cycler(_) => DEEPEST / 2,
            _ => 0,
        }
    }

    /// Returns the text of a string, escaped or not.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(&text.inner),
            _ => None,
        }
    }

    /// Returns the value as an integer; Python's booleans are integers.
    pub fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i128::from(*value)),
            _ => None,
        }
    }

    /// Returns a number as a float.
    pub fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    pub fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    /// Returns Python's name of the type, for error messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Group(_) => "_GroupTuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Iter(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "builtin_function_or_method",
        }
    }

    /// Returns the key of the value in a mapping.
    pub fn key(&self) -> Res<Key> {
        Ok(match self {
            Self::None => Key::None,
            Self::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => Key::Int(*value as i128),
            Self::Float(value) => Key::Float(value.to_bits()),
            Self::Str(text) | Self::Markup(text) => Key::Str(text.inner.clone()),
            Self::Tuple(items) | Self::Group(items) => {
                Key::Tuple(items.iter().map(Self::key).collect::<Res<_>>()?)
            }
            other => match other.as_int() {
                Some(value) => Key::Int(value),
                None => return fail(format!("unhashable type: '{}'", other.type_name())),
            },
        })
    }
}

/// Creates a shared text whose bytes are counted.
pub(super) fn counted(text: String) -> Text {
    let bytes = text.capacity();
    Rc::new(Counted::new(text, bytes))
}
