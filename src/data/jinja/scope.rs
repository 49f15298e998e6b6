//! Nested scopes of names and values.

use std::cell::RefCell;
use std::rc::Rc;

use super::ast::Name;

/// The names of a block, and the enclosing scope.
#[derive(Debug)]
pub(super) struct Scope<V> {
    names: RefCell<Vec<(Name, V)>>,
    outer: Option<Rc<Self>>,
}

impl<V: Clone> Scope<V> {
    pub fn root(names: Vec<(Name, V)>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::new(names), outer: None })
    }

    pub fn within(outer: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { names: RefCell::default(), outer: Some(outer.clone()) })
    }

    pub fn get(&self, name: &str) -> Option<V> {
        let mut scope = self;
        loop {
            if let Some((_, value)) = scope.names.borrow().iter().rev().find(|(own, _)| &**own == name) {
                return Some(value.clone());
            }
            scope = scope.outer.as_deref()?;
        }
    }

    pub fn set(&self, name: &Name, value: V) {
        let mut names = self.names.borrow_mut();
        match names.iter_mut().find(|(own, _)| own == name) {
            Some((_, own)) => *own = value,
            None => names.push((name.clone(), value)),
        }
    }

    /// Removes all names, which breaks the reference cycle between a macro and its scope.
    pub fn clear(&self) {
        let names = std::mem::take(&mut *self.names.borrow_mut());
        drop(names);
    }
}
