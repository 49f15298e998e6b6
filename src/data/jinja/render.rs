//! Rendering: evaluates statements and expressions in scopes.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use chrono::NaiveDateTime;

use super::ast::{Expr, For, Kind, Literal, Macro, Name, Statement, Target};
use super::functions::Surroundings;
use super::items;
use super::operators::{binary, compare, negative, positive};
use super::problem::{Out, Res, fail, spend};
use super::text::write;
use super::value::{Closure, Loop, Scope, Value};
use super::{checks, filters, functions};

/// Maximum stack size of a rendering in bytes. A recursive macro uses some kilobytes per call, and the threads of a
/// pool have 2 MiB.
const MOST_STACK: usize = 768 << 10;

/// Returns an address near the end of the stack.
#[inline(never)]
fn here() -> usize {
    let mark = 0_u8;
    std::ptr::from_ref(&mark).addr()
}

/// How control leaves a statement within a loop.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) struct Renderer {
    /// The state that functions use.
    pub surroundings: Surroundings,
    root: Rc<Scope>,
    /// The stack address at the start of the rendering.
    base: usize,
    /// Scopes in a reference cycle with a macro.
    held: RefCell<Vec<Rc<Scope>>>,
}

impl Renderer {
    /// Renders `body` with the variables `names`.
    pub fn run(body: &[Statement], names: Vec<(Name, Value)>, now: NaiveDateTime) -> Res<String> {
        super::problem::start();
        let context = Scope::root(names);
        let root = Scope::within(&context);
        let renderer = Self {
            surroundings: Surroundings::new(now),
            root: root.clone(),
            base: here(),
            held: RefCell::default(),
        };
        let mut out = Out::default();
        let done = renderer.statements(body, &root, &mut out);
        for scope in renderer.held.take() {
            scope.clear();
        }
        renderer.surroundings.clear();
        root.clear();
        done.map(|_| out.text)
    }

    fn deep(&self) -> Res<()> {
        if self.base.abs_diff(here()) > MOST_STACK {
            return fail("it is nested too deeply; does a macro call itself endlessly?");
        }
        spend(1)
    }

