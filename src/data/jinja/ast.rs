//! The syntax tree of a template.

use std::sync::Arc;

/// A name. It is shared because values and scopes also hold names.
pub(super) type Name = Arc<str>;

#[derive(Debug)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// The arguments of a call, a filter or a test.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Expr>,
    pub named: Vec<(Name, Expr)>,
    /// `*expression`.
    pub list: Option<Box<Expr>>,
    /// `**expression`.
    pub map: Option<Box<Expr>>,
}

#[derive(Debug)]
pub(super) enum Expr {
    Literal(Literal),
    Name(Name),
    List(Vec<Expr>),
    Tuple(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, Name),
    Item(Box<Expr>, Box<Expr>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Box<Args>),
    /// A filter on a value, or on the enclosing block.
    Filter(Option<Box<Expr>>, Name, Box<Args>),
    Test(Box<Expr>, Name, Box<Args>),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Binary, Box<Expr>, Box<Expr>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    /// Condition, then branch, else branch.
    Conditional(Box<Expr>, Box<Expr>, Option<Box<Expr>>),
}

/// An assignment target.
#[derive(Debug)]
pub(super) enum Target {
    Name(Name),
    Tuple(Vec<Target>),
    /// `namespace.attribute`.
    Attribute(Name, Name),
}

/// A macro, or the body of a call block.
#[derive(Debug)]
pub(super) struct Macro {
    pub name: Name,
    pub parameters: Vec<Name>,
    /// The defaults of the last parameters.
    pub defaults: Vec<Expr>,
    pub body: Vec<Statement>,
    /// Whether the body uses `caller`, `varargs` or `kwargs`.
    pub uses_caller: bool,
    pub uses_varargs: bool,
    pub uses_kwargs: bool,
}

#[derive(Debug)]
pub(super) struct For {
    pub target: Target,
    pub iterable: Expr,
    pub condition: Option<Expr>,
    pub recursive: bool,
    pub body: Vec<Statement>,
    pub otherwise: Vec<Statement>,
}

#[derive(Debug)]
pub(super) struct Statement {
    pub line: usize,
    pub kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    Text(String),
    Print(Expr),
    For(Arc<For>),
    /// Conditions with their bodies, then the else branch.
    If(Vec<(Expr, Vec<Statement>)>, Vec<Statement>),
    Set(Target, Expr),
    /// Assigns the text of a block, after optional filters.
    SetBlock(Target, Option<Expr>, Vec<Statement>),
    Macro(Arc<Macro>),
    Call(Expr, Arc<Macro>),
    Filter(Expr, Vec<Statement>),
    With(Vec<(Target, Expr)>, Vec<Statement>),
    /// A block with its own scope: `generation`, `autoescape false`.
    Scope(Vec<Statement>),
    /// A `block`, which shares the template's scope.
    Block(Vec<Statement>),
    Break,
    Continue,
}
