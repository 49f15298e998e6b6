//! The tokens of a template: text, tag delimiters, and words within tags.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside tags.
    Text(String),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(String),
    Int(i128),
    Float(f64),
    Str(String),
    /// An operator or a bracket.
    Op(&'static str),
}