    pub fn statements(&self, body: &[Statement], scope: &Rc<Scope>, out: &mut Out) -> Res<Flow> {
        for statement in body {
            self.deep()?;
            let flow = match &statement.kind {
                Kind::Text(text) => out.push(text).map(|()| Flow::Next),
                Kind::Print(expr) => {
                    self.eval(expr, scope).and_then(|value| write(&value, out)).map(|()| Flow::Next)
                }
                kind => self.block(kind, scope, out),
            };
            let flow = flow.map_err(|problem| problem.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    #[inline(never)]
    fn block(&self, kind: &Kind, scope: &Rc<Scope>, out: &mut Out) -> Res<Flow> {
        match kind {
            Kind::Text(_) | Kind::Print(_) => {}
            Kind::Break => return Ok(Flow::Break),
            Kind::Continue => return Ok(Flow::Continue),
            Kind::For(code) => {
                let items = self.eval(&code.iterable, scope)?;
                return self.for_loop(code, &items, scope, 0, out);
            }
            Kind::If(branches, otherwise) => {
                for (condition, body) in branches {
                    if self.eval(condition, scope)?.truth() {
                        return self.statements(body, scope, out);
                    }
                }
                return self.statements(otherwise, scope, out);
            }
            Kind::Set(target, expr) => {
                let value = self.eval(expr, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::SetBlock(target, filters, body) => {
                let text = Value::text(self.captured(body, &Scope::within(scope))?);
                let value = self.filtered(filters.as_ref(), text, scope)?;
                self.assign(target, value, scope)?;
            }
            Kind::Macro(code) => scope.set(&code.name, self.closure(code, scope)),
            Kind::Call(call, code) => {
                let Expr::Call(callee, args) = call else { return fail("a call block calls nothing") };
                let callee = self.eval(callee, scope)?;
                let mut args = self.arguments(args, scope)?;
                args.named.push(("caller".into(), self.closure(code, scope)));
                write(&self.call(&callee, args)?, out)?;
            }
            Kind::Filter(filters, body) => {
                let text = Value::text(self.captured(body, &Scope::within(scope))?);
                write(&self.filtered(Some(filters), text, scope)?, out)?;
            }
            Kind::With(values, body) => {
                let inner = Scope::within(scope);
                for (target, expr) in values {
                    let value = self.eval(expr, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.statements(body, &inner, out);
            }
            Kind::Scope(body) => return self.statements(body, &Scope::within(scope), out),
            Kind::Block(body) => return self.statements(body, &Scope::within(&self.root), out),
        }
        Ok(Flow::Next)
    }

    pub fn captured(&self, body: &[Statement], scope: &Rc<Scope>) -> Res<String> {
        let mut out = Out::default();
        self.statements(body, scope, &mut out)?;
        Ok(out.text)
    }

    fn closure(&self, code: &Arc<Macro>, scope: &Rc<Scope>) -> Value {
        self.held.borrow_mut().push(scope.clone());
        Value::Macro(Rc::new(Closure { code: code.clone(), scope: scope.clone() }))
    }

    /// Inserts `text` as the value of the innermost filter, which has none of its own.
    fn filtered(&self, filters: Option<&Expr>, text: Value, scope: &Rc<Scope>) -> Res<Value> {
        match filters {
            None => Ok(text),
            Some(Expr::Filter(inner, name, args)) => {
                let value = self.filtered(inner.as_deref(), text, scope)?;
                filters::apply(name, value, self.arguments(args, scope)?)
            }
            Some(_) => fail("a block is passed through something that is not a filter"),
        }
    }

    /// Runs a `for` loop over `value`; `depth0` is the recursion depth of the loop.
    pub fn for_loop(
        &self,
        code: &Arc<For>,
        value: &Value,
        scope: &Rc<Scope>,
        depth0: usize,
        out: &mut Out,
    ) -> Res<Flow> {
        let mut items = value.items()?;
        if let Some(condition) = &code.condition {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::within(scope);
                self.assign(&code.target, item.clone(), &inner)?;
                if self.eval(condition, &inner)?.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        let state = Rc::new(Loop {
            index0: Cell::new(0),
            items: Rc::new(items),
            depth0,
            changed: RefCell::new(None),
            recursive: code.recursive.then(|| (code.clone(), scope.clone())),
        });
        let name: Name = "loop".into();
        for (index, item) in state.items.iter().enumerate() {
            spend(1)?;
            state.index0.set(index);
            let inner = Scope::within(scope);
            inner.set(&name, Value::Loop(state.clone()));
            self.assign(&code.target, item.clone(), &inner)?;
            match self.statements(&code.body, &inner, out)? {
                Flow::Break => break,
                Flow::Next | Flow::Continue => {}
            }
        }
        if state.items.is_empty() {
            return self.statements(&code.otherwise, &Scope::within(scope), out);
        }
        Ok(Flow::Next)
    }

    pub fn assign(&self, target: &Target, value: Value, scope: &Rc<Scope>) -> Res<()> {
        match target {
            Target::Name(name) => scope.set(name, value),
            Target::Tuple(targets) => {
                let values = value.items()?;
                if values.len() != targets.len() {
                    return fail(format!("{} values for {} names", values.len(), targets.len()));
                }
                for (target, value) in targets.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
            Target::Attribute(name, attribute) => match scope.get(name) {
                Some(Value::Namespace(names)) => {
                    if attribute.starts_with('_') {
                        return fail(format!(
                            "a namespace cannot have the attribute {attribute}, which begins with _"
                        ));
                    }
                    let mut names = names.borrow_mut();
                    match names.iter_mut().find(|(own, _)| own == attribute) {
                        Some((_, own)) => *own = value,
                        None => names.push((attribute.clone(), value)),
                    }
                }
                _ => return fail("cannot assign attribute on non-namespace object"),
            },
        }
        Ok(())
    }

    /// Evaluates an expression.
    pub fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        self.deep()?;
        match expr {
            Expr::Literal(literal) => Ok(match literal {
                Literal::None => Value::None,
                Literal::Bool(value) => Value::Bool(*value),
                Literal::Int(value) => Value::Int(*value),
                Literal::Float(value) => Value::Float(*value),
                Literal::Str(text) => Value::text(text.as_str()),
            }),
            Expr::Name(name) => Ok(self.name(name, scope)),
            Expr::Attribute(value, name) => items::attribute(&self.eval(value, scope)?, name),
            Expr::Item(value, key) => items::item(&self.eval(value, scope)?, &self.eval(key, scope)?),
            Expr::And(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { self.eval(right, scope) } else { Ok(left) }
            }
            Expr::Or(left, right) => {
                let left = self.eval(left, scope)?;
                if left.truth() { Ok(left) } else { self.eval(right, scope) }
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval(value, scope)?.truth())),
            Expr::Binary(op, left, right) => binary(*op, &self.eval(left, scope)?, &self.eval(right, scope)?),
            other => self.eval_other(other, scope),
        }
    }

    #[inline(never)]
    fn eval_other(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        let all = |exprs: &[Expr]| exprs.iter().map(|expr| self.eval(expr, scope)).collect::<Res<Vec<_>>>();
        match expr {
            Expr::List(items) => Value::list(all(items)?),
            Expr::Tuple(items) => Value::tuple(all(items)?),
            Expr::Dict(entries) => {
                let entry =
                    |(key, value): &(Expr, Expr)| Ok((self.eval(key, scope)?, self.eval(value, scope)?));
                Value::dict(entries.iter().map(entry).collect::<Res<_>>()?)
            }
            Expr::Slice(value, parts) => {
                let value = self.eval(value, scope)?;
                let mut found = [None, None, None];
                for (found, part) in found.iter_mut().zip(parts.iter()) {
                    *found = part.as_ref().map(|part| self.eval(part, scope)).transpose()?;
                }
                items::slice(&value, found)
            }
            Expr::Call(callee, args) => {
                let callee = self.eval(callee, scope)?;
                let args = self.arguments(args, scope)?;
                self.call(&callee, args)
            }
            Expr::Filter(value, name, args) => {
                let Some(value) = value else { return fail("a filter has no value") };
                let value = self.eval(value, scope)?;
                filters::apply(name, value, self.arguments(args, scope)?)
            }
            Expr::Test(value, name, args) => {
                let value = self.eval(value, scope)?;
                checks::check(name, &value, self.arguments(args, scope)?).map(Value::Bool)
            }
            Expr::Negative(value) => negative(&self.eval(value, scope)?),
            Expr::Positive(value) => positive(&self.eval(value, scope)?),
            Expr::Concat(parts) => {
                let mut out = Out::default();
                for part in parts {
                    write(&self.eval(part, scope)?, &mut out)?;
                    super::problem::room(out.text.len())?;
                }
                Ok(Value::text(out.text))
            }
            Expr::Compare(first, others) => {
                let mut left = self.eval(first, scope)?;
                for (op, right) in others {
                    let right = self.eval(right, scope)?;
                    if !compare(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Conditional(condition, then, otherwise) => {
                match (self.eval(condition, scope)?.truth(), otherwise) {
                    (true, _) => self.eval(then, scope),
                    (false, Some(otherwise)) => self.eval(otherwise, scope),
                    (false, None) => Ok(Value::undefined(
                        "the inline if-expression evaluated to false and no else section was defined.",
                    )),
                }
            }
            _ => fail("an expression is out of place"),
        }
    }

    fn name(&self, name: &Name, scope: &Rc<Scope>) -> Value {
        match scope.get(name) {
            Some(value) => value,
            None => {
                functions::global(name).unwrap_or_else(|| Value::undefined(format!("'{name}' is undefined")))
            }
        }
    }
}
