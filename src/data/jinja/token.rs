//! What a template is made of: text, marks of tags, and words within tags.

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text outside of tags.
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
