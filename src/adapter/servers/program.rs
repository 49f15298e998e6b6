//! A program that serves adapters, and what is known of it.

/// A program.
#[derive(Clone, Copy)]
pub(super) struct Program {
    pub name: &'static str,
    /// The version whose source was read, if it has one.
    pub source: &'static str,
    /// The version that was run, the script, and the families of the bases.
    pub tested: Option<(&'static str, &'static str, &'static [&'static str])>,
}

impl Program {
    /// The basis of an answer about a kind of adapter, which a script compares with PEFT's.
    pub fn checked_of(&self, script: &str) -> String {
        match self.name {
            "PEFT" => format!("tested with PEFT {} by tests/parity/{script}", self.source),
            _ => Self { tested: None, ..*self }.checked(""),
        }
    }

    /// The basis of an answer for a family.
    pub fn checked(&self, family: &str) -> String {
        match self.tested {
            Some((version, script, families)) if families.contains(&family) => {
                format!("tested with {version} by {script}")
            }
            _ => format!(
                "from the source code{}{}",
                if self.source.is_empty() { "" } else { " of " },
                self.source
            ),
        }
    }
}
