//! The tree of a condition. Chains of operators of one rank are lists, so the depth of the tree is that of the
//! parentheses.

use serde_json::Value as Json;

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Expr {
    /// A number, a text, a boolean or null.
    Value(Json),
    /// A column or a field of one.
    Path(String),
    /// A function and its argument.
    Call(Function, Box<Expr>),
    /// The negative of a number.
    Minus(Box<Expr>),
    /// The opposite of a condition.
    Not(Box<Expr>),
    /// Numbers joined by operators of one rank, from left to right.
    Chain(Box<Expr>, Vec<(Arithmetic, Expr)>),
    /// A comparison.
    Compare(Comparison, Box<[Expr; 2]>),
    /// Conditions that must all hold.
    All(Vec<Expr>),
    /// Conditions of which one must hold.
    Any(Vec<Expr>),
}

impl Expr {
    /// Whether a path of the expression begins with the column `name`. The depth is bounded by the parser.
    pub(super) fn reads(&self, name: &str) -> bool {
        match self {
            Self::Value(_) => false,
            Self::Path(path) => path == name || path.split('.').next() == Some(name),
            Self::Call(_, of) | Self::Minus(of) | Self::Not(of) => of.reads(name),
            Self::Chain(first, rest) => first.reads(name) || rest.iter().any(|(_, of)| of.reads(name)),
            Self::Compare(_, sides) => sides.iter().any(|of| of.reads(name)),
            Self::All(all) | Self::Any(all) => all.iter().any(|of| of.reads(name)),
        }
    }
}

/// An arithmetic operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// A function of one argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Abs,
    Has,
    Len,
    Max,
    Min,
}

impl Function {
    /// Every function with its name.
    pub(super) const ALL: [(&'static str, Self); 5] =
        [("abs", Self::Abs), ("has", Self::Has), ("len", Self::Len), ("max", Self::Max), ("min", Self::Min)];
}

impl Arithmetic {
    /// The operator as it is written.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
        }
    }
}

impl Comparison {
    /// Every comparison with its sign.
    pub(super) const ALL: [(&'static str, Self); 6] = [
        ("==", Self::Equal),
        ("!=", Self::NotEqual),
        ("<", Self::Less),
        ("<=", Self::LessOrEqual),
        (">", Self::Greater),
        (">=", Self::GreaterOrEqual),
    ];

    /// The comparison as it is written.
    pub(super) fn sign(self) -> &'static str {
        Self::ALL.iter().find(|(_, comparison)| *comparison == self).map_or("", |(sign, _)| sign)
    }
}
