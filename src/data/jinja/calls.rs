//! Calls: arguments, functions, macros and recursive loops.

use std::rc::Rc;

use super::arguments::Given;
use super::ast::Args;
use super::problem::{Out, Res, fail};
use super::render::Renderer;
use super::value::{Closure, Scope, Value};
use super::{functions, methods};

impl Renderer {
    pub fn arguments(&self, args: &Args, scope: &Rc<Scope>) -> Res<Given> {
        let mut given = Given::default();
        for expr in &args.positional {
            given.positional.push(self.eval(expr, scope)?);
        }
        for (name, expr) in &args.named {
            given.named.push((name.clone(), self.eval(expr, scope)?));
        }
        if let Some(list) = &args.list {
            given.positional.extend(self.eval(list, scope)?.items()?);
        }
        if let Some(map) = &args.map {
            let Value::Dict(dict) = self.eval(map, scope)? else {
                return fail("the argument after ** must be a mapping");
            };
            for (key, value) in dict.entries() {
                let Some(key) = key.as_str() else { return fail("keywords must be strings") };
                if given.named.iter().any(|(own, _)| &**own == key) {
                    return fail(format!("got multiple values for keyword argument '{key}'"));
                }
                given.named.push((key.into(), value.clone()));
            }
        }
        Ok(given)
    }

    /// Calls a function, a macro, a method or a loop.
    pub fn call(&self, callee: &Value, args: Given) -> Res<Value> {
        match callee {
            Value::Undefined(message) => fail(&**message),
            Value::Function(name) => functions::call(&self.surroundings, name, args),
            Value::Method(method) => methods::call(&method.0, &method.1, args),
            Value::Macro(closure) => self.call_macro(closure, args),
            Value::Joiner(state) => {
                args.none("a joiner")?;
                let used = state.1.replace(true);
                Ok(if used { Value::Str(state.0.clone()) } else { Value::text("") })
            }
            Value::Loop(state) => {
                let Some((code, scope)) = &state.recursive else {
                    return fail("the loop must have the 'recursive' marker to be called recursively");
                };
                let args = args.bind("loop", &["iterable"])?;
                let items = args.required("iterable")?;
                let mut out = Out::default();
                self.for_loop(code, items, scope, state.depth0 + 1, &mut out)?;
                Ok(Value::text(out.text))
            }
            other => fail(format!("'{}' object is not callable", other.type_name())),
        }
    }

    fn call_macro(&self, closure: &Closure, args: Given) -> Res<Value> {
        let code = &closure.code;
        let scope = Scope::within(&closure.scope);
        let mut named = args.named;
        let mut take = |name: &str| {
            let place = named.iter().position(|(own, _)| &**own == name)?;
            Some(named.remove(place).1)
        };
        let mut positional = args.positional.into_iter();
        let without = code.parameters.len() - code.defaults.len();
        let mut missing = Vec::new();
        for (place, name) in code.parameters.iter().enumerate() {
            match positional.next().or_else(|| take(name)) {
                Some(value) => scope.set(name, value),
                None => missing.push((place, name)),
            }
        }
        if code.uses_caller {
            let caller = take("caller").unwrap_or_else(|| Value::undefined("No caller defined"));
            scope.set(&"caller".into(), caller);
        }
        let rest: Vec<Value> = positional.collect();
        if code.uses_varargs {
            scope.set(&"varargs".into(), Value::tuple(rest)?);
        } else if !rest.is_empty() {
            return fail(format!(
                "macro '{}' takes not more than {} argument(s)",
                code.name,
                code.parameters.len()
            ));
        }
        if code.uses_kwargs {
            let entries = named.into_iter().map(|(name, value)| (Value::text(&*name), value)).collect();
            scope.set(&"kwargs".into(), Value::dict(entries)?);
        } else if let Some((name, _)) = named.first() {
            return fail(format!("macro '{}' takes no keyword argument '{name}'", code.name));
        }
        for (place, name) in missing {
            let value = match place.checked_sub(without).and_then(|place| code.defaults.get(place)) {
                Some(default) => self.eval(default, &scope)?,
                None => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            scope.set(name, value);
        }
        self.captured(&code.body, &scope).map(Value::text)
    }
}
